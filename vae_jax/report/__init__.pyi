from .command import training_command as training_command
from .comparison import paired_difference as paired_difference
from .contents import RunContents as RunContents, model_name as model_name, read_contents as read_contents
from .files import write_comparison as write_comparison, write_report as write_report
