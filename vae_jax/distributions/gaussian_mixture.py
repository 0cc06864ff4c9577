"""A mixture of normal distributions with diagonal covariances."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
from jax import lax

from vae_jax import random
from vae_jax.distributions.base import Array, Density, Shape, joint_shape
from vae_jax.distributions.normal import Normal

_CHUNK = 32  # components whose log densities are computed at once


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class GaussianMixture(Density):
    """Σ_c π_c N(loc_c, σ_c²) with π = softmax(logits) and σ = exp(log_scale). All examples share it.

    Attributes:
      logits: [C].
      loc: [C, D], the means.
      log_scale: [C, D], log σ.
    """

    logits: Array
    loc: Array
    log_scale: Array

    def sample(self, key: Array, sample_shape: Shape = ()) -> Array:
        """Return samples; they have a gradient to loc and log_scale, and none to the logits.

        Args:
          key: a typed key, or keys whose shape is the beginning of that of the samples.
          sample_shape: axes of independent samples.

        Returns:
          [*sample_shape, D].
        """
        self._check_parameters()
        gumbel = random.drawn(jax.random.gumbel, random.fold_in(key, 0), (*sample_shape, *self.logits.shape))
        component = jnp.argmax(gumbel + jnp.broadcast_to(self.logits, gumbel.shape), axis=-1)
        noise = random.normal(random.fold_in(key, 1), (*sample_shape, self.loc.shape[-1]), self.loc.dtype)
        return self.loc[component] + jnp.exp(self.log_scale)[component] * noise

    def log_prob(self, value: Array) -> Array:
        """Return log Σ_c π_c N(z; loc_c, σ_c²).

        The components are scanned in chunks, which the gradient computes again. Its memory is that of a chunk.

        Args:
          value: floats [..., D].

        Returns:
          [...], in nats.

        Raises:
          ValueError: the last axis of `value` is not D.
          AssertionError: the parameters have different shapes, or `value` is not an array of floats.
        """
        self._check_parameters()
        chex.assert_type(value, float)
        joint_shape(1, value.shape, self.loc.shape[1:])
        log_weights = jax.nn.log_softmax(self.logits)
        count = len(log_weights)
        if count <= _CHUNK:
            return _log_sum(value, log_weights, self.loc, self.log_scale)
        chunks = -(-count // _CHUNK)
        absent = chunks * _CHUNK - count
        log_weights = jnp.pad(log_weights, (0, absent), constant_values=-jnp.inf).reshape(chunks, _CHUNK)
        loc, log_scale = (
            jnp.pad(array, ((0, absent), (0, 0))).reshape(chunks, _CHUNK, -1) for array in (self.loc, self.log_scale)
        )
        log_sum = jax.checkpoint(lambda chunk: _log_sum(value, *chunk))
        return jax.nn.logsumexp(lax.map(log_sum, (log_weights, loc, log_scale)), axis=0)

    def mean(self) -> Array:
        """Return Σ_c π_c loc_c, [D]."""
        return jax.nn.softmax(self.logits) @ self.loc

    def stddev(self) -> Array:
        """Return the root of Σ_c π_c (σ_c² + (loc_c − mean)²), [D]."""
        distance = self.loc - self.mean()[None]
        return jnp.sqrt(jax.nn.softmax(self.logits) @ (jnp.exp(2 * self.log_scale) + distance**2))

    def tempered(self, temperature: float | Array) -> "GaussianMixture":
        """Return the mixture with the standard deviations of its components multiplied by a temperature."""
        return dataclasses.replace(self, log_scale=self.log_scale + jnp.log(temperature))

    @property
    def event_ndims(self) -> int:
        """The number of trailing axes of one observation, 1."""
        return 1

    @property
    def batch_shape(self) -> Shape:
        """(), the shape of independent distributions."""
        return ()

    def _check_parameters(self) -> None:
        chex.assert_equal_shape([self.loc, self.log_scale])
        chex.assert_shape(self.loc, (*self.logits.shape, None))


def _log_sum(value: Array, log_weights: Array, loc: Array, log_scale: Array) -> Array:
    """Return log Σ_c w_c N(z; loc_c, σ_c²), [...], of values [..., D] and components [C, D]."""
    repeated = jnp.broadcast_to(value[..., None, :], (*value.shape[:-1], *loc.shape))  # [..., C, D]
    log_density = Normal(loc, log_scale).log_prob(repeated)
    return jax.nn.logsumexp(log_density + jnp.broadcast_to(log_weights, log_density.shape), axis=-1)
