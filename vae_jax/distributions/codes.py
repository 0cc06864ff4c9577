"""Distributions over grids of integer codes: G numbers, each one of 0, ..., C - 1."""

import dataclasses
import math

import chex
import jax
import jax.numpy as jnp

from vae_jax import random
from vae_jax.distributions.base import Array, Density, Shape, expand, joint_shape


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class ChosenCodes(Density):
    """Codes that have probability 1, the posterior of an encoder whose outputs are quantized.

    With it, KL(q || p) = -log p(codes), so the ELBO log p(x|codes) + log p(codes) is a bound on log p(x).

    Attributes:
      indices: int32 [*batch, G].
      num_codes: C, static.
      depth: Q, static: each place has Q codes in turn, so code g is that of level g mod Q.
    """

    is_certain = True
    indices: Array
    num_codes: int = dataclasses.field(metadata={"static": True})
    depth: int = dataclasses.field(default=1, metadata={"static": True})

    def sample(self, key: Array, sample_shape: Shape = ()) -> Array:
        """Return the codes for every sample, int32 [*sample_shape, *batch, G]; the key is not used."""
        del key
        return jnp.broadcast_to(self.indices, (*sample_shape, *self.indices.shape))

    def log_prob(self, value: Array) -> Array:
        """Return 0 for these codes and -inf for others, in nats.

        Args:
          value: integers [..., G].

        Returns:
          The shape of the longer of the value and the codes without the last axis.

        Raises:
          AssertionError: the value is not an array of integers.
        """
        chex.assert_type(value, int)
        value, indices = expand(joint_shape(1, value.shape, self.indices.shape), value, self.indices)
        return jnp.where(jnp.all(value == indices, axis=-1), 0.0, -jnp.inf)

    def mean(self) -> Array:
        """Return the codes, int32 [*batch, G]: the only value there is."""
        return self.indices

    def stddev(self) -> Array:
        """Return 0, float32 [*batch, G]."""
        return jnp.zeros(self.indices.shape)

    @property
    def batch_shape(self) -> Shape:
        """[*batch], the shape of independent distributions."""
        return self.indices.shape[:-1]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class UniformCodes(Density):
    """G independent codes, each with probability 1/C.

    Attributes:
      num_codes: C, static.
      count: G, static.
    """

    num_codes: int = dataclasses.field(metadata={"static": True})
    count: int = dataclasses.field(metadata={"static": True})
    batch_shape = ()

    def sample(self, key: Array, sample_shape: Shape = ()) -> Array:
        """Return codes, int32 [*sample_shape, G].

        Args:
          key: a typed key, or keys whose shape is the beginning of that of the samples.
          sample_shape: leading axes of independent samples.
        """
        return random.drawn(lambda k, s: jax.random.randint(k, s, 0, self.num_codes), key, (*sample_shape, self.count))

    def log_prob(self, value: Array) -> Array:
        """Return -G log C for codes [..., G], in nats, [...]; -inf if one of them is not in 0, ..., C - 1."""
        check_codes(value, self.count)
        is_valid = jnp.all((value >= 0) & (value < self.num_codes), axis=-1)
        return jnp.where(is_valid, -self.count * math.log(self.num_codes), -jnp.inf)

    def mean(self) -> Array:
        """Return the middle code for each position, int32 [G]."""
        return jnp.full(self.count, self.num_codes // 2, jnp.int32)

    def tempered(self, temperature: float | Array) -> "UniformCodes":
        """Return the same distribution: p^(1/t) of equal probabilities."""
        del temperature
        return self


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class CategoricalCodes(Density):
    """G independent codes with P(code g = c) = softmax(logits_g)_c.

    Attributes:
      logits: [G, C], unnormalized log probabilities.
    """

    logits: Array
    batch_shape = ()

    def sample(self, key: Array, sample_shape: Shape = ()) -> Array:
        """Return codes argmax(logits + Gumbel noise), int32 [*sample_shape, G].

        Args:
          key: a typed key, or keys whose shape is the beginning of that of the samples.
          sample_shape: leading axes of independent samples.
        """
        (logits,) = expand((*sample_shape, *self.logits.shape), self.logits)
        gumbel = random.drawn(lambda k, s: jax.random.gumbel(k, s, logits.dtype), key, logits.shape)
        return jnp.argmax(logits + gumbel, axis=-1).astype(jnp.int32)

    def log_prob(self, value: Array) -> Array:
        """Return Σ_g log softmax(logits_g)[value_g] for codes [..., G], in nats, [...]; NaN for a code out of range."""
        check_codes(value, self.logits.shape[0])
        log_p = jax.nn.log_softmax(self.logits)
        chosen = log_p.at[jnp.broadcast_to(jnp.arange(value.shape[-1]), value.shape), value].get(
            mode="fill", fill_value=jnp.nan, wrap_negative_indices=False
        )
        return jnp.sum(chosen, axis=-1)

    def mean(self) -> Array:
        """Return the most probable code of each position, int32 [G]."""
        return jnp.argmax(self.logits, axis=-1).astype(jnp.int32)

    def tempered(self, temperature: float | Array) -> "CategoricalCodes":
        """Return the distribution with probabilities proportional to p^(1/t)."""
        return CategoricalCodes(self.logits / temperature)


def check_codes(value: Array, count: int) -> None:
    """Raise AssertionError unless a value is integers [..., G].

    Args:
      value: the value of a density of codes.
      count: G.
    """
    chex.assert_type(value, int)
    chex.assert_axis_dimension(value, -1, count)
