from .factors import (
    DCI as DCI,
    attribute_predictability as attribute_predictability,
    dci as dci,
    disentanglement_completeness as disentanglement_completeness,
    factor_metrics as factor_metrics,
    factor_vae_score as factor_vae_score,
    mutual_information as mutual_information,
    mutual_information_gap as mutual_information_gap,
)
from .neighbors import neighbor_accuracy as neighbor_accuracy
from .probes import LinearProbe as LinearProbe, fit_linear_probe as fit_linear_probe
from .samples import (
    KernelDistance as KernelDistance,
    density_coverage as density_coverage,
    frechet_distance as frechet_distance,
    kernel_distance as kernel_distance,
    precision_recall as precision_recall,
    sample_metrics as sample_metrics,
)
