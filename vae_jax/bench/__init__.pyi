from .comparison import compare as compare, context_differences as context_differences, read_report as read_report
from .cost_analysis import (
    Product as Product,
    matrix_products as matrix_products,
    memory as memory,
    tree_bytes as tree_bytes,
)
from .figures import draw_benchmark as draw_benchmark
from .plan import (
    check_memory as check_memory,
    plan_experiment as plan_experiment,
    plan_training as plan_training,
)
from .probes import bandwidth_probe as bandwidth_probe, matrix_probe as matrix_probe
from .tables import (
    GIB as GIB,
    print_comparison as print_comparison,
    print_plan as print_plan,
    print_report as print_report,
)
from .timing import run_benchmark as run_benchmark, run_rounds as run_rounds
from .variants import DEFAULT as DEFAULT, check_names as check_names
