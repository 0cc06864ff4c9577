"""Families of p(x|z) for images and real numbers. Those of counts and categories are in `discrete_likelihoods`."""

import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from vae_jax.config import register, setting
from vae_jax.distributions import (
    Bernoulli,
    ContinuousBernoulli,
    DiscretizedLogisticMixture,
    Normal,
    Shape,
    StudentT,
)
from vae_jax.models.choices import LikelihoodConfig


def _logit(mean: Array) -> Array:
    """Return the log-odds of the mean, clipped to [0.001, 0.999] (Burda et al., arXiv 1509.00519)."""
    clipped = jnp.clip(mean, 0.001, 0.999)
    return jnp.log(clipped) - jnp.log1p(-clipped)


@register("likelihood", "bernoulli")
@dataclasses.dataclass(frozen=True)
class BernoulliConfig(LikelihoodConfig):
    """Independent binary numbers. For intensities in [0, 1] it is minus the cross entropy."""

    support: ClassVar[str] = "binary numbers"
    kinds: ClassVar[tuple[str, ...]] = ("images", "vectors")
    scores: ClassVar[tuple[str, ...]] = ("binary",)
    accepts: ClassVar[tuple[str, ...]] = ("binary", "levels", "reals")

    def initial_bias(self, mean: Array) -> Array:
        """Return the log-odds of the mean, clipped to [0.001, 0.999] (Burda et al., arXiv 1509.00519)."""
        return _logit(mean)

    def distribution(self, features: Array, parameters: Mapping[str, Array], shape: Shape) -> Bernoulli:
        """Return the distribution whose logits are the features."""
        del parameters
        return Bernoulli(features, len(shape))


@register("likelihood", "continuous-bernoulli")
@dataclasses.dataclass(frozen=True)
class ContinuousBernoulliConfig(LikelihoodConfig):
    """Independent intensities in [0, 1] (Loaiza-Ganem & Cunningham, arXiv 1907.06845)."""

    support: ClassVar[str] = "numbers from 0 to 1"
    kinds: ClassVar[tuple[str, ...]] = ("images", "vectors")
    accepts: ClassVar[tuple[str, ...]] = ("binary", "levels", "reals")

    def initial_bias(self, mean: Array) -> Array:
        """Return the logits whose distribution has the mean, clipped to [0.01, 0.99], by Newton's method.

        It starts at the log-odds, which are nearer to 0 than the solution. From there each step increases their
        distance to 0 and cannot pass the solution, because the mean is a concave function of positive logits.
        """
        mean = jnp.clip(mean, 0.01, 0.99)
        logits = _logit(mean)
        for _ in range(10):
            density = ContinuousBernoulli(logits)
            logits += (mean - density.mean()) / density.stddev() ** 2
        return logits

    def distribution(self, features: Array, parameters: Mapping[str, Array], shape: Shape) -> ContinuousBernoulli:
        """Return the distribution whose logits are the features."""
        del parameters
        return ContinuousBernoulli(features, len(shape))


@register("likelihood", "gaussian")
@dataclasses.dataclass(frozen=True)
class GaussianLikelihoodConfig(LikelihoodConfig):
    """Independent real numbers around the decoder's outputs, with a fixed standard deviation."""

    scale: float = setting(
        math.sqrt(0.5),
        "Standard deviation of the gaussian likelihood. At sqrt(1/2) one nat is a squared error of 1.",
        above=0,
    )

    def initial_bias(self, mean: Array) -> Array:
        """Return the mean."""
        return mean

    def distribution(self, features: Array, parameters: Mapping[str, Array], shape: Shape) -> Normal:
        """Return the Normal whose means are the features."""
        del parameters
        return Normal(features, jnp.full_like(features, math.log(self.scale)), len(shape))


