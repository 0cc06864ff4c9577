"""Families of p(z), as modules that return a distribution over codes."""

import dataclasses
from collections.abc import Callable

import flax.linen as nn
from jax import Array

from vae_jax.config import register
from vae_jax.distributions import Distribution, Normal, Shape, standard_normal
from vae_jax.models.choices import PriorConfig


class StandardNormal(nn.Module):
    """p(z) = N(0, I).

    Attributes:
      size: the dimension of z.
    """

    size: int

    def __call__(self, posterior_of: Callable[[Array], Distribution]) -> Normal:
        """Return p(z); the posterior is not used."""
        del posterior_of
        return standard_normal((self.size,))


@register("prior", "standard-normal")
@dataclasses.dataclass(frozen=True)
class StandardNormalConfig(PriorConfig):
    """p(z) = N(0, I)."""

    def build(self, latent_dim: int, shape: Shape) -> nn.Module:
        """Return a `StandardNormal`."""
        del shape
        return StandardNormal(latent_dim)
