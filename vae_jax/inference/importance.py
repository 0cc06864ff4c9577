"""inference.importance."""

import math

import jax
import jax.numpy as jnp
from jax import Array, lax

from vae_jax.inference.terms import Terms, log_weights

# Bounds by importance weights: functions of log w alone.


def log_mean_exp(log_w: Array, axis: int = 0) -> Array:
    return jax.nn.logsumexp(log_w, axis=axis) - math.log(log_w.shape[axis])


def iwae(terms: Terms) -> Array:
    """log 1/K Σ_k w_k, [B]: a lower bound on log p(x) that tightens with K (Burda et al., arXiv 1509.00519)."""
    return log_mean_exp(log_weights(terms))


def renyi(terms: Terms, *, alpha: float) -> Array:
    """1/(1 - α) log 1/K Σ_k w_k^(1-α), [B], the mean of log w at α = 1 (Li & Turner, arXiv 1602.02311).

    α = 1 is the sampled ELBO, α = 0 is IWAE, and it falls as α grows. With many samples a lower bound on log p(x) for
    α >= 0 and an upper one for α <= 0; with few it lies nearer the ELBO, which it is with one: lower for α < 1, and
    higher, but no higher than log p(x), for α > 1. `alpha` is a Python number.
    """
    log_w = log_weights(terms)
    mean = jnp.mean(log_w, axis=0)
    if alpha == 1:
        return mean
    # About their mean, the powers have a mean of 1 + something >= 0: log1p keeps its digits as α nears 1. The value
    # does not depend on the centre, so neither does the derivative.
    centre = lax.stop_gradient(mean)
    power = (1 - alpha) * (log_w - centre[None])
    near = jnp.max(power, axis=0) < 10
    small = jnp.log1p(jnp.mean(jnp.expm1(jnp.minimum(power, 10)), axis=0))
    return centre + jnp.where(near, small, log_mean_exp(power)) / (1 - alpha)


def miwae(terms: Terms, *, num_inner_samples: int) -> Array:
    """1/M Σ_m log 1/N Σ_n w_mn, [B]: the mean of M IWAE bounds of N = `num_inner_samples` samples each, K = M·N.

    N = 1 is the sampled ELBO, N = K is IWAE (Rainforth et al., arXiv 1802.04537). Raises ValueError where N does
    not divide K.
    """
    log_w = log_weights(terms)
    if log_w.shape[0] % num_inner_samples:
        raise ValueError(f"num_inner_samples={num_inner_samples} must divide the {log_w.shape[0]} samples")
    groups = log_w.reshape(-1, num_inner_samples, log_w.shape[1])  # [M, N, B]
    return jnp.mean(log_mean_exp(groups, axis=1), axis=0)


def ciwae(terms: Terms, *, elbo_weight: float) -> Array:
    """b · 1/K Σ_k log w_k + (1 - b) log 1/K Σ_k w_k with b = `elbo_weight`, [B] (Rainforth et al., 1802.04537)."""
    log_w = log_weights(terms)
    return elbo_weight * jnp.mean(log_w, axis=0) + (1 - elbo_weight) * log_mean_exp(log_w)


def cubo(terms: Terms, *, order: float = 2.0) -> Array:
    """CUBO_n = 1/n log 1/K Σ_k w_k^n with n = `order` >= 1, [B] (Dieng et al., arXiv 1611.00328).

    An *upper* bound on log p(x) with many samples, to be made small; with few it lies lower, and K = 1 is log w.
    At n = 2 it exceeds log p(x) by ½ log(1 + χ²(p(z|x) || q(z|x))). It is Rényi's bound at α = 1 - n.
    """
    return renyi(terms, alpha=1 - order)


def negative_cubo(terms: Terms, *, order: float = 2.0) -> Array:
    """-CUBO_n, [B]: what an encoder climbs to bring the upper bound down."""
    return -cubo(terms, order=order)
