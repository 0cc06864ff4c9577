"""Families of q(z|x), as modules from the features of an encoder to a distribution over codes."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from vae_jax.config import register, setting
from vae_jax.distributions import Deterministic, Normal
from vae_jax.models.choices import PosteriorConfig

ScaleHead = Literal["log-variance", "log-scale"]

_glorot = nn.initializers.glorot_uniform()


class ConditionalNormal(nn.Module):
    """p(z|h), a Normal over codes [..., size] whose parameters are dense layers of h [..., F].

    It is the posterior of a VAE, where h are the features of the encoder, and a density between stochastic layers,
    where h are the codes of another layer. With the head `log-variance` it starts at σ = 1, the scale of the prior.

    Attributes:
      size: the dimension of z.
      hidden: the widths of the hidden layers.
      activation: applied after each hidden layer.
      scale_head: whether the last layer returns log σ² or log σ.
    """

    size: int
    hidden: Sequence[int] = ()
    activation: Callable[[Array], Array] = jnp.tanh
    scale_head: ScaleHead = "log-variance"

    @nn.compact
    def __call__(self, h: Array) -> Normal:
        """Return p(z|h) for h [..., F]."""
        for width in self.hidden:
            h = self.activation(nn.Dense(width, kernel_init=_glorot)(h))
        mean = nn.Dense(self.size, kernel_init=_glorot, name="mean")(h)
        if self.scale_head == "log-scale":
            return Normal(mean, nn.Dense(self.size, kernel_init=_glorot, name="log_scale")(h))
        log_variance = nn.Dense(self.size, kernel_init=nn.initializers.zeros, name="log_variance")(h)
        return Normal(mean, 0.5 * log_variance)

    def kernels(self) -> list[Array]:
        """Return the kernel of the mean [F, size] in a list; hidden layers have no part in it."""
        return [self.variables["params"]["mean"]["kernel"]]


class FixedNoise(nn.Module):
    """q(z|x) = N(m, σ²) with a dense layer m of the features and a fixed σ.

    Attributes:
      size: the dimension of z.
      noise_scale: σ.
    """

    size: int
    noise_scale: float = 1.0

    @nn.compact
    def __call__(self, h: Array) -> Normal:
        """Return q(z|x) for features h [B, F]."""
        mean = nn.Dense(self.size, kernel_init=_glorot, name="mean")(h)
        return Normal(mean, jnp.full_like(mean, math.log(self.noise_scale)))

    def kernels(self) -> list[Array]:
        """Return the kernel of the mean [F, size] in a list."""
        return [self.variables["params"]["mean"]["kernel"]]


class PointMass(nn.Module):
    """z = m, a dense layer m of the features, without noise.

    Attributes:
      size: the dimension of z.
    """

    size: int

    @nn.compact
    def __call__(self, h: Array) -> Deterministic:
        """Return the point z for features h [B, F]."""
        return Deterministic(nn.Dense(self.size, kernel_init=_glorot, name="mean")(h))

    def kernels(self) -> list[Array]:
        """Return the kernel of the mean [F, size] in a list."""
        return [self.variables["params"]["mean"]["kernel"]]


class SpatialPosterior(nn.Module):
    """q(z|x) of a code that is a map: the numbers of a place are independent of the features of the other places.

    Attributes:
      places: P, the number of places of the encoder's feature map.
      posterior: from the features [..., F] of a place to a distribution over its numbers [..., D], which are
        independent.
    """

    places: int
    posterior: nn.Module

    @nn.compact
    def __call__(self, h: Array) -> Any:
        """Return q(z|x) over codes [B, P D] for the features of P places side by side, h [B, P F]."""
        q = self.posterior(h.reshape(h.shape[0], self.places, -1))
        return jax.tree.map(lambda parameter: parameter.reshape(h.shape[0], -1), q)


@register("posterior", "gaussian")
@dataclasses.dataclass(frozen=True)
class GaussianPosteriorConfig(PosteriorConfig):
    """z = m + σ e with e ~ N(0, I); m and σ are outputs of the encoder."""

    supports_tied: ClassVar[bool] = True
    supports_spatial: ClassVar[bool] = True
    supports_layers: ClassVar[bool] = True

    scale_head: Literal["log-variance", "log-scale"] = setting(
        "log-variance",
        "Output s of the network that sets σ, also that of further stochastic layers. log-variance: σ = exp(s/2), with "
        "s = 0 at initialization; log-scale: σ = exp(s), with s initialized as the other layers are (Burda et al., "
        "arXiv 1509.00519).",
    )

    def build(self, latent_dim: int) -> nn.Module:
        """Return a `ConditionalNormal` without hidden layers."""
        return ConditionalNormal(latent_dim, scale_head=self.scale_head)

    def build_layer(self, latent_dim: int, hidden: tuple[int, ...], activation: Callable[[Array], Array]) -> nn.Module:
        """Return a `ConditionalNormal`."""
        return ConditionalNormal(latent_dim, hidden, activation, self.scale_head)


@register("posterior", "fixed-noise")
@dataclasses.dataclass(frozen=True)
class FixedNoiseConfig(PosteriorConfig):
    """z = m + noise_scale e with e ~ N(0, I)."""

    supports_tied: ClassVar[bool] = True
    supports_spatial: ClassVar[bool] = True

    noise_scale: float = setting(1.0, "Standard deviation of the noise of the code.", above=0)

    def build(self, latent_dim: int) -> nn.Module:
        """Return a `FixedNoise`."""
        return FixedNoise(latent_dim, self.noise_scale)


@register("posterior", "deterministic")
@dataclasses.dataclass(frozen=True)
class DeterministicConfig(PosteriorConfig):
    """z = m: an autoencoder."""

    has_density: ClassVar[bool] = False
    supports_tied: ClassVar[bool] = True
    supports_spatial: ClassVar[bool] = True

    def build(self, latent_dim: int) -> nn.Module:
        """Return a `PointMass`."""
        return PointMass(latent_dim)
