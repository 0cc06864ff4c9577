"""distributions.normal."""

import dataclasses

import chex
import jax
import jax.numpy as jnp

from vae_jax import random
from vae_jax.distributions.base import LOG_2PI, Array, Shape, event_ndims_field, expand, joint_shape, sum_event


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Normal:
    """Independent Gaussians N(loc, σ²) with σ = exp(log_scale).

    Attributes:
      loc: `[*batch, *event]`, the means.
      log_scale: the same shape, log σ; each number's log density and gradient are finite for |log σ| ≤ 40 and
        |z - loc| ≤ 40.
      event_ndims: how many trailing axes form one observation.
    """

    loc: Array
    log_scale: Array
    event_ndims: int = event_ndims_field(1)

    def sample(self, key: random.Key, sample_shape: Shape = ()) -> Array:
        """Draws z = loc + σ·e with e ~ N(0, I), through which gradients flow.

        Returns `[*sample_shape, *batch, *event]`. Kingma & Welling, Auto-Encoding Variational Bayes, 2014.
        """
        chex.assert_equal_shape([self.loc, self.log_scale])
        shape = (*sample_shape, *self.loc.shape)
        loc, scale = expand(shape, self.loc, jnp.exp(self.log_scale))
        rows = len(shape) - self.event_ndims - 1  # the axis of the examples
        return loc + scale * random.normal(key, shape, self.loc.dtype, axis=rows)

    def log_prob(self, value: Array) -> Array:
        """Returns Σ −½((z − loc)/σ)² − log σ − ½ log 2π over the event, in nats.

        Raises ValueError where `value` and `loc` differ by more than leading axes.
        """
        chex.assert_equal_shape([self.loc, self.log_scale])
        chex.assert_type(value, float)
        shape = joint_shape(self.event_ndims, value.shape, self.loc.shape)
        value, loc, log_scale = expand(shape, value, self.loc, self.log_scale)
        standardised = (value - loc) * jnp.exp(-log_scale)
        return sum_event(-0.5 * (standardised**2 + LOG_2PI) - log_scale, self.event_ndims)

    def mean(self) -> Array:
        """Returns loc, `[*batch, *event]`."""
        return self.loc


def standard_normal(shape: Shape, event_ndims: int = 1) -> Normal:
    """Returns N(0, I), the prior of a VAE; `shape` is `[*batch, *event]`, most often just `(D,)`."""
    return Normal(jnp.zeros(shape), jnp.zeros(shape), event_ndims)
