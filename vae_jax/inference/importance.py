"""Importance-weighted bounds on log p(x): functions of the log weights alone."""

import math

import jax
import jax.numpy as jnp
from jax import Array, lax

from vae_jax.inference.terms import Terms, log_weights


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
    # approaches 1. The value does not depend on the centre, so neither does the derivative.
    centre = lax.stop_gradient(mean)
    power = (1 - alpha) * (log_w - centre[None])
    near = jnp.max(power, axis=0) < 10
    small = jnp.log1p(jnp.mean(jnp.expm1(jnp.minimum(power, 10)), axis=0))
    return centre + jnp.where(near, small, log_mean_exp(power)) / (1 - alpha)


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
