"""Importance-weighted bounds on log p(x): functions of the log weights alone."""

import dataclasses
import functools
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array, lax

from vae_jax.config import Config, register, require, setting
from vae_jax.inference.objectives import ObjectiveConfig
from vae_jax.inference.terms import Objective, Pair, Terms, log_weights


@dataclasses.dataclass(frozen=True)
class _WeightsConfig(ObjectiveConfig):
    """Settings of an objective that is a nonlinear function of the log weights."""

    estimators: ClassVar[tuple[str, ...]] = ("pathwise", "doubly-reparameterized")


@dataclasses.dataclass(frozen=True)
class _InnerConfig(_WeightsConfig):
    """Settings of an objective that averages IWAE bounds of N samples each."""

    num_inner_samples: int = setting(
        1, "Number of samples in each of the IWAE bounds that are averaged; a divisor of num_samples.", above=0
    )

    def check(self, config: Config) -> None:
        """Raise InputError unless N divides K."""
        inner, samples = self.num_inner_samples, self.num_samples
        require(
            samples % inner == 0, "objective.num_inner_samples", inner, f"a divisor of objective.num_samples={samples}"
        )


def log_mean_exp(log_w: Array, axis: int = 0) -> Array:
    """Return log 1/K Σ_k exp(log_w_k) along an axis of length K."""
    return jax.nn.logsumexp(log_w, axis=axis) - math.log(log_w.shape[axis])


def iwae(terms: Terms) -> Array:
    """Return log 1/K Σ_k w_k, a lower bound on log p(x) that becomes tighter with K (Burda et al., arXiv 1509.00519).

    Args:
      terms: log densities [K, B].

    Returns:
      [B], in nats.

    Raises:
      ValueError: the posterior has no density.
    """
    return log_mean_exp(log_weights(terms))


@register("objective", "iwae")
@dataclasses.dataclass(frozen=True)
class IWAEConfig(_WeightsConfig):
    """Settings of `iwae`."""

    def at(self, step: Array, num_examples: int) -> Objective:
        """Return `iwae`."""
        del step, num_examples
        return iwae


def renyi(terms: Terms, *, alpha: float) -> Array:
    """Return 1/(1 - α) log 1/K Σ_k w_k^(1-α), and the mean of log w at α = 1 (Li & Turner, arXiv 1602.02311).

    α = 1 is the sampled ELBO and α = 0 is IWAE. The bound falls as α grows. With many samples it is a lower bound on
    log p(x) for α >= 0 and an upper bound for α <= 0. With few samples it is nearer to the ELBO, which it equals with
    one sample: lower for α < 1, and higher, but not higher than log p(x), for α > 1.

    Args:
      terms: log densities [K, B].
      alpha: the order α, a Python number.

    Returns:
      [B], in nats.

    Raises:
      ValueError: the posterior has no density.
    """
    log_w = log_weights(terms)
    mean = jnp.mean(log_w, axis=0)
    if alpha == 1:
        return mean
    # Centred at the mean of log w, the powers have a mean of 1 + something >= 0, and log1p keeps its digits as α
    # approaches 1. The value does not depend on the centre, so neither does the derivative. A weight of 0 has no mean.
    centre = lax.stop_gradient(jnp.where(jnp.isfinite(mean), mean, jnp.max(log_w, axis=0)))
    power = (1 - alpha) * (log_w - centre[None])
    near = jnp.max(power, axis=0) < 10
    small = jnp.log1p(jnp.mean(jnp.expm1(jnp.minimum(power, 10)), axis=0))
    return centre + jnp.where(near, small, log_mean_exp(power)) / (1 - alpha)


@register("objective", "renyi")
@dataclasses.dataclass(frozen=True)
class RenyiConfig(_WeightsConfig):
    """Settings of `renyi`."""

    alpha: float = setting(
        0.5, "Order of the Rényi divergence: 1 is the sampled ELBO, 0 is the objective iwae.", minimum=0
    )

    def at(self, step: Array, num_examples: int) -> Objective:
        """Return `renyi` with its order."""
        del step, num_examples
        return functools.partial(renyi, alpha=self.alpha)


