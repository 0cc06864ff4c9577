"""The normal distribution with a diagonal covariance."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp

from vae_jax import random
from vae_jax.distributions.base import LOG_2PI, Array, Density, Shape, event_ndims_field, expand, joint_shape, sum_event


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Normal(Density):
    """Independent Gaussians N(loc, σ²) with σ = exp(log_scale).

    Attributes:
      loc: [*batch, *event], the means.
      log_scale: the same shape, log σ. The log density of each number and its gradient are finite for |log σ| ≤ 40 and
        |z − loc| ≤ 40.
      event_ndims: number of trailing axes of one observation.
    """

    loc: Array
    log_scale: Array
    event_ndims: int = event_ndims_field(1)

    def sample(self, key: Array, sample_shape: Shape = ()) -> Array:
        """Return samples z = loc + σ·e with e ~ N(0, I), which have a gradient to loc and log_scale.

        Kingma & Welling, Auto-Encoding Variational Bayes, arXiv 1312.6114.

        Args:
          key: a typed key, or keys whose shape is the beginning of that of the samples.
          sample_shape: leading axes of independent samples.

        Returns:
          [*sample_shape, *batch, *event].

        Raises:
          AssertionError: `loc` and `log_scale` have different shapes.
        """
        chex.assert_equal_shape([self.loc, self.log_scale])
        return _sample(key, self.loc, self.log_scale, (*sample_shape, *self.loc.shape))

    def log_prob(self, value: Array) -> Array:
        """Return Σ −½((z − loc)/σ)² − log σ − ½ log 2π over the event.

        Args:
          value: floats [..., *event]; its shape and that of `loc` may differ only by leading axes.

        Returns:
          The shape of the longer of both without the event axes, in nats.

        Raises:
          ValueError: the shapes of `value` and `loc` differ by more than leading axes.
          AssertionError: `loc` and `log_scale` have different shapes, or `value` is not an array of floats.
        """
        chex.assert_equal_shape([self.loc, self.log_scale])
        chex.assert_type(value, float)
        joint_shape(self.event_ndims, value.shape, self.loc.shape)  # raises
        return _log_prob(value, self.loc, self.log_scale, self.event_ndims)

    def mean(self) -> Array:
        """Return loc, [*batch, *event]."""
        return self.loc

    def stddev(self) -> Array:
        """Return σ = exp(log_scale), [*batch, *event]."""
        return jnp.exp(self.log_scale)

    def tempered(self, temperature: float | Array) -> "Normal":
        """Return the distribution with σ multiplied by a temperature."""
        return dataclasses.replace(self, log_scale=self.log_scale + jnp.log(temperature))

    @property
    def batch_shape(self) -> Shape:
        """[*batch], the shape of independent distributions."""
        return self.loc.shape[: self.loc.ndim - self.event_ndims]


@functools.partial(jax.jit, static_argnames="shape", inline=True)
def _sample(key: Array, loc: Array, log_scale: Array, shape: Shape) -> Array:
    loc, scale = expand(shape, loc, jnp.exp(log_scale))
    return loc + scale * random.normal(key, shape, loc.dtype)


@functools.partial(jax.jit, static_argnames="event_ndims", inline=True)
def _log_prob(value: Array, loc: Array, log_scale: Array, event_ndims: int) -> Array:
    shape = joint_shape(event_ndims, value.shape, loc.shape)
    value, loc, log_scale = expand(shape, value, loc, log_scale)
    standardized = (value - loc) * jnp.exp(-log_scale)
    return sum_event(-0.5 * (standardized**2 + LOG_2PI) - log_scale, event_ndims)


def standard_normal(shape: Shape, event_ndims: int = 1) -> Normal:
    """Return N(0, I), the usual prior of a VAE.

    Args:
      shape: [*batch, *event], usually (D,).
      event_ndims: number of trailing axes of one observation.

    Returns:
      The distribution, in float32 unless 64-bit types are enabled.
    """
    return Normal(jnp.zeros(shape), jnp.zeros(shape), event_ndims)
