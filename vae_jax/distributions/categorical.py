"""The categorical distribution of one-hot vectors."""

import dataclasses
from typing import ClassVar

import chex
import jax
import jax.numpy as jnp

from vae_jax import random
from vae_jax.distributions.base import Array, Density, Shape, event_ndims_field, expand, joint_shape, sum_event


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Categorical(Density):
    """Independent classes as one-hot vectors, with P(class c) = softmax(logits)_c over the last axis.

    Attributes:
      logits: [*batch, *event], unnormalized log probabilities. The last event axis has the C classes.
      event_ndims: number of trailing axes of one observation, at least one: 2 for G numbers of C classes, [G, C].
    """

    is_discrete: ClassVar[bool] = True

    logits: Array
    event_ndims: int = event_ndims_field(2)

    def sample(self, key: Array, sample_shape: Shape = ()) -> Array:
        """Return one-hot samples of the class argmax(logits + g), where g is Gumbel noise; they have no gradient.

        Args:
          key: a typed key, or keys whose shape is the beginning of that of the samples.
          sample_shape: leading axes of independent samples.

        Returns:
          [*sample_shape, *batch, *event], each vector with one 1.0 and C − 1 times 0.0.
        """
        (logits,) = expand((*sample_shape, *self.logits.shape), self.logits)
        gumbel = random.drawn(lambda k, s: jax.random.gumbel(k, s, logits.dtype), key, logits.shape)
        return jax.nn.one_hot(jnp.argmax(logits + gumbel, axis=-1), logits.shape[-1], dtype=logits.dtype)

    def log_prob(self, value: Array) -> Array:
        """Return Σ x·log softmax(l) over the event. Each term is finite for finite logits l.

        For one-hot x this is the log probability. For probabilities x that sum to one it is minus the cross entropy.

        Args:
          value: floats [..., *event], one-hot along the last axis; its shape and that of `logits` may differ only by
            leading axes.

        Returns:
          The shape of the longer of both without the event axes, in nats.

        Raises:
          ValueError: the shapes of `value` and `logits` differ by more than leading axes.
          AssertionError: `value` is not an array of floats.
        """
        chex.assert_type(value, float)
        shape = joint_shape(self.event_ndims, value.shape, self.logits.shape)
        value, log_probability = expand(shape, value, jax.nn.log_softmax(self.logits))
        return sum_event(value * log_probability, self.event_ndims)

    def mean(self) -> Array:
        """Return the probabilities softmax(logits), [*batch, *event]."""
        return jax.nn.softmax(self.logits)

    def stddev(self) -> Array:
        """Return sqrt(p (1 − p)), [*batch, *event]."""
        log_probability = jax.nn.log_softmax(self.logits)
        return jnp.sqrt(-jnp.exp(log_probability) * jnp.expm1(log_probability))

    @property
    def batch_shape(self) -> Shape:
        """[*batch], the shape of independent distributions."""
        return self.logits.shape[: self.logits.ndim - self.event_ndims]
