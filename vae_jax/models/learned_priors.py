"""Families of p(z) with parameters: mixtures, and normalizing flows of N(0, I)."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from vae_jax.config import Config, register, require, setting
from vae_jax.distributions import Distribution, GaussianMixture, Normal, Shape
from vae_jax.errors import InputError
from vae_jax.models.choices import PriorConfig, values_after
from vae_jax.models.flows import (
    AffineCouplings,
    AutoregressiveTransforms,
    FlowPrior,
    SplineCouplings,
    actnorm_setting,
)

Inputs = Literal["unit-interval", "reals", "counts"]

# inputs -> (function of the parameters, what x may hold)
_INPUTS: dict[str, tuple[Callable[[Array], Array], frozenset[str]]] = {
    "unit-interval": (jax.nn.sigmoid, frozenset({"binary", "levels", "categories"})),
    "reals": (lambda x: x, frozenset({"reals"})),
    "counts": (jax.nn.softplus, frozenset({"counts"})),
}


@dataclasses.dataclass(frozen=True)
class LearnedPriorConfig(PriorConfig):
    """The base of priors with parameters. Their KL has no closed form: the objectives estimate it from samples."""

    def check(self, config: Config) -> None:
        """Raise InputError if the objective does not train p(z), or needs a Normal, or if a network has no layer."""
        objective = config.objective
        require(objective.needs_density, "prior", self.name,
                f"standard-normal with objective={objective.name}, which does not depend on p(z)")  # fmt: skip
        require(not objective.needs_normal_prior, "prior", self.name,
                f"standard-normal with objective={objective.name}, whose distance from p(z) is in closed form for a "
                "normal distribution alone")  # fmt: skip
        require(getattr(self, "hidden", True) != (), "prior.hidden", "()", "one width or more, for example 256")


class MixturePrior(nn.Module):
    """p(z) as a mixture of normal distributions whose weights, means and scales are parameters.

    Attributes:
      size: the dimension of z.
      components: C.
    """

    size: int
    components: int

    @nn.compact
    def __call__(self, posterior_of: Callable[[Array], Distribution]) -> GaussianMixture:
        """Return p(z); the posterior is not used. Initially the means are samples of N(0, I), and σ is 1."""
        del posterior_of
        shape = (self.components, self.size)
        return GaussianMixture(
            self.param("logits", nn.initializers.zeros, shape[:1]),
            self.param("loc", nn.initializers.normal(1.0), shape),
            self.param("log_scale", nn.initializers.zeros, shape),
        )


@register("prior", "mixture")
@dataclasses.dataclass(frozen=True)
class MixtureConfig(LearnedPriorConfig):
    """A mixture of normal distributions with learned weights, means and scales."""

    components: int = setting(100, "Number of normal distributions.", above=0)

    def build(self, latent_dim: int, shape: Shape) -> nn.Module:
        """Return a `MixturePrior`."""
        del shape
        return MixturePrior(latent_dim, self.components)

    def start_from(self, params: Any, codes: Array) -> Any:
        """Return the parameters with the means at codes, each at another one; the last keep theirs if codes lack."""
        chosen = codes[: self.components]
        return params | {"loc": params["loc"].at[: len(chosen)].set(chosen)}


class VampPrior(nn.Module):
    """p(z) = 1/C Σ_c q(z|u_c), of learned pseudo-inputs u_c (Tomczak & Welling, arXiv 1705.07120).

    The encoder is a part of p(z) here. Its gradient as a part of p(z) is that of other parameters of p(z) under every
    estimator and `Pair`, and is added to its gradient as q(z|x).

    Attributes:
      components: C.
      shape: of one example x.
      inputs: the range of the pseudo-inputs: the sigmoid of parameters, the parameters, or their softplus.
    """

    components: int
    shape: Shape
    inputs: Inputs = "unit-interval"

    @nn.compact
    def __call__(self, posterior_of: Callable[[Array], Distribution]) -> GaussianMixture:
        """Return p(z), a mixture of the posteriors of the pseudo-inputs; raise InputError unless these are Normals."""
        raw = self.param("pseudo_inputs", nn.initializers.normal(1.0), (self.components, *self.shape))
        q = posterior_of(_INPUTS[self.inputs][0](raw))
        if type(q) is not Normal or q.event_ndims != 1:
            raise InputError(
                f"posterior is a {type(q).__name__}; with a VampPrior use one that is a Normal over vectors"
            )
        return GaussianMixture(jnp.zeros(self.components, q.loc.dtype), q.loc, q.log_scale)


@register("prior", "vamp")
@dataclasses.dataclass(frozen=True)
class VampConfig(LearnedPriorConfig):
    """A mixture of the posteriors of learned pseudo-inputs."""

    is_of_posteriors: ClassVar[bool] = True

    components: int = setting(500, "Number of pseudo-inputs.", above=0)
    inputs: Literal["unit-interval", "reals", "counts"] = setting(
        "unit-interval",
        "Range of the pseudo-inputs: unit-interval for numbers from 0 to 1, reals, or counts for positive numbers.",
    )

    def build(self, latent_dim: int, shape: Shape) -> nn.Module:
        """Return a `VampPrior`."""
        del latent_dim
        return VampPrior(self.components, shape, self.inputs)

    def check(self, config: Config) -> None:
        """Raise InputError if q(z|x) is a flow, or if the pseudo-inputs have another range than the data."""
        super().check(config)
        posterior, preprocess = config.posterior, config.preprocess
        require(not posterior.is_flow, "prior", self.name,
                f"another prior with posterior={posterior.name}: a vamp is a mixture of normal "
                "distributions")  # fmt: skip
        values = values_after(preprocess, preprocess.kinds if config.data.kind == "auto" else config.data.kind)
        fitting = [inputs for inputs, (_, accepted) in _INPUTS.items() if values & accepted]
        require(self.inputs in fitting or not fitting, "prior.inputs", self.inputs,
                f"{' or '.join(fitting)} with preprocess={preprocess.name}")  # fmt: skip


@register("prior", "coupling")
@dataclasses.dataclass(frozen=True)
class CouplingPriorConfig(LearnedPriorConfig):
    """A flow of N(0, I) with affine coupling transforms."""

    layers: int = setting(8, "Number of transforms.", above=0)
    hidden: tuple[int, ...] = setting((256,), "Widths of the network of each transform.", above=0)
    actnorm: bool = actnorm_setting()

    def build(self, latent_dim: int, shape: Shape) -> nn.Module:
        """Return a `FlowPrior`."""
        del shape
        return FlowPrior(latent_dim, AffineCouplings(latent_dim, self.layers, self.hidden, self.actnorm))


@register("prior", "spline")
@dataclasses.dataclass(frozen=True)
class SplinePriorConfig(LearnedPriorConfig):
    """A flow of N(0, I) with rational-quadratic spline coupling transforms."""

    layers: int = setting(4, "Number of transforms.", above=0)
    hidden: tuple[int, ...] = setting((128,), "Widths of the network of each transform.", above=0)
    bins: int = setting(8, "Number of bins of each spline.", minimum=2, maximum=100)
    bound: float = setting(5.0, "Numbers of z outside of [-bound, bound] do not change.", above=0)
    actnorm: bool = actnorm_setting()

    def build(self, latent_dim: int, shape: Shape) -> nn.Module:
        """Return a `FlowPrior` in which the density of a value needs no inverse of a spline."""
        del shape
        transforms = SplineCouplings(latent_dim, self.layers, self.hidden, self.bins, self.bound, self.actnorm)
        return FlowPrior(latent_dim, transforms, inverted=True)


@register("prior", "autoregressive")
@dataclasses.dataclass(frozen=True)
class AutoregressivePriorConfig(LearnedPriorConfig):
    """A masked autoregressive flow of N(0, I): the density needs one pass of each network, a sample latent_dim."""

    layers: int = setting(2, "Number of transforms; with 1 each number of z is normal given those before it.", above=0)
    hidden: tuple[int, ...] = setting((256,), "Widths of the network of each transform.", above=0)
    actnorm: bool = actnorm_setting()

    def build(self, latent_dim: int, shape: Shape) -> nn.Module:
        """Return a `FlowPrior` in which the density of a value needs no inverse of a network."""
        del shape
        transforms = AutoregressiveTransforms(latent_dim, self.layers, self.hidden, self.actnorm)
        return FlowPrior(latent_dim, transforms, inverted=True)
