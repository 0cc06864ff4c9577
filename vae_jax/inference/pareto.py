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
      k̂, [B]; 0 if the weights of the tail are equal. Weights that equal the threshold, as those of discrete codes can,
      are not in the tail.

    Raises:
      AssertionError: there are fewer than `MIN_TAIL` weights above the threshold.
    """
    chex.assert_rank(log_w, 2)
    chex.assert_axis_dimension_gteq(log_w, 0, MIN_TAIL + 1)
    w = jnp.exp(log_w - log_w[:1])
    rounding = 8 * jnp.finfo(log_w.dtype).eps * (1 + jnp.abs(log_w[:-1]))
    is_tail = log_w[:-1] - jnp.maximum(log_w[-1:], jnp.finfo(log_w.dtype).min) > rounding  # [M, B], the first ones
    count = jnp.sum(is_tail, axis=0)
    has_tail = count > 0
    excess = jnp.where(is_tail, w[:-1] - w[-1:], 0.0)  # sorted from the largest one
    excess = jnp.where(has_tail[None], excess, 1.0)
    # a quarter of the excesses are smaller
    rank = jnp.clip(count - jnp.floor(count / 4 + 0.5).astype(count.dtype), 0, jnp.maximum(count - 1, 0))[None]
    quartile = jnp.take_along_axis(excess, rank, axis=0)[0]
    quartile = jnp.maximum(quartile, jnp.finfo(excess.dtype).tiny)
    number = 30 + int(math.sqrt(log_w.shape[0] - 1))
    spread = 1 - np.sqrt(number / (np.arange(1, number + 1) - 0.5))
    grid = jnp.asarray(spread, excess.dtype)[:, None] / (3 * quartile[None]) + 1 / excess[:1]  # [G, B], of -k / scale

    def shape(theta: Array) -> Array:
        return jnp.sum(jnp.log1p(-theta[:, None] * excess[None]), axis=1) / jnp.maximum(count, 1)[None]

    k = shape(grid)
    log_profile = count[None] * (jnp.log(-grid / k) - k - 1)
    weights = jax.nn.softmax(jnp.where(jnp.isfinite(log_profile), log_profile, -jnp.inf), axis=0)
    fitted = shape(jnp.sum(weights * jnp.where(weights > 0, grid, 0), axis=0)[None])[0]
    is_moderate = jnp.take_along_axis(log_w, rank, axis=0)[0] - log_w[0] > _UNDERFLOW
    fitted = jnp.where(is_moderate, fitted, _shape_of_extremes(log_w, spread, is_tail, rank))
    shrunk = (count * fitted + _PRIOR_WEIGHT * _PRIOR_SHAPE) / (count + _PRIOR_WEIGHT)
    return jnp.where(has_tail, shrunk, 0.0)


def _shape_of_extremes(log_w: Array, spread: np.ndarray, is_tail: Array, rank: Array) -> Array:
    """Return the fitted shape, [B], from the logarithms of the excesses: for those that are 0 in float32.

    The largest excess is so large that its reciprocal has no effect on the grid of θ, which is negative then.
    """
    count = jnp.maximum(jnp.sum(is_tail, axis=0), 1)
    difference = jnp.where(is_tail, log_w[-1:] - log_w[:-1], -1.0)
    log_excess = jnp.where(is_tail, log_w[:-1] + jnp.log(-jnp.expm1(difference)), -jnp.inf)  # [M, B]
    quartile = jnp.take_along_axis(log_excess, rank, axis=0)
    log_grid = jnp.asarray(np.log(-spread / 3), log_w.dtype)[:, None] - quartile  # [G, B], of -θ

    def shape(log_theta: Array) -> Array:
        return jnp.sum(jnp.logaddexp(0.0, log_theta[:, None] + log_excess[None]), axis=1) / count[None]

    k = shape(log_grid)
    log_weights = jax.nn.log_softmax(count[None] * (log_grid - jnp.log(k) - k), axis=0)
    return shape(jax.scipy.special.logsumexp(log_weights + log_grid, axis=0)[None])[0]
