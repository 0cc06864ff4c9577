"""The Bernoulli distribution of binary pixels."""

import dataclasses
from typing import ClassVar

import chex
import jax
import jax.numpy as jnp

from vae_jax import kernels, random
from vae_jax.distributions.base import Array, Density, Shape, event_ndims_field, expand, joint_shape


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Bernoulli(Density):
    """Independent binary pixels with P(x = 1) = sigmoid(logits).

    Attributes:
      logits: [*batch, *event], log-odds.
      event_ndims: number of trailing axes of one observation, three for images [H, W, C].
    """

    is_discrete: ClassVar[bool] = True

    logits: Array
    event_ndims: int = event_ndims_field(3)

    def sample(self, key: Array, sample_shape: Shape = ()) -> Array:
        """Return samples; they have no gradient.

        Args:
          key: a typed key, or keys whose shape is the beginning of that of the samples.
          sample_shape: leading axes of independent samples.

        Returns:
          [*sample_shape, *batch, *event], each number 0.0 or 1.0.
        """
        (probability,) = expand((*sample_shape, *self.logits.shape), self.mean())
        uniform = random.drawn(lambda k, s: jax.random.uniform(k, s, self.logits.dtype), key, probability.shape)
        return (uniform < probability).astype(self.logits.dtype)

    def log_prob(self, value: Array) -> Array:
        """Return Σ x·l − log(1 + exp(l)) over the event. Each pixel's term is finite for every finite logit l.

        For x in {0, 1} this is the log probability. For intensities x in (0, 1) it is minus the cross entropy, which is
        the expected log probability of a random binarization of x. It can be used as a reconstruction loss, but it is
        not a normalized density over [0, 1], so bounds on log p(x) hold for binary x only.

        Args:
          value: floats [..., *event] in [0, 1]; its shape and that of `logits` may differ only by leading axes.

        Returns:
          The shape of the longer of both without the event axes, in nats.

        Raises:
          ValueError: the shapes of `value` and `logits` differ by more than leading axes.
          AssertionError: `value` is not an array of floats.
        """
        chex.assert_type(value, float)
        shape = joint_shape(self.event_ndims, value.shape, self.logits.shape)
        value, logits = expand(shape, value, self.logits)
        pixels = (*shape[: len(shape) - self.event_ndims], -1)
        return kernels.bernoulli_log_prob(value.reshape(pixels), logits.reshape(pixels))

    @property
    def batch_shape(self) -> Shape:
        """[*batch], the shape of independent distributions."""
        return self.logits.shape[: self.logits.ndim - self.event_ndims]

    def stddev(self) -> Array:
        """Return sqrt(p (1 − p)), [*batch, *event]."""
        return jnp.sqrt(jax.nn.sigmoid(self.logits) * jax.nn.sigmoid(-self.logits))

    def mean(self) -> Array:
        """Return P(x = 1), [*batch, *event]."""
        return jax.nn.sigmoid(self.logits)
