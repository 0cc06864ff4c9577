"""The tail of importance weights: whether their mean can be trusted (Vehtari et al., arXiv 1507.02646)."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

MIN_TAIL = 5  # weights of the shortest tail that is fitted
RELIABLE = 0.7  # above this shape the mean of the weights converges too slowly to be trusted
_UNDERFLOW = -80.0  # differences of log weights whose exponential is nearly 0 in float32
_PRIOR_WEIGHT, _PRIOR_SHAPE = 10, 0.5  # the shape is that of so many more weights with the shape 1/2


def tail_length(num_samples: int) -> int:
    """Return how many of K weights are the tail: min(K/5, 3 √K)."""
    return min(num_samples // 5, math.ceil(3 * math.sqrt(num_samples)))


def pareto_shape(log_w: Array) -> Array:
    """Return k̂, the shape of a generalized Pareto distribution of the largest importance weights.

    The weights have finite moments of orders below 1/k: their mean exists for k < 1 and their variance for k < 1/2. For
    k̂ > 0.7 the mean of practical numbers of weights is unreliable. The fit is that of Zhang & Stephens (Technometrics,
    2009), with the prior of Vehtari et al., appendix C.

    Args:
      log_w: the M + 1 largest log weights, sorted from the largest one, [M + 1, B]. The last one is the threshold.

    Returns:
      k̂, [B]; 0 if the weights of the tail are equal.

    Raises:
      AssertionError: there are fewer than `MIN_TAIL` weights above the threshold.
    """
    chex.assert_rank(log_w, 2)
    chex.assert_axis_dimension_gteq(log_w, 0, MIN_TAIL + 1)
    count = log_w.shape[0] - 1
    w = jnp.exp(log_w - log_w[:1])
    excess = w[:-1] - w[-1:]  # [M, B], sorted from the largest one
    has_tail = excess[0] > jnp.finfo(excess.dtype).eps
    excess = jnp.where(has_tail[None], excess, 1.0)
    rank = count - int(count / 4 + 0.5)  # a quarter of the excesses are smaller
    quartile = excess[rank]
    quartile = jnp.maximum(quartile, jnp.finfo(excess.dtype).tiny)
    number = 30 + int(math.sqrt(count))
    spread = 1 - np.sqrt(number / (np.arange(1, number + 1) - 0.5))
    grid = jnp.asarray(spread, excess.dtype)[:, None] / (3 * quartile[None]) + 1 / excess[:1]  # [G, B], of -k / scale

    def shape(theta: Array) -> Array:
        return jnp.mean(jnp.log1p(-theta[:, None] * excess[None]), axis=1)

    k = shape(grid)
    log_profile = count * (jnp.log(-grid / k) - k - 1)
    weights = jax.nn.softmax(jnp.where(jnp.isfinite(log_profile), log_profile, -jnp.inf), axis=0)
    fitted = shape(jnp.sum(weights * jnp.where(weights > 0, grid, 0), axis=0)[None])[0]
    fitted = jnp.where(log_w[rank] - log_w[0] > _UNDERFLOW, fitted, _shape_of_extremes(log_w, spread, rank))
    shrunk = (count * fitted + _PRIOR_WEIGHT * _PRIOR_SHAPE) / (count + _PRIOR_WEIGHT)
    return jnp.where(has_tail, shrunk, 0.0)


def _shape_of_extremes(log_w: Array, spread: np.ndarray, rank: int) -> Array:
    """Return the fitted shape, [B], from the logarithms of the excesses: for those that are 0 in float32.

    The largest excess is so large that its reciprocal has no effect on the grid of θ, which is negative then.
    """
    above = jnp.maximum(-jnp.expm1(log_w[-1:] - log_w[:-1]), jnp.finfo(log_w.dtype).eps)  # equal weights are no 0
    log_excess = log_w[:-1] + jnp.log(above)  # [M, B]
    log_grid = jnp.asarray(np.log(-spread / 3), log_w.dtype)[:, None] - log_excess[rank][None]  # [G, B], of -θ

    def shape(log_theta: Array) -> Array:
        return jnp.mean(jnp.logaddexp(0.0, log_theta[:, None] + log_excess[None]), axis=1)

    k = shape(log_grid)
    log_weights = jax.nn.log_softmax(len(log_excess) * (log_grid - jnp.log(k) - k), axis=0)
    return shape(jax.scipy.special.logsumexp(log_weights + log_grid, axis=0)[None])[0]
