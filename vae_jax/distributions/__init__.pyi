from .base import (
    Density as Density,
    Distribution as Distribution,
    Shape as Shape,
)
from .bernoulli import Bernoulli as Bernoulli
from .deterministic import Deterministic as Deterministic
from .drawers import (
    from_means as from_means,
    from_posterior as from_posterior,
    from_prior as from_prior,
    from_values as from_values,
)
from .kl import kl_divergence as kl_divergence
from .latent import Batch as Batch, Draw as Draw, Latent as Latent, Observed as Observed
from .logistic_mixture import DiscretizedLogisticMixture as DiscretizedLogisticMixture
from .normal import Normal as Normal, standard_normal as standard_normal
