"""Monotonic rational-quadratic splines, elementwise invertible functions of numbers."""

import math

import chex
import jax
import jax.numpy as jnp

from vae_jax.distributions.base import Array

MIN_BIN = 1e-3  # least width and height of a bin, as a share of the interval
MIN_SLOPE = 1e-3
_SLOPE_AT_ZERO = math.log(math.expm1(1 - MIN_SLOPE))  # so that parameters of 0 have slopes of 1


def rational_quadratic(x: Array, parameters: Array, bound: float, *, inverse: bool = False) -> tuple[Array, Array]:
    """Return a spline of numbers, y, and log dy/dx; with `inverse` its inverse function and the log derivative of that.

    Within a bin from (x_0, y_0) with width w, height h and slopes d_0, d_1 at its ends, with t = (x - x_0) / w and
    s = h / w:

        y = y_0 + h (s t² + d_0 t (1 - t)) / (s + (d_0 + d_1 - 2 s) t (1 - t))

    Outside of [-bound, bound] y is x. Parameters of 0 give y = x everywhere. Gregory & Delbourgo, IMA Journal of
    Numerical Analysis, 1982; Durkan et al., arXiv 1906.04032.

    Args:
      x: floats [...].
      parameters: floats [..., 3 N - 1]: the logits of the N widths, those of the N heights, and the N - 1 raw slopes at
        the knots between bins.
      bound: half of the length of the interval, above 0.
      inverse: whether to return the inverse function.

    Returns:
      y and log dy/dx, each [...].

    Raises:
      AssertionError: the shape of the parameters does not begin with that of x, x is not an array of floats, or the
        last axis is not 3 N - 1.
    """
    chex.assert_type(x, float)
    chex.assert_shape(parameters, (*x.shape, None))
    chex.assert_is_divisible(parameters.shape[-1] + 1, 3)
    inside = jnp.abs(x) < bound
    unit = jnp.where(inside, x / (2 * bound) + 0.5, 0.5)  # in [0, 1], also where the result is not used
    x0, y0, width, height, d0, d1 = _bin_of(unit, parameters, inverse)
    slope = height / width
    curvature = d0 + d1 - 2 * slope
    t = _inverse_position(unit - y0, height, slope, d0, curvature) if inverse else (unit - x0) / width
    t = jnp.clip(t, 0, 1)  # rounding of the knots
    mixed = t * (1 - t)
    denominator = slope + curvature * mixed
    y = x0 + t * width if inverse else y0 + height * (slope * t**2 + d0 * mixed) / denominator
    log_slope = 2 * jnp.log(slope) + jnp.log(d1 * t**2 + 2 * slope * mixed + d0 * (1 - t) ** 2)
    log_derivative = (log_slope - 2 * jnp.log(denominator)) * (-1 if inverse else 1)
    return jnp.where(inside, (2 * y - 1) * bound, x), jnp.where(inside, log_derivative, 0)


def _inverse_position(rise: Array, height: Array, slope: Array, d0: Array, curvature: Array) -> Array:
    """Return t in [0, 1], the root of the quadratic equation for the position of y in its bin, without cancellation."""
    a = height * (slope - d0) + rise * curvature
    b = height * d0 - rise * curvature
    c = -slope * rise
    discriminant = jnp.maximum(b**2 - 4 * a * c, jnp.finfo(b.dtype).tiny)
    return 2 * c / (-b - jnp.sqrt(discriminant))


def _bin_of(unit: Array, parameters: Array, inverse: bool) -> tuple[Array, ...]:
    """Return (x_0, y_0, w, h, d_0, d_1), each [...], of the bin that contains x, or y if `inverse`, in [0, 1]."""
    count = (parameters.shape[-1] + 1) // 3
    widths, heights, raw = jnp.split(parameters, [count, 2 * count], axis=-1)
    widths, heights = _shares(widths), _shares(heights)
    ones = jnp.ones((*raw.shape[:-1], 1), raw.dtype)
    slopes = jnp.concatenate([ones, MIN_SLOPE + jax.nn.softplus(raw + _SLOPE_AT_ZERO), ones], axis=-1)
    starts = [jnp.cumsum(shares, axis=-1) - shares for shares in (widths, heights)]  # [..., N]
    reached = unit[..., None] >= starts[1 if inverse else 0][..., 1:]
    index = jnp.sum(reached, axis=-1)
    chosen = jax.nn.one_hot(index, count, dtype=unit.dtype)  # a sum over it has a faster gradient than an index
    parts = (*starts, widths, heights, slopes[..., :-1], slopes[..., 1:])
    return tuple(jnp.sum(part * chosen, axis=-1) for part in parts)


def _shares(logits: Array) -> Array:
    """Return positive numbers with sum 1 over the last axis, each at least MIN_BIN."""
    return MIN_BIN + (1 - MIN_BIN * logits.shape[-1]) * jax.nn.softmax(logits, axis=-1)
