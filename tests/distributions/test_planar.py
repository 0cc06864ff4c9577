"""The planar transform: its formula, the identity, and the gradient of the bisected inverse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flow_cases import numbers, planar

from vae_jax.distributions.planar import Planar


def test_the_formula_in_float64():
    transform, e = planar(3, 1, ()), numbers(4, 6, 3)
    u, w, b = (np.asarray(a, np.float64) for a in (transform.u, transform.w, transform.b))
    product = w @ u
    u = u + (np.log1p(np.exp(product) * np.expm1(1)) - 1 - product) * w / (w @ w)
    position = np.tanh(np.asarray(e) @ w + b)
    z, log_det = jax.jit(Planar.forward)(transform, e)
    np.testing.assert_allclose(z, e + position[:, None] * u[None], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(log_det, np.log(1 + (1 - position**2) * (w @ u)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("factor", [0.0, -1e3, 1e3])
def test_the_identity_and_extreme_parameters_are_invertible(factor):
    transform, e = planar(3, 1, ()), numbers(4, 6, 3)
    transform = Planar(factor * transform.w, transform.w, transform.b)
    z, log_det = jax.jit(Planar.forward)(transform, e)
    again, _ = jax.jit(Planar.inverse)(transform, z)
    assert np.isfinite(log_det).all()
    if factor < 0:  # 1 + w·û is at its minimum, so z hardly depends on e in the direction of w
        assert np.isfinite(again).all()
        return
    np.testing.assert_allclose(again, e, atol=1e-5 * max(factor, 1))
    if factor == 0:
        np.testing.assert_allclose(z, e, atol=1e-6)


def test_the_inverse_has_the_gradient_of_the_solved_equation():
    transform, e = planar(3, 1, ()), numbers(4, 3)

    @jax.jit
    def derivatives(transform, e):
        def round_trip(transform, e):
            return transform.inverse(transform.forward(e)[0])[0]

        def log_dets(transform, e):
            z, log_det = transform.forward(e)
            return transform.inverse(z)[1] + log_det

        return jax.jacrev(round_trip, argnums=(0, 1))(transform, e), jax.grad(log_dets, argnums=(0, 1))(transform, e)

    (of_parameters, of_e), of_log_dets = derivatives(transform, e)
    np.testing.assert_allclose(of_e, np.eye(3), atol=1e-4)
    for leaf in jax.tree.leaves((of_parameters, of_log_dets)):
        np.testing.assert_allclose(leaf, jnp.zeros_like(leaf), atol=1e-4)


@jax.jit
def _log_dets(u, w, e):
    """The log determinants of both directions, and the gradient of the first to u."""

    def forward(u):
        z, log_det = Planar(u, w, jnp.zeros(())).forward(e)
        return jnp.sum(log_det), (z, log_det)

    gradient, (z, log_det) = jax.grad(forward, has_aux=True)(u)
    return log_det, Planar(u, w, jnp.zeros(())).inverse(z)[1], gradient


def test_the_density_is_accurate_where_the_derivative_is_small():
    u, w, e = np.array([-3.0, 0, 0]), np.array([3.0, 0, 0]), np.array([[0.0, 1, 2], [3e-5, 0, 0], [0.2, 0, 0]])
    gap, position = np.log1p(np.exp(w @ u) * np.expm1(1)), np.tanh(e @ w)
    expected = np.log(gap * (1 - position**2) + position**2)
    log_det, inverse, gradient = _log_dets(*(jnp.asarray(a, jnp.float32) for a in (u, w, e)))
    np.testing.assert_allclose(log_det, expected, rtol=2e-6)
    np.testing.assert_allclose(inverse, -expected, rtol=2e-3)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("first", [-12.0, -60.0])  # 1 + w·û would be less than the precision of 1, and 0
def test_the_density_is_finite_where_the_derivative_would_be_rounded_to_0(first):
    u, w, e = (jnp.asarray(a, jnp.float32) for a in ([first, 0, 0], [3.0, 0, 0], [[0.0, 1, 2], [1e-5, 0, 0]]))
    for found in _log_dets(u, w, e):
        assert np.isfinite(found).all()
