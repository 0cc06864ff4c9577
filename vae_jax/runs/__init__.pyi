from . import image_grids as image_grids, plots as plots
from .changes import describe_changes as describe_changes
from .checkpoints import Checkpoints as Checkpoints
from .config_file import read_description as read_description, write_config as write_config
from .curves import save_rate_distortion as save_rate_distortion
from .decoding import (
    decode_images as decode_images,
    encode_images as encode_images,
    interpolate_linearly as interpolate_linearly,
    sample_prior as sample_prior,
)
from .evaluation import (
    EVALUATION_FILE as EVALUATION_FILE,
    Interrupted as Interrupted,
    evaluate_run as evaluate_run,
    evaluation_protocol as evaluation_protocol,
    read_evaluation as read_evaluation,
)
from .input_pipeline import open_input_pipeline as open_input_pipeline
from .loggers import print_json as print_json, read_metrics as read_metrics
from .members import Member as Member, group_members as group_members, make_members as make_members
from .opening import (
    check_images as check_images,
    open_run as open_run,
    prepare_run as prepare_run,
    require_in_memory as require_in_memory,
)
from .programs import (
    build_program as build_program,
    build_step as build_step,
    compile_program as compile_program,
    profile_to as profile_to,
)
from .restoring import evaluation_params as evaluation_params, restore as restore, restored_params as restored_params
from .run import Run as Run, evaluation_key as evaluation_key
from .sweep import Trained as Trained, fit_group as fit_group, prepare_members as prepare_members
from .sweep_summary import (
    evaluate_members as evaluate_members,
    markdown_table as markdown_table,
    mean_and_sd as mean_and_sd,
    summarize as summarize,
)
from .train_loop import TrainResult as TrainResult, fit as fit
