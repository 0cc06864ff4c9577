"""Rational-quadratic splines: knots, slopes, tails, inverse, and the formula of the paper in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax.distributions import splines
from vae_jax.distributions.splines import MIN_BIN, MIN_SLOPE, rational_quadratic

BOUND, BINS, COUNT = 3.0, 5, 200
X = np.random.default_rng(0).uniform(-4, 4, COUNT).astype(np.float32)
PARAMETERS = np.random.default_rng(1).normal(size=(COUNT, 3 * BINS - 1)).astype(np.float32)


@jax.jit
def both(x, parameters):
    forward = lambda x: rational_quadratic(x, parameters, BOUND)  # noqa: E731
    y, log_slope = forward(x)
    again, inverse_log_slope = rational_quadratic(y, parameters, BOUND, inverse=True)
    _, slope = jax.jvp(lambda x: forward(x)[0], (x,), (jnp.ones_like(x),))
    gradient = jax.grad(lambda p, x: jnp.sum(rational_quadratic(x, p, BOUND)[0] ** 2), argnums=(0, 1))(parameters, x)
    return y, log_slope, again, inverse_log_slope, slope, gradient


def reference(x, parameters):
    """The spline of one number in float64, by a loop over bins."""
    w, h, raw = np.split(parameters.astype(np.float64), [BINS, 2 * BINS])
    shares = [MIN_BIN + (1 - MIN_BIN * BINS) * np.exp(a) / np.exp(a).sum() for a in (w, h)]
    (xs, ys), slopes = ([-BOUND + 2 * BOUND * np.concatenate([[0], np.cumsum(s)]) for s in shares]), [1.0]
    slopes += [MIN_SLOPE + np.log1p(np.exp(r + np.log(np.expm1(1 - MIN_SLOPE)))) for r in raw] + [1.0]
    if not -BOUND < x < BOUND:
        return x
    k = max(i for i in range(BINS) if xs[i] <= x)
    width, height = xs[k + 1] - xs[k], ys[k + 1] - ys[k]
    t, s = (x - xs[k]) / width, height / width
    below = s + (slopes[k + 1] + slopes[k] - 2 * s) * t * (1 - t)
    return ys[k] + height * (s * t**2 + slopes[k] * t * (1 - t)) / below


def test_the_spline_its_slope_and_its_inverse():
    y, log_slope, again, inverse_log_slope, slope, gradient = both(X, PARAMETERS)
    expected = [reference(x, p) for x, p in zip(X, PARAMETERS, strict=True)]
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(np.exp(log_slope), slope, rtol=1e-4, atol=1e-5)
    # An error of the last digit of y is multiplied by the slope of the inverse.
    assert np.all(np.abs(again - X) <= 1e-6 * (1 + 4 / np.asarray(slope)))
    np.testing.assert_allclose(inverse_log_slope, -log_slope, rtol=1e-3, atol=1e-3)
    assert np.abs(y - X).max() > 0.5
    outside = np.abs(X) >= BOUND
    assert outside.any()
    np.testing.assert_array_equal(y[outside], X[outside])
    np.testing.assert_array_equal(log_slope[outside], 0)
    assert all(np.isfinite(part).all() for part in gradient)
    assert (np.abs(gradient[0][~outside]).max(axis=1) > 0).all()


def test_parameters_of_zero_are_the_identity():
    y, log_slope, *_ = both(X, np.zeros_like(PARAMETERS))
    np.testing.assert_allclose(y, X, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(log_slope, 0, atol=1e-5)


def test_extreme_parameters_have_finite_values_and_gradients():
    *values, gradient = both(X, 1e3 * PARAMETERS)
    for leaf in jax.tree.leaves((values, gradient)):
        assert np.isfinite(leaf).all()
    assert splines.MIN_BIN * 100 < 1


@pytest.mark.fault
def test_parameters_of_another_shape_are_refused():
    with pytest.raises(AssertionError):
        rational_quadratic(jnp.zeros(3), jnp.zeros((2, 8)), 1.0)
    with pytest.raises(AssertionError):
        rational_quadratic(jnp.zeros(3), jnp.zeros((3, 7)), 1.0)
