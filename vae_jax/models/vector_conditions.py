"""A VAE of examples x given vectors c of numbers, such as covariates."""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from vae_jax.config import Config, register, setting
from vae_jax.distributions import Batch, Shape, label_mask
from vae_jax.errors import InputError
from vae_jax.models.conditional import BaseConditionalConfig, BaseConditionalVAE


class VectorConditionalVAE(BaseConditionalVAE, kw_only=True):
    """A VAE of examples given vectors, p(x|c), whose embedding is e(c) = W₂ silu(W₁ c + b₁) + b₂.

    The condition of an example is `batch["c"]`, float32 [B, C]. An example whose `batch["mask"]` is False or whose
    condition contains NaN, and a batch without conditions, have a learned embedding for "no condition". A module with
    the attribute `condition_dim` is sampled and exported by condition.

    Attributes:
      condition_dim: C, the number of numbers of a condition.
    """

    condition_dim: int

    def create_embeddings(self) -> None:
        """Create the network of the embedding, and the embedding for "no condition"."""
        self.condition_layers = [nn.Dense(self.embedding), nn.Dense(self.embedding)]
        self.no_condition_embedding = self.param("no_condition_embedding", nn.initializers.normal(1.0),
                                                 (self.embedding,))  # fmt: skip

    def embedding_of(self, batch: Batch) -> Array:
        """Return the embedding of the condition of each example, [B, E]; [E] of "no condition" if there are none."""
        if "c" not in batch:
            if self.is_initializing():
                self._embed(jnp.zeros((1, self.condition_dim)))  # creates its parameters
            return self.no_condition_embedding
        c, mask = batch["c"], label_mask(batch)
        if c.shape[1:] != (self.condition_dim,) or not jnp.issubdtype(c.dtype, jnp.floating):
            raise InputError(
                f"conditions c have shape {list(c.shape)} and dtype {c.dtype}; pass floats [B, {self.condition_dim}]"
            )
        known = jnp.logical_not(jnp.isnan(c).any(axis=1))
        known = known if mask is None else jnp.logical_and(known, mask)
        found = self._embed(jnp.where(known[:, None], c, 0))  # without NaN, which would reach the gradient
        return jnp.where(known[:, None], found, jnp.broadcast_to(self.no_condition_embedding, found.shape))

    def _embed(self, c: Array) -> Array:
        first, second = self.condition_layers
        return second(jax.nn.silu(first(c)))


@register("model", "conditional-vector")
@dataclasses.dataclass(frozen=True)
class VectorConditionalConfig(BaseConditionalConfig):
    """A VAE of examples given vectors of numbers."""

    reads_vectors: ClassVar[bool] = True

    condition_dim: int = setting(1, "Number of numbers of a condition.", above=0)

    def build(self, config: Config, shape: Shape, *, training: bool) -> VectorConditionalVAE:
        """Return the `VectorConditionalVAE`."""
        fields = self.fields(config, shape, training=training)
        return VectorConditionalVAE(**fields, condition_dim=self.condition_dim)
