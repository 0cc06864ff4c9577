from .aggregate import (
    beta_tc as beta_tc,
    info_vae as info_vae,
    kl_decomposition as kl_decomposition,
    squared_mmd as squared_mmd,
)
from .annealing import (
    Annealed as Annealed,
    Annealing as Annealing,
    annealed_log_likelihood as annealed_log_likelihood,
    bidirectional_bounds as bidirectional_bounds,
)
from .bound import (
    Metrics as Metrics,
    Params as Params,
    batch_size as batch_size,
    bound_parts as bound_parts,
    classify as classify,
    decode as decode,
    encode as encode,
    loss_and_statistics as loss_and_statistics,
    negative_bound as negative_bound,
    sample_terms as sample_terms,
)
from .elbos import (
    capacity as capacity,
    elbo as elbo,
    free_bits as free_bits,
    reconstruction as reconstruction,
    sampled_elbo as sampled_elbo,
)
from .estimators import (
    Estimator as Estimator,
    EstimatorConfig as EstimatorConfig,
    doubly_reparameterized as doubly_reparameterized,
    pathwise as pathwise,
    sticking_the_landing as sticking_the_landing,
)
from .gradient_statistics import (
    GradientStatistics as GradientStatistics,
    gradient_statistics as gradient_statistics,
    signal_to_noise as signal_to_noise,
)
from .importance import (
    ciwae as ciwae,
    cubo as cubo,
    iwae as iwae,
    miwae as miwae,
    negative_cubo as negative_cubo,
    renyi as renyi,
)
from .inference_gap import (
    InferenceGap as InferenceGap,
    PosteriorOptimization as PosteriorOptimization,
    inference_gap as inference_gap,
)
from .labels import (
    Bounds as Bounds,
    known_labels as known_labels,
    label_weights as label_weights,
    sum_over_labels as sum_over_labels,
    with_label as with_label,
)
from .likelihood import (
    Estimate as Estimate,
    importance_estimate as importance_estimate,
    log_likelihood as log_likelihood,
)
from .objectives import ObjectiveConfig as ObjectiveConfig, WeightedConfig as WeightedConfig
from .pareto import RELIABLE as RELIABLE, pareto_shape as pareto_shape
from .terms import (
    Objective as Objective,
    Pair as Pair,
    Statistics as Statistics,
    Terms as Terms,
    bind as bind,
    log_p as log_p,
    log_weights as log_weights,
)