def miwae(terms: Terms, *, num_inner_samples: int) -> Array:
    """Return 1/M Σ_m log 1/N Σ_n w_mn, the mean of M IWAE bounds of N samples (Rainforth et al., arXiv 1802.04537).

    N = 1 is the sampled ELBO and N = K is IWAE.

    Args:
      terms: log densities [K, B] with K = M·N.
      num_inner_samples: N, a divisor of K.

    Returns:
      [B], in nats.

    Raises:
      ValueError: the posterior has no density, or N does not divide K.
    """
    log_w = log_weights(terms)
    if log_w.shape[0] % num_inner_samples:
        raise ValueError(f"num_inner_samples={num_inner_samples} must divide the {log_w.shape[0]} samples")
    groups = log_w.reshape(-1, num_inner_samples, log_w.shape[1])  # [M, N, B]
    return jnp.mean(log_mean_exp(groups, axis=1), axis=0)


@register("objective", "miwae")
@dataclasses.dataclass(frozen=True)
class MIWAEConfig(_InnerConfig):
    """Settings of `miwae`."""

    def at(self, step: Array, num_examples: int) -> Objective:
        """Return `miwae` with its number of inner samples."""
        del step, num_examples
        return functools.partial(miwae, num_inner_samples=self.num_inner_samples)


def ciwae(terms: Terms, *, elbo_weight: float) -> Array:
    """Return b · 1/K Σ_k log w_k + (1 - b) log 1/K Σ_k w_k, a mean of ELBO and IWAE (Rainforth et al., 1802.04537).

    Args:
      terms: log densities [K, B].
      elbo_weight: b, between 0 (IWAE) and 1 (sampled ELBO).

    Returns:
      [B], in nats.

    Raises:
      ValueError: the posterior has no density.
    """
    log_w = log_weights(terms)
    return elbo_weight * jnp.mean(log_w, axis=0) + (1 - elbo_weight) * log_mean_exp(log_w)


@register("objective", "ciwae")
@dataclasses.dataclass(frozen=True)
class CIWAEConfig(_WeightsConfig):
    """Settings of `ciwae`."""

    elbo_weight: float = setting(
        0.5, "Weight of the ELBO; the IWAE bound has the rest.", minimum=0, maximum=1, batchable=True
    )

    def at(self, step: Array, num_examples: int) -> Objective:
        """Return `ciwae` with its weight."""
        del step, num_examples
        return functools.partial(ciwae, elbo_weight=self.elbo_weight)


@register("objective", "piwae")
@dataclasses.dataclass(frozen=True)
class PIWAEConfig(_InnerConfig):
    """Settings of PIWAE: `iwae` for the decoder and `miwae` for the encoder (Rainforth et al., arXiv 1802.04537)."""

    is_pair: ClassVar[bool] = True

    def at(self, step: Array, num_examples: int) -> Pair:
        """Return the pair with its number of inner samples."""
        del step, num_examples
        return Pair(generative=iwae, inference=functools.partial(miwae, num_inner_samples=self.num_inner_samples))


def cubo(terms: Terms, *, order: float = 2.0) -> Array:
    """Return CUBO_n = 1/n log 1/K Σ_k w_k^n (Dieng et al., arXiv 1611.00328).

    With many samples it is an *upper* bound on log p(x), to be minimized. With few samples it is lower, and with K = 1
    it is log w. At n = 2 it exceeds log p(x) by ½ log(1 + χ²(p(z|x) || q(z|x))). It is Rényi's bound at α = 1 - n.

    Args:
      terms: log densities [K, B].
      order: n >= 1, a Python number.

    Returns:
      [B], in nats.

    Raises:
      ValueError: the posterior has no density.
    """
    return renyi(terms, alpha=1 - order)


def negative_cubo(terms: Terms, *, order: float = 2.0) -> Array:
    """Return -CUBO_n, which an encoder maximizes to lower the upper bound.

    Args:
      terms: log densities [K, B].
      order: n >= 1, a Python number.

    Returns:
      [B], in nats.

    Raises:
      ValueError: the posterior has no density.
    """
    return -cubo(terms, order=order)


@register("objective", "cubo")
@dataclasses.dataclass(frozen=True)
class CUBOConfig(_WeightsConfig):
    """Settings of `negative_cubo` for the encoder, and `iwae` for the decoder: it does not minimize an upper bound."""

    is_pair: ClassVar[bool] = True

    order: float = setting(
        2.0, "Order of the upper bound that the encoder minimizes; 2 is the chi-square bound.", minimum=1
    )

    def at(self, step: Array, num_examples: int) -> Pair:
        """Return the pair with its order."""
        del step, num_examples
        return Pair(generative=iwae, inference=functools.partial(negative_cubo, order=self.order))
