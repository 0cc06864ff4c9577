"""Codes whose probabilities are given one after another by a causal network, which keeps what it has computed."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array, lax

from vae_jax import random
from vae_jax.distributions.base import Density, Shape
from vae_jax.distributions.codes import check_codes


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class AutoregressiveCodes(Density):
    """p(z) = Π_g p(z_g | z_1, ..., z_{g-1}) of G codes, from the logits of a network.

    Attributes:
      network: a pytree and a function: `network(codes)` returns the logits [N, G, C] of codes int32 [N, G], of which
        those of position g depend on the codes before g alone. `network(N, method="start")` returns a cache, and
        `network(cache, codes, g, method="step")` the new cache and the logits [N, C] of position g, after the codes [N]
        of position g - 1 (C at g = 0).
      count: G, static.
      num_codes: C, static.
      temperature: t; the logits are divided by it.
    """

    is_discrete: ClassVar[bool] = True
    network: Callable[..., Any]
    count: int = dataclasses.field(metadata={"static": True})
    num_codes: int = dataclasses.field(metadata={"static": True})
    temperature: float | Array = 1.0
    batch_shape = ()

    def log_prob(self, value: Array) -> Array:
        """Return Σ_g log p(z_g | z_1, ..., z_{g-1}) of codes [..., G], in nats, [...]; NaN for a code out of range."""
        check_codes(value, self.count)
        codes = value.reshape(-1, self.count)
        log_p = jax.nn.log_softmax(self.network(codes) / self.temperature)  # [N, G, C]
        is_valid = (codes >= 0) & (codes < self.num_codes)
        chosen = jnp.take_along_axis(log_p, jnp.where(is_valid, codes, 0)[..., None], axis=-1)[..., 0]
        return jnp.sum(jnp.where(is_valid, chosen, jnp.nan), axis=-1).reshape(value.shape[:-1])

    def sample(self, key: Array, sample_shape: Shape = ()) -> Array:
        """Return codes, int32 [*sample_shape, G]: see `sample_and_log_prob`."""
        return self.sample_and_log_prob(key, sample_shape)[0]

    def sample_and_log_prob(self, key: Array, sample_shape: Shape = ()) -> tuple[Array, Array]:
        """Return codes argmax(logits + Gumbel noise), drawn one after another, and their log probability.

        The noise of position g is that of the key folded with g. A position costs one step of the network.

        Args:
          key: a typed key, or keys whose shape is the beginning of that of the samples.
          sample_shape: leading axes of independent samples.

        Returns:
          int32 [*sample_shape, G], and [*sample_shape] in nats.
        """

        def gumbel(g: Array) -> Array:
            draw = random.drawn(jax.random.gumbel, random.fold_in(key, g), (*sample_shape, self.num_codes))
            return draw.reshape(-1, self.num_codes)

        codes, log_p = self._generate(math.prod(sample_shape), gumbel)
        return codes.reshape(*sample_shape, self.count), log_p.reshape(sample_shape)

    def mean(self) -> Array:
        """Return the codes that are the most probable ones after those before them, int32 [G]."""
        return self._generate(1, lambda _: jnp.zeros((1, self.num_codes)))[0][0]

    def tempered(self, temperature: float | Array) -> "AutoregressiveCodes":
        """Return the density with p(z_g | z_1, ..., z_{g-1}) proportional to p^(1/t)."""
        return dataclasses.replace(self, temperature=self.temperature * temperature)

    def _generate(self, size: int, noise: Callable[[Array], Array]) -> tuple[Array, Array]:
        """Return codes [N, G] that maximize logits + noise(g) [N, C] in turn, and their log probability [N]."""

        def advance(carry: tuple[Any, Array, Array], g: Array) -> tuple[Any, Array]:
            cache, previous, log_p = carry
            cache, logits = self.network(cache, previous, g, method="step")
            logits = logits / self.temperature
            code = jnp.argmax(logits + noise(g), axis=-1).astype(jnp.int32)
            chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), code[:, None], axis=-1)[:, 0]
            return (cache, code, log_p + chosen), code

        first = jnp.full(size, self.num_codes, jnp.int32)
        carry = self.network(size, method="start"), first, jnp.zeros(size)
        (_, _, log_p), codes = lax.scan(advance, carry, jnp.arange(self.count))
        return codes.T, log_p
