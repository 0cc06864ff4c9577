"""Normalizing flows of every transform: inverses, log determinants, densities, and the shapes of the contract."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flow_cases import TRANSFORMS, flow, normalization

from vae_jax import random
from vae_jax.distributions.flow import Flow, Inverse, Reverse
from vae_jax.distributions.normal import Normal, standard_normal

D, B, K = 5, 3, 4
KEY = jax.random.key(0)


@jax.jit
def properties(density, keys):
    """Return what the tests of a flow compare, from one program."""
    e = density.base.sample(keys, (K,))
    z, log_det = density.forward(e)
    sampled, log_q = density.sample_and_log_prob(keys, (K,))
    jacobian = jnp.diagonal(jax.vmap(jax.jacfwd(lambda e: density.forward(e)[0]))(e), axis1=1, axis2=3)  # [K, D, D, B]
    again, inverse_log_det = density.inverse(z)
    # The density of a sample by inversion has the derivatives of that of its noise if the inverse has the right ones.
    by_inversion = jax.grad(lambda density: jnp.sum(density.log_prob(density.forward(e)[0])))(density)
    by_noise = jax.grad(lambda density: jnp.sum(density.base.log_prob(e) - density.forward(e)[1]))(density)
    return {
        "e": e, "z": z, "log_det": log_det, "sampled": sampled, "log_q": log_q,
        "by_jacobian": jnp.linalg.slogdet(jnp.moveaxis(jacobian, -1, 1))[1],
        "again": again, "inverse_log_det": inverse_log_det, "forward_again": density.forward(again)[0],
        "log_prob": density.log_prob(z), "base": density.base.log_prob(e),
        "gradients": (by_inversion, by_noise), "mean": density.mean(), "stddev": density.stddev(),
    }  # fmt: skip


@pytest.mark.parametrize("name", TRANSFORMS)
def test_inverse_log_determinant_and_density(name):
    density = flow(name, D, (B,))
    assert (density.batch_shape, density.event_ndims) == ((B,), 1)
    found = properties(density, random.fold_in(random.example_keys(KEY, B)[None], jnp.arange(K)[:, None]))
    assert found["z"].shape == (K, B, D)
    assert np.abs(found["z"] - found["e"]).max() > 0.5
    np.testing.assert_allclose(found["again"], found["e"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(found["forward_again"], found["z"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(found["log_det"], found["by_jacobian"], rtol=1e-5, atol=2e-5)
    np.testing.assert_allclose(found["inverse_log_det"], -found["log_det"], rtol=1e-5, atol=2e-5)
    np.testing.assert_array_equal(found["sampled"], found["z"])
    np.testing.assert_allclose(found["log_q"], found["base"] - found["log_det"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found["log_prob"], found["log_q"], rtol=1e-5, atol=5e-5)  # by inversion
    close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-3)
    jax.tree.map(close, *found["gradients"])
    assert found["mean"].shape == found["stddev"].shape == (B, D)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_the_density_integrates_to_one(name):
    assert float(jax.jit(normalization)(flow(name, 2))) == pytest.approx(1, abs=2e-3)


def test_the_deviation_is_that_of_the_linear_flow_and_that_of_the_base_for_the_identity():
    base = Normal(jnp.arange(6.0).reshape(2, 3), jnp.linspace(-1, 1, 6).reshape(2, 3))
    kept = Flow(base, ())
    np.testing.assert_allclose(kept.stddev(), base.stddev(), rtol=1e-6)
    np.testing.assert_array_equal(kept.mean(), base.mean())
    reversed_ = Flow(base, (Reverse(),))
    np.testing.assert_allclose(reversed_.stddev(), base.stddev()[:, ::-1], rtol=1e-6)
    np.testing.assert_array_equal(Inverse(Reverse()).forward(base.loc)[0], base.loc[:, ::-1])


def test_a_temperature_multiplies_the_deviation_of_the_noise():
    density = flow("affine", 3)
    cold = density.tempered(0.1)
    np.testing.assert_allclose(cold.base.stddev(), 0.1 * density.base.stddev(), rtol=1e-6)
    sample = jax.jit(lambda density: density.sample(KEY, (64,)))
    distance = [np.abs(sample(d) - d.mean()[None]).mean() for d in (density, cold)]
    assert distance[1] < 0.3 * distance[0]


@pytest.mark.fault
def test_values_of_another_shape_or_dtype_are_refused():
    density = Flow(standard_normal((3,)), ())
    with pytest.raises(ValueError, match=r"^shapes \[2, 4\] and \[3\] may differ only by leading axes"):
        density.log_prob(jnp.zeros((2, 4)))
    with pytest.raises(AssertionError, match="float"):
        density.log_prob(jnp.zeros(3, jnp.int32))
