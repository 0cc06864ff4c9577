from .affine import DiagonalAffine as DiagonalAffine, LowerCholeskyAffine as LowerCholeskyAffine
from .autoregressive import (
    MaskedAutoregressive as MaskedAutoregressive,
    autoregressive_masks as autoregressive_masks,
)
from .autoregressive_codes import AutoregressiveCodes as AutoregressiveCodes
from .base import (
    Density as Density,
    Distribution as Distribution,
    Shape as Shape,
)
from .bernoulli import Bernoulli as Bernoulli
from .categorical import Categorical as Categorical
from .codes import (
    CategoricalCodes as CategoricalCodes,
    ChosenCodes as ChosenCodes,
    GumbelCodes as GumbelCodes,
    GumbelNoise as GumbelNoise,
    UniformCodes as UniformCodes,
)
from .conditioners import Conditioner as Conditioner
from .continuous_bernoulli import ContinuousBernoulli as ContinuousBernoulli
from .counts import (
    NegativeBinomial as NegativeBinomial,
    Poisson as Poisson,
    ZeroInflatedNegativeBinomial as ZeroInflatedNegativeBinomial,
)
from .coupling import (
    AffineCoupling as AffineCoupling,
    SplineCoupling as SplineCoupling,
    coupling_order as coupling_order,
)
from .deterministic import Deterministic as Deterministic
from .drawers import (
    from_means as from_means,
    from_posterior as from_posterior,
    from_prior as from_prior,
    from_top_layers as from_top_layers,
    from_values as from_values,
)
from .flow import Flow as Flow, Inverse as Inverse, Reverse as Reverse, Transform as Transform
from .gaussian_mixture import GaussianMixture as GaussianMixture
from .kl import kl_divergence as kl_divergence
from .latent import (
    Batch as Batch,
    Draw as Draw,
    Latent as Latent,
    Observed as Observed,
    Variables as Variables,
    as_variables as as_variables,
    label_mask as label_mask,
    refuse_flax_errors as refuse_flax_errors,
)
from .logistic_mixture import DiscretizedLogisticMixture as DiscretizedLogisticMixture
from .normal import Normal as Normal, standard_normal as standard_normal
from .planar import Planar as Planar
from .reshaped import Reshaped as Reshaped
from .splines import rational_quadratic as rational_quadratic
from .student_t import StudentT as StudentT
