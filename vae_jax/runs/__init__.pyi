from .callbacks import (
    StopWhen as StopWhen,
    default_callbacks as default_callbacks,
    recording_callbacks as recording_callbacks,
)
from .config_file import StoredRun as StoredRun, read_stored_run as read_stored_run
from .evaluation.annealed_likelihood import (
    AnnealedEvaluation as AnnealedEvaluation,
    evaluate_annealed as evaluate_annealed,
)
from .evaluation.evaluation import (
    Interrupted as Interrupted,
    evaluate_run as evaluate_run,
    evaluation_protocol as evaluation_protocol,
    likelihood_warnings as likelihood_warnings,
    make_evaluator as make_evaluator,
    read_evaluation as read_evaluation,
)
from .evaluation.further_estimates import further_estimates as further_estimates, merge_estimate as merge_estimate
from .evaluation.inference_gap import evaluate_inference_gap as evaluate_inference_gap
from .evaluation.scores import (
    identify_examples as identify_examples,
    read_scores as read_scores,
    write_scores as write_scores,
)
from .evaluation.written_results import lock_results as lock_results, write_evaluation as write_evaluation
from .experiment.experiment import (
    Experiment as Experiment,
    at_numbers as at_numbers,
    build_experiment as build_experiment,
)
from .experiment.labels import (
    condition_dim as condition_dim,
    labelled_examples as labelled_examples,
    num_classes as num_classes,
    spread_classes as spread_classes,
)
from .experiment.memory import reduction_note as reduction_note
from .experiment.program_cache import cache_on_experiment as cache_on_experiment
from .experiment.programs import (
    build_program as build_program,
    build_step as build_step,
    compile_program as compile_program,
    data_shapes as data_shapes,
    is_streamed as is_streamed,
    num_microbatches as num_microbatches,
    place_initial_state as place_initial_state,
    profile_to as profile_to,
    state_shapes as state_shapes,
    with_training as with_training,
)
from .figures import image_grids as image_grids, plots as plots
from .figures.curves import Panel as Panel, metric_panels as metric_panels, save_rate_distortion as save_rate_distortion
from .figures.layer_figures import plot_draws as plot_draws, plot_layers as plot_layers
from .generation.codes import CodeReader as CodeReader
from .generation.decoding import (
    code_grid as code_grid,
    conditions_of as conditions_of,
    decode_codes as decode_codes,
    encode_examples as encode_examples,
    interpolate_linearly as interpolate_linearly,
    layer_shapes as layer_shapes,
)
from .generation.fitted_prior import FitSettings as FitSettings, FittedPrior as FittedPrior, fit_prior as fit_prior
from .generation.layers import (
    LayerNumbers as LayerNumbers,
    decode_top_layers as decode_top_layers,
    layer_numbers as layer_numbers,
    layers_from_top as layers_from_top,
)
from .generation.sampling import (
    sample_examples as sample_examples,
    sample_means as sample_means,
    sample_posterior as sample_posterior,
    sample_prior as sample_prior,
    sample_reconstructions as sample_reconstructions,
)
from .members import (
    Member as Member,
    group_members as group_members,
    make_members as make_members,
    read_failure as read_failure,
)
from .opening import (
    OpenedRun as OpenedRun,
    check_data as check_data,
    check_experiment as check_experiment,
    log_notes as log_notes,
    open_run as open_run,
    prepare_experiment as prepare_experiment,
    require_in_memory as require_in_memory,
)
from .prior_files import (
    read_fitted_prior as read_fitted_prior,
    write_fitted_prior as write_fitted_prior,
)
from .restoring import restore as restore, restored_params as restored_params
from .storage.checkpoints import Checkpoints as Checkpoints
from .storage.directory import RunDirectory as RunDirectory
from .storage.loggers import print_json as print_json, read_metrics as read_metrics
from .sweep import (
    Trained as Trained,
    fit_group as fit_group,
    fit_sweep as fit_sweep,
    prepare_members as prepare_members,
)
from .sweep_summary import (
    evaluate_members as evaluate_members,
    markdown_table as markdown_table,
    mean_and_sd as mean_and_sd,
    summarize as summarize,
)
from .train_loop import TrainResult as TrainResult, fit as fit
from .training_run import Callback as Callback, TrainingRun as TrainingRun
