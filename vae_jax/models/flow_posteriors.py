"""Families of q(z|x) that are normalizing flows of a Normal."""

import dataclasses
from typing import ClassVar

import flax.linen as nn

from vae_jax.config import Config, register, require, setting
from vae_jax.models.choices import PosteriorConfig
from vae_jax.models.flows import (
    AffineCouplings,
    AutoregressiveTransforms,
    FlowPosterior,
    PlanarTransforms,
    actnorm_setting,
)
from vae_jax.models.posteriors import ConditionalNormal


@dataclasses.dataclass(frozen=True)
class FlowPosteriorConfig(PosteriorConfig):
    """The base of posteriors z = T(m + σ e) with e ~ N(0, I). T starts at the identity.

    Their dimensions depend on each other, and their mixtures and their KL have no closed form.
    """

    is_flow: ClassVar[bool] = True
    supports_tied: ClassVar[bool] = True

    def build(self, latent_dim: int) -> nn.Module:
        """Return a `FlowPosterior`."""
        return FlowPosterior(ConditionalNormal(latent_dim), self.build_transforms(latent_dim))

    def build_transforms(self, latent_dim: int) -> nn.Module:
        """Return a module from features [B, F] to the transforms."""
        raise NotImplementedError

    def check(self, config: Config) -> None:
        """Raise InputError if a network has no hidden layer, or if the objective needs independent dimensions of z."""
        super().check(config)
        require(getattr(self, "hidden", True) != (), "posterior.hidden", "()", "one width or more, for example 200")
        objective = config.objective
        require(not objective.needs_independent_latents, "posterior", self.name,
                f"gaussian or fixed-noise with objective={objective.name}, which needs the density of each "
                "latent")  # fmt: skip


@register("posterior", "planar")
@dataclasses.dataclass(frozen=True)
class PlanarPosteriorConfig(FlowPosteriorConfig):
    """z = T(m + σ e) with planar transforms."""

    layers: int = setting(8, "Number of transforms.", above=0)

    def build_transforms(self, latent_dim: int) -> nn.Module:
        """Return `PlanarTransforms`."""
        return PlanarTransforms(latent_dim, self.layers)


@register("posterior", "iaf")
@dataclasses.dataclass(frozen=True)
class IAFPosteriorConfig(FlowPosteriorConfig):
    """z = T(m + σ e) with inverse autoregressive transforms."""

    layers: int = setting(2, "Number of transforms.", above=0)
    hidden: tuple[int, ...] = setting((200,), "Widths of the network of each transform.", above=0)
    actnorm: bool = actnorm_setting()

    def build_transforms(self, latent_dim: int) -> nn.Module:
        """Return `AutoregressiveTransforms`."""
        return AutoregressiveTransforms(latent_dim, self.layers, self.hidden, self.actnorm)


@register("posterior", "coupling")
@dataclasses.dataclass(frozen=True)
class CouplingPosteriorConfig(FlowPosteriorConfig):
    """z = T(m + σ e) with affine coupling transforms."""

    layers: int = setting(4, "Number of transforms.", above=0)
    hidden: tuple[int, ...] = setting((200,), "Widths of the network of each transform.", above=0)
    actnorm: bool = actnorm_setting()

    def build_transforms(self, latent_dim: int) -> nn.Module:
        """Return `AffineCouplings`."""
        return AffineCouplings(latent_dim, self.layers, self.hidden, self.actnorm)