@register("likelihood", "learned-gaussian")
@dataclasses.dataclass(frozen=True)
class LearnedGaussianConfig(LikelihoodConfig):
    """Independent real numbers around the decoder's outputs, with one learned standard deviation for all numbers."""

    def parameters(self, shape: Shape) -> dict[str, Array]:
        """Return {"log_scale": []}, log σ = 0."""
        del shape
        return {"log_scale": jnp.zeros(())}

    def initial_bias(self, mean: Array) -> Array:
        """Return the mean."""
        return mean

    def distribution(self, features: Array, parameters: Mapping[str, Array], shape: Shape) -> Normal:
        """Return the Normal whose means are the features."""
        return Normal(features, jnp.full_like(features, parameters["log_scale"]), len(shape))


@register("likelihood", "heteroscedastic-gaussian")
@dataclasses.dataclass(frozen=True)
class HeteroscedasticGaussianConfig(LikelihoodConfig):
    """Independent real numbers whose means and standard deviations are outputs of the decoder.

    Along the last axis the decoder returns first the means of all numbers, then the s of σ = σ_min + log2(1 + 2^s).
    """

    min_scale: float = setting(
        0.01,
        "Lower limit of the standard deviations of heteroscedastic-gaussian. Without one the density of a number that "
        "the decoder knows exactly has no upper limit.",
        above=0,
    )

    def num_features(self, channels: int) -> int:
        """Return 2C."""
        return 2 * channels

    def initial_bias(self, mean: Array) -> Array:
        """Return the mean, and 0 for σ = 1 + σ_min."""
        return jnp.concatenate([mean, jnp.zeros_like(mean)], axis=-1)

    def distribution(self, features: Array, parameters: Mapping[str, Array], shape: Shape) -> Normal:
        """Return the Normal with the means and scales of the features."""
        del parameters
        loc, s = jnp.split(features, 2, axis=-1)
        slope = math.log(2)
        return Normal(loc, jnp.log(self.min_scale + jax.nn.softplus(slope * s) / slope), len(shape))


@register("likelihood", "student-t")
@dataclasses.dataclass(frozen=True)
class StudentTConfig(LikelihoodConfig):
    """Independent real numbers around the decoder's outputs, with heavy tails: outliers have a bounded influence.

    Each number of x has a learned scale, and learned degrees of freedom.
    """

    def parameters(self, shape: Shape) -> dict[str, Array]:
        """Return {"log_scale": [*shape], "log_df": [*shape]}: the scale 1, and 10 degrees of freedom."""
        return {"log_scale": jnp.zeros(shape), "log_df": jnp.full(shape, math.log(10))}

    def initial_bias(self, mean: Array) -> Array:
        """Return the mean."""
        return mean

    def distribution(self, features: Array, parameters: Mapping[str, Array], shape: Shape) -> StudentT:
        """Return the distribution whose medians are the features."""
        log_scale, log_df = (jnp.broadcast_to(parameters[name], features.shape) for name in ("log_scale", "log_df"))
        return StudentT(features, log_scale, log_df, len(shape))


@register("likelihood", "logistic-mixture")
@dataclasses.dataclass(frozen=True)
class LogisticMixtureConfig(LikelihoodConfig):
    """A discretized mixture of logistics for 8-bit pixels (Salimans et al., PixelCNN++, arXiv 1701.05517)."""

    support: ClassVar[str] = "8-bit pixels"
    kinds: ClassVar[tuple[str, ...]] = ("images",)
    scores: ClassVar[tuple[str, ...]] = ("levels",)
    accepts: ClassVar[tuple[str, ...]] = ("levels",)

    components: int = setting(5, "Number of logistic components for each pixel.", above=0)

    def num_features(self, channels: int) -> int:
        """Return 3M for grey images and 10M for RGB, with M components."""
        return DiscretizedLogisticMixture.num_features(self.components, channels)

    def initial_bias(self, mean: Array) -> Array:
        """Return the features of equal components with the mean."""
        return DiscretizedLogisticMixture.initial_features(mean, self.components)

    def distribution(
        self, features: Array, parameters: Mapping[str, Array], shape: Shape
    ) -> DiscretizedLogisticMixture:
        """Return the mixture whose parameters are the features."""
        del parameters
        return DiscretizedLogisticMixture.from_features(features, self.components, shape[-1])
