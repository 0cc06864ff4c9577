"""One distribution of each type with small parameters, and `sample` and `log_prob` as compiled programs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax.distributions.bernoulli import Bernoulli
from vae_jax.distributions.categorical import Categorical
from vae_jax.distributions.continuous_bernoulli import ContinuousBernoulli
from vae_jax.distributions.counts import NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial
from vae_jax.distributions.deterministic import Deterministic
from vae_jax.distributions.logistic_mixture import DiscretizedLogisticMixture
from vae_jax.distributions.normal import Normal
from vae_jax.distributions.student_t import StudentT

B, D, M = 8, 5, 3  # as many examples as devices
IMAGE = (4, 3)  # H, W


def normals(seed, *shape, scale=1.0):
    return scale * jax.random.normal(jax.random.key(seed), shape)


def mixture(seed, *batch, channels=1, components=M):
    pairs = channels * (channels - 1) // 2
    numbers = normals(seed, *batch, components * (1 + 2 * channels + pairs)) - 0.5
    ends = (components, components * (1 + channels), components * (1 + 2 * channels))
    logits, loc, log_scale, coefficients = jnp.split(numbers, ends, axis=-1)
    return DiscretizedLogisticMixture(
        logits,
        loc.reshape(*batch, components, channels),
        log_scale.reshape(*batch, components, channels),
        jnp.tanh(coefficients.reshape(*batch, components, pairs)),
    )


_FAMILY = {
    "normal": lambda: Normal(normals(0, B, D), normals(1, B, D)),
    "deterministic": lambda: Deterministic(normals(0, B, D)),
    "bernoulli": lambda: Bernoulli(normals(0, B, *IMAGE, 2)),
    "categorical": lambda: Categorical(normals(0, B, 12, 4)),
    "continuous bernoulli": lambda: ContinuousBernoulli(normals(0, B, *IMAGE, 2, scale=3.0)),
    "student t": lambda: StudentT(normals(0, B, D), normals(1, B, D), normals(2, B, D, scale=0.3) + 2.5),
    "poisson": lambda: Poisson(normals(0, B, 3) + 3),
    "negative binomial": lambda: NegativeBinomial(normals(0, B, 3) + 4, normals(1, B, 3) + 1),
    "zero-inflated negative binomial": lambda: ZeroInflatedNegativeBinomial(
        normals(0, B, 3) + 4, normals(1, B, 3) + 1, normals(2, B, 3) - 3
    ),
    "grey mixture": lambda: mixture(0, B, *IMAGE),
    "colour mixture": lambda: mixture(0, B, *IMAGE, channels=3),
}
FAMILY = {name: functools.cache(make) for name, make in _FAMILY.items()}
WITH_DENSITY = [name for name in FAMILY if name != "deterministic"]


@jax.jit
def log_prob(density, value):
    return density.log_prob(value)


@functools.partial(jax.jit, static_argnums=2)
def sample(density, key, sample_shape=()):
    return density.sample(key, sample_shape)


def gather(array):
    """A sharded array as NumPy, so that arrays on different devices can be compared."""
    return np.asarray(jax.device_get(array))
