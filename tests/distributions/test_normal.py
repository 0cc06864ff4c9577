"""Normal and standard_normal: log density, samples, gradients and refusals."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as npd
import pytest
import scipy.stats
from densities import B, D, gather, log_prob, normals, sample

from vae_jax.distributions.kl import kl_divergence
from vae_jax.distributions.normal import Normal, standard_normal


@pytest.mark.parametrize("seed", range(5))
def test_normal_equals_scipy_and_numpyro(seed):
    loc, log_scale, value = normals(seed, B, D), normals(seed + 10, B, D), normals(seed + 20, B, D, scale=3.0)
    ours = Normal(loc, log_scale).log_prob(value)
    scipys = scipy.stats.norm.logpdf(gather(value), gather(loc), np.exp(gather(log_scale))).sum(-1)
    np.testing.assert_allclose(ours, scipys, rtol=1e-5, atol=1e-5)
    numpyros = npd.Normal(loc, jnp.exp(log_scale)).to_event(1).log_prob(value)
    np.testing.assert_allclose(ours, numpyros, rtol=1e-5, atol=1e-5)


def test_normal_sums_over_its_event_axes_only():
    loc, log_scale, value = normals(0, B, 4, 3, 2), normals(1, B, 4, 3, 2), normals(2, B, 4, 3, 2)
    complete = Normal(loc, log_scale, event_ndims=3).log_prob(value)
    assert complete.shape == (B,)
    np.testing.assert_allclose(complete, Normal(loc, log_scale).log_prob(value).sum((1, 2)), rtol=1e-5)


def test_standard_normal_equals_scipy():
    z = normals(0, 7, B, D)
    expected = scipy.stats.norm.logpdf(gather(z)).sum(-1)
    np.testing.assert_allclose(standard_normal((D,)).log_prob(z), expected, rtol=1e-5)
    np.testing.assert_allclose(standard_normal((B, D)).log_prob(z), expected, rtol=1e-5)
    assert standard_normal((4, 4, D), event_ndims=3).log_prob(normals(0, B, 4, 4, D)).shape == (B,)


@pytest.mark.parametrize("log_scale", [-40.0, -10.0, 10.0, 40.0])
def test_normal_is_finite_and_correct_for_extreme_scales(log_scale):
    loc, value = jnp.array([0.25, 1.0, -3.0]), jnp.array([0.25, 1.5, 30.0])
    density = Normal(loc, jnp.full_like(loc, log_scale))
    expected = scipy.stats.norm.logpdf(gather(value), gather(loc), np.exp(log_scale)).sum()
    value_and_grad = jax.value_and_grad(log_prob, argnums=(0, 1))
    ours, gradients = value_and_grad(density, value)
    np.testing.assert_allclose(ours, expected, rtol=1e-5)
    chex.assert_tree_all_finite(gradients)
    chex.assert_tree_all_finite(jax.grad(lambda q: kl_divergence(q, standard_normal((3,))))(density))


def test_normal_samples_have_the_moments_of_the_distribution():
    density, n = Normal(normals(0, B, D), normals(1, B, D, scale=0.5)), 40_000
    draws = gather(sample(density, jax.random.key(2), (n,)))
    scale = np.exp(gather(density.log_scale))
    standardized = (draws - gather(density.loc)) / scale
    assert np.all(np.abs(standardized.mean(0)) < 5 / np.sqrt(n))
    assert np.all(np.abs((standardized**2).mean(0) - 1) < 5 * np.sqrt(2 / n))
    pairs = np.corrcoef(standardized.reshape(n, -1).T) - np.eye(B * D)
    assert np.all(np.abs(pairs) < 5.5 / np.sqrt(n))  # all draws are independent


def test_normal_samples_are_reparameterized():
    density = Normal(normals(0, B, D), normals(1, B, D))
    key = jax.random.key(2)
    gradient = jax.grad(lambda q: q.sample(key).sum())(density)
    np.testing.assert_array_equal(gradient.loc, 1.0)
    np.testing.assert_allclose(gradient.log_scale, density.sample(key) - density.loc, rtol=1e-4, atol=1e-5)


def test_normal_standard_deviation_is_that_of_numpyro():
    density = Normal(normals(0, B, D), normals(1, B, D))
    expected = npd.Normal(density.loc, jnp.exp(density.log_scale)).variance ** 0.5
    np.testing.assert_allclose(density.stddev(), expected, rtol=1e-5)


def test_normal_of_scalar_events():
    density = Normal(normals(0, B), normals(1, B), event_ndims=0)
    assert density.batch_shape == (B,)
    value, log_prob = density.sample_and_log_prob(jax.random.key(0), (3,))
    expected = scipy.stats.norm.logpdf(gather(value), gather(density.loc), np.exp(gather(density.log_scale)))
    np.testing.assert_allclose(log_prob, expected, rtol=1e-5, atol=1e-5)


def test_normal_refuses_parameters_of_two_shapes():
    for loc, log_scale in ((jnp.zeros((B, D)), jnp.zeros(D)), (jnp.zeros((B, D)), jnp.zeros((B, 1)))):
        with pytest.raises(AssertionError):
            Normal(loc, log_scale).log_prob(jnp.zeros((B, D)))
        with pytest.raises(AssertionError):
            Normal(loc, log_scale).sample(jax.random.key(0))
