"""Distributions over grids of integer codes: G numbers, each one of 0, ..., C - 1."""

import dataclasses
import math
from typing import ClassVar

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
    is_discrete: ClassVar[bool] = True
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

    is_discrete: ClassVar[bool] = True
    num_codes: int = dataclasses.field(metadata={"static": True})
    count: int = dataclasses.field(metadata={"static": True})
    batch_shape = ()

    def sample(self, key: Array, sample_shape: Shape = ()) -> Array:
        """Return codes, int32 [*sample_shape, G].

        Args:
          key: a typed key, or keys whose shape is the beginning of that of the samples.
          sample_shape: leading axes of independent samples.
        """
        return random.drawn(
            lambda k, s: jax.random.randint(k, s, 0, self.num_codes, jnp.int32), key, (*sample_shape, self.count)
        )

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
      logits: [*batch, G, C], unnormalized log probabilities.
    """

    is_discrete: ClassVar[bool] = True
    logits: Array

    @property
    def batch_shape(self) -> Shape:
        """[*batch], the shape of independent distributions."""
        return self.logits.shape[:-2]

    def sample(self, key: Array, sample_shape: Shape = ()) -> Array:
        """Return codes argmax(logits + Gumbel noise), int32 [*sample_shape, *batch, G].

        Args:
          key: a typed key, or keys whose shape is the beginning of that of the samples.
          sample_shape: leading axes of independent samples.
        """
        (logits,) = expand((*sample_shape, *self.logits.shape), self.logits)
        gumbel = random.drawn(lambda k, s: jax.random.gumbel(k, s, logits.dtype), key, logits.shape)
        return jnp.argmax(logits + gumbel, axis=-1).astype(jnp.int32)

    def log_prob(self, value: Array) -> Array:
        """Return Σ_g log softmax(logits_g)[value_g] for codes [..., G], in nats, [...]; NaN for a code out of range."""
        *_, count, num_codes = self.logits.shape
        check_codes(value, count)
        joint_shape(1, value.shape, self.logits.shape[:-1])
        log_p = jax.nn.log_softmax(self.logits)
        (log_p,) = expand((*value.shape, num_codes), log_p) if value.ndim >= log_p.ndim - 1 else (log_p,)
        (value,) = expand(log_p.shape[:-1], value)
        is_valid = (value >= 0) & (value < num_codes)
        chosen = jnp.take_along_axis(log_p, jnp.where(is_valid, value, 0)[..., None], axis=-1)[..., 0]
        return jnp.sum(jnp.where(is_valid, chosen, jnp.nan), axis=-1)

    def mean(self) -> Array:
        """Return the most probable code of each position, int32 [*batch, G]."""
        return jnp.argmax(self.logits, axis=-1).astype(jnp.int32)

    def tempered(self, temperature: float | Array) -> "CategoricalCodes":
        """Return the distribution with probabilities proportional to p^(1/t)."""
        return CategoricalCodes(self.logits / temperature)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class GumbelNoise:
    """Independent noise -log(-log u), the only randomness of `GumbelCodes`. It is drawn without a log density.

    Attributes:
      shape: [*batch, G, C], static.
    """

    shape: Shape = dataclasses.field(metadata={"static": True})

    def sample(self, key: Array, sample_shape: Shape = ()) -> Array:
        """Return noise [*sample_shape, *batch, G, C].

        Args:
          key: a typed key, or keys whose shape is the beginning of that of the samples.
          sample_shape: leading axes of independent samples.
        """
        return random.drawn(jax.random.gumbel, key, (*sample_shape, *self.shape))

    def sample_and_log_prob(self, key: Array, sample_shape: Shape = ()) -> tuple[Array, None]:
        """Return `sample`, and None."""
        return self.sample(key, sample_shape), None

    def mean(self) -> Array:
        """Return 0, [*batch, G, C]: equal noise for all codes."""
        return jnp.zeros(self.shape)

    @property
    def batch_shape(self) -> Shape:
        """[*batch], the shape of independent distributions."""
        return self.shape[:-2]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class GumbelCodes(CategoricalCodes):
    """Independent codes whose samples are argmax(logits + given noise) (Gumbel, 1954).

    Attributes:
      noise: [*lead, *batch, G, C], of `GumbelNoise`.
    """

    noise: Array

    depth = 1  # codes of a place, see `ChosenCodes`

    @property
    def num_codes(self) -> int:
        """C."""
        return self.logits.shape[-1]

    @property
    def indices(self) -> Array:
        """The most probable codes, int32 [*batch, G]."""
        return self.mean()

    def sample(self, key: Array, sample_shape: Shape = ()) -> Array:
        """Return the codes of the noise, int32 [*lead, *batch, G]; the key is not used.

        Args:
          key: not used.
          sample_shape: [*lead].
        """
        del key
        chex.assert_shape(self.noise, (*sample_shape, *self.logits.shape))
        (logits,) = expand(self.noise.shape, self.logits)
        return jnp.argmax(logits + self.noise, axis=-1).astype(jnp.int32)

    def stddev(self) -> Array:
        """Return the standard deviation of the number of the code, [*batch, G]."""
        p = jax.nn.softmax(self.logits)
        numbers = jnp.arange(self.num_codes, dtype=p.dtype)
        mean = p @ numbers
        distances = jnp.broadcast_to(numbers, p.shape) - mean[..., None]
        return jnp.sqrt(jnp.sum(p * distances**2, axis=-1))


def check_codes(value: Array, count: int) -> None:
    """Raise AssertionError unless a value is integers [..., G].

    Args:
      value: the value of a density of codes.
      count: G.
    """
    chex.assert_type(value, int)
    chex.assert_axis_dimension(value, -1, count)
