"""Families of p(x|z) for counts and for categories."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from vae_jax.config import register
from vae_jax.distributions import Categorical, NegativeBinomial, Poisson, Shape, ZeroInflatedNegativeBinomial
from vae_jax.models.choices import LikelihoodConfig

_DROPOUT_LOGIT = -2.0  # initial log-odds of a dropout: 12 %


def _log(mean: Array) -> Array:
    """Return log(max(mean, 0.001)), so that a number that is zero in all training examples can have other values."""
    return jnp.log(jnp.maximum(mean, 0.001))


@dataclasses.dataclass(frozen=True)
class CountLikelihoodConfig(LikelihoodConfig):
    """The base of the families of independent counts."""

    support: ClassVar[str] = "counts"
    kinds: ClassVar[tuple[str, ...]] = ("counts",)
    scores: ClassVar[tuple[str, ...]] = ("counts",)
    accepts: ClassVar[tuple[str, ...]] = ("counts",)


@register("likelihood", "poisson")
@dataclasses.dataclass(frozen=True)
class PoissonConfig(CountLikelihoodConfig):
    """Independent counts with the mean as variance. The decoder returns log means."""

    def initial_bias(self, mean: Array) -> Array:
        """Return the log of the mean, at least log 0.001."""
        return _log(mean)

    def distribution(self, features: Array, parameters: Mapping[str, Array], shape: Shape) -> Poisson:
        """Return the distribution whose log means are the features."""
        del parameters
        return Poisson(features, len(shape))


@register("likelihood", "negative-binomial")
@dataclasses.dataclass(frozen=True)
class NegativeBinomialConfig(CountLikelihoodConfig):
    """Independent counts with the variance μ + μ²/r. The decoder returns log μ; each number has a learned r."""

    def parameters(self, shape: Shape) -> dict[str, Array]:
        """Return {"log_dispersion": [*shape]}, log r = 0."""
        return {"log_dispersion": jnp.zeros(shape)}

    def initial_bias(self, mean: Array) -> Array:
        """Return the log of the mean, at least log 0.001."""
        return _log(mean)

    def distribution(self, features: Array, parameters: Mapping[str, Array], shape: Shape) -> NegativeBinomial:
        """Return the distribution whose log means are the features."""
        log_dispersion = jnp.broadcast_to(parameters["log_dispersion"], features.shape)
        return NegativeBinomial(features, log_dispersion, len(shape))


@register("likelihood", "zero-inflated-negative-binomial")
@dataclasses.dataclass(frozen=True)
class ZeroInflatedNegativeBinomialConfig(CountLikelihoodConfig):
    """Independent counts, 0 with probability π, else negative binomial. Each number has a learned dispersion r.

    Along the last axis the decoder returns first log μ of all numbers, then the log-odds of π.
    """

    def num_features(self, channels: int) -> int:
        """Return 2C."""
        return 2 * channels

    def parameters(self, shape: Shape) -> dict[str, Array]:
        """Return {"log_dispersion": [*shape]}, log r = 0."""
        return {"log_dispersion": jnp.zeros(shape)}

    def initial_bias(self, mean: Array) -> Array:
        """Return π = 12 %, and the log μ for which (1 − π) μ is the mean, at least 0.001."""
        logits = jnp.full_like(mean, _DROPOUT_LOGIT)
        return jnp.concatenate([_log(mean) - jax.nn.log_sigmoid(-logits), logits], axis=-1)

    def distribution(
        self, features: Array, parameters: Mapping[str, Array], shape: Shape
    ) -> ZeroInflatedNegativeBinomial:
        """Return the distribution whose log means and log-odds are the features."""
        log_mean, dropout_logits = jnp.split(features, 2, axis=-1)
        log_dispersion = jnp.broadcast_to(parameters["log_dispersion"], log_mean.shape)
        return ZeroInflatedNegativeBinomial(log_mean, log_dispersion, dropout_logits, len(shape))


@register("likelihood", "categorical")
@dataclasses.dataclass(frozen=True)
class CategoricalConfig(LikelihoodConfig):
    """Independent categories as one-hot vectors along the last axis of x."""

    support: ClassVar[str] = "one-hot vectors"
    kinds: ClassVar[tuple[str, ...]] = ("counts",)
    scores: ClassVar[tuple[str, ...]] = ("categories",)
    accepts: ClassVar[tuple[str, ...]] = ("categories",)

    def initial_bias(self, mean: Array) -> Array:
        """Return the log of the frequency of each category, at least log 0.001."""
        return _log(mean)

    def distribution(self, features: Array, parameters: Mapping[str, Array], shape: Shape) -> Categorical:
        """Return the distribution whose logits are the features."""
        del parameters
        return Categorical(features, len(shape))
