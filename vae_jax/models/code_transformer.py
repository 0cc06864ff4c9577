"""An autoregressive transformer as p(z) of integer codes, with a cache of keys and values for its samples."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax

from vae_jax.config import Config, register, require, setting
from vae_jax.distributions import AutoregressiveCodes
from vae_jax.models.code_priors import LearnedCodePriorConfig

Cache = tuple[tuple[Array, Array], ...]  # keys and values of each layer, [N, G, H, W / H] each


class TransformerBlock(nn.Module):
    """Causal self-attention and two dense layers, each after a layer normalization and with a skip connection.

    Attributes:
      heads: H.
      width: W.
    """

    heads: int
    width: int

    def setup(self) -> None:
        """Create the layers."""
        self.norms = [nn.LayerNorm() for _ in range(2)]
        self.qkv, self.joined = nn.Dense(3 * self.width), nn.Dense(self.width)
        self.up, self.down = nn.Dense(4 * self.width), nn.Dense(self.width)

    def heads_of(self, h: Array) -> tuple[Array, ...]:
        """Return queries, keys and values of h [N, T, W], [N, T, H, W / H] each."""
        size = self.width // self.heads
        return tuple(part.reshape(*h.shape[:2], self.heads, size) for part in jnp.split(self.qkv(h), 3, axis=-1))

    def __call__(
        self, h: Array, mask: Array, cache: tuple[Array, Array] | None = None, position: int | Array = 0
    ) -> tuple[Array, tuple[Array, Array]]:
        """Return the output, and keys and values.

        Args:
          h: [N, T, W], at T positions.
          mask: [T, T'], the positions that each of them may read.
          cache: keys and values of all positions, in which those of h are written; None if h has all positions.
          position: the first position of h.

        Returns:
          [N, T, W], and keys and values [N, T', H, W / H].
        """
        query, key, value = self.heads_of(self.norms[0](h))
        if cache is not None:
            key, value = (
                lax.dynamic_update_slice_in_dim(old, new, position, axis=1)
                for old, new in zip(cache, (key, value), strict=True)
            )
        scores = jnp.einsum("nthd,nshd->nhts", query, key) / query.shape[-1] ** 0.5
        scores = jnp.where(jnp.broadcast_to(mask, scores.shape), scores, -jnp.inf)
        found = jnp.einsum("nhts,nshd->nthd", jax.nn.softmax(scores), value)
        h = h + self.joined(found.reshape(h.shape))
        return h + self.down(nn.gelu(self.up(self.norms[1](h)))), (key, value)


class CodeTransformer(nn.Module):
    """The logits of each code given those before it (Vaswani et al., arXiv 1706.03762).

    The last layer starts at zero, so the codes have equal probabilities at first.

    Attributes:
      count: G.
      num_codes: C.
      layers: the number of blocks.
      heads: H.
      width: W.
    """

    count: int
    num_codes: int
    layers: int
    heads: int
    width: int

    def setup(self) -> None:
        """Create the layers."""
        self.embedding = nn.Embed(self.num_codes + 1, self.width)  # the last one stands before the first code
        self.places = self.param("places", nn.initializers.normal(0.02), (self.count, self.width))
        self.blocks = [TransformerBlock(self.heads, self.width) for _ in range(self.layers)]
        self.norm = nn.LayerNorm()
        self.logits = nn.Dense(self.num_codes, kernel_init=nn.initializers.zeros)

    def __call__(self, codes: Array) -> Array:
        """Return the logits [N, G, C] of codes int32 [N, G]; those of a position depend on the codes before it."""
        first = jnp.full((codes.shape[0], 1), self.num_codes, codes.dtype)
        h = self.embedding(jnp.concatenate([first, codes[:, :-1]], axis=1))
        h = h + jnp.broadcast_to(self.places, h.shape)
        mask = jnp.tril(jnp.ones((self.count, self.count), bool))
        for block in self.blocks:
            h, _ = block(h, mask)
        return self.logits(self.norm(h))

    def start(self, size: int) -> Cache:
        """Return the empty cache of `size` examples."""
        shape = (size, self.count, self.heads, self.width // self.heads)
        return tuple((jnp.zeros(shape), jnp.zeros(shape)) for _ in range(self.layers))

    def step(self, cache: Cache, codes: Array, position: Array) -> tuple[Cache, Array]:
        """Return the new cache and the logits [N, C] of a position, after the codes [N] of the position before it."""
        h = self.embedding(codes)[:, None]
        h = h + jnp.broadcast_to(self.places[position], h.shape)  # [N, 1, W]
        mask = (jnp.arange(self.count) <= position)[None]
        new = []
        for block, stored in zip(self.blocks, cache, strict=True):
            h, stored = block(h, mask, stored, position)
            new.append(stored)
        return tuple(new), self.logits(self.norm(h))[:, 0]


class TransformerCodePrior(nn.Module):
    """p(z) of codes by a `CodeTransformer`.

    Attributes:
      transformer: the network.
    """

    transformer: CodeTransformer

    def __call__(self, posterior_of: Any = None) -> AutoregressiveCodes:
        """Return p(z); the posterior is not used."""
        del posterior_of
        count, num_codes = self.transformer.count, self.transformer.num_codes
        if self.is_initializing():
            self.transformer(jnp.zeros((1, count), jnp.int32))
        # A density may be used after the walk, in which a bound module ends.
        network = self.transformer.clone(parent=None, name=None)
        apply = jax.tree_util.Partial(network.apply, {"params": self.transformer.variables["params"]})
        return AutoregressiveCodes(apply, count, num_codes)


@register("prior", "transformer-codes")
@dataclasses.dataclass(frozen=True)
class TransformerCodesConfig(LearnedCodePriorConfig):
    """Each code given those before it, by a transformer; a sample costs one step for each code."""

    layers: int = setting(4, "Number of blocks of attention and dense layers.", above=0)
    heads: int = setting(4, "Number of heads of the attention.", above=0)
    width: int = setting(128, "Features of each position, a multiple of heads.", above=0)

    def build_codes(self, count: int, num_codes: int) -> TransformerCodePrior:
        """Return a `TransformerCodePrior`."""
        return TransformerCodePrior(CodeTransformer(count, num_codes, self.layers, self.heads, self.width))

    def check(self, config: Config) -> None:
        """Raise InputError unless the heads divide the width."""
        super().check(config)
        require(self.width % self.heads == 0, "prior.width", self.width, f"a multiple of prior.heads={self.heads}")
