"""Bernoulli: log probability, extreme logits and samples."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as npd
import pytest
import scipy.special
import scipy.stats
from densities import IMAGE, B, gather, log_prob, normals, sample

from vae_jax.distributions.bernoulli import Bernoulli


@pytest.mark.parametrize("seed", range(5))
def test_bernoulli_equals_scipy_and_numpyro(seed):
    logits = normals(seed, B, *IMAGE, 2, scale=3.0)
    value = jax.random.bernoulli(jax.random.key(seed + 10), 0.5, logits.shape).astype(jnp.float32)
    ours = Bernoulli(logits).log_prob(value)
    probability = scipy.special.expit(gather(logits).astype(np.float64))
    scipys = scipy.stats.bernoulli.logpmf(gather(value), probability).sum((1, 2, 3))
    np.testing.assert_allclose(ours, scipys, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(ours, npd.Bernoulli(logits=logits).to_event(3).log_prob(value), rtol=1e-5)


def test_bernoulli_probabilities_sum_to_one():
    images = jnp.array(list(itertools.product((0.0, 1.0), repeat=8))).reshape(-1, 2, 2, 2)
    probability = jnp.exp(log_prob(Bernoulli(normals(0, 2, 2, 2)), images))
    np.testing.assert_allclose(probability.sum(), 1.0, rtol=1e-5)


def test_bernoulli_of_intensities_is_the_expected_log_probability():
    density = Bernoulli(normals(0, 1, 1, 1, 1))
    intensity, ones = jnp.full((1, 1, 1, 1), 0.3), jnp.ones((1, 1, 1, 1))
    expected = 0.3 * log_prob(density, ones) + 0.7 * log_prob(density, 0 * ones)
    np.testing.assert_allclose(log_prob(density, intensity), expected, rtol=1e-6)


@pytest.mark.parametrize("logit", [0.0, 20.0, 88.0, 90.0, -90.0, 104.0, 1e4, -1e4])
@pytest.mark.parametrize("x", [0.0, 0.4, 1.0])
def test_bernoulli_is_finite_and_correct_for_extreme_logits(logit, x):
    shape = (2, 2, 1)
    value_and_grad = jax.value_and_grad(log_prob, argnums=(0, 1))
    ours, (for_density, for_x) = value_and_grad(Bernoulli(jnp.full(shape, logit)), jnp.full(shape, x))
    expected = 4 * (x * logit - np.logaddexp(0.0, logit))
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(for_density.logits, x - scipy.special.expit(logit), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(for_x, logit)


def test_bernoulli_samples_are_binary_and_have_the_mean_of_the_distribution():
    density, n = Bernoulli(normals(0, B, *IMAGE, 1, scale=2.0)), 20_000
    draws = gather(sample(density, jax.random.key(1), (n,)))
    assert draws.dtype == np.float32
    assert set(np.unique(draws)) == {0.0, 1.0}
    mean = gather(density.mean())
    np.testing.assert_allclose(mean, scipy.special.expit(gather(density.logits)), rtol=1e-5)
    assert np.all(np.abs(draws.mean(0) - mean) < 5 * np.sqrt(mean * (1 - mean) / n))


@pytest.mark.parametrize("logit", [0.0, 2.0, -30.0, 30.0, 80.0])
def test_bernoulli_standard_deviation(logit):
    expected = scipy.stats.bernoulli.std(scipy.special.expit(-abs(logit)))
    density = Bernoulli(jnp.full((1, 1, 1), logit))
    np.testing.assert_allclose(density.stddev(), np.full((1, 1, 1), expected), rtol=1e-5)
