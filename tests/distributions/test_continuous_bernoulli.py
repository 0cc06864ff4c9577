"""ContinuousBernoulli: log density and its constant around and far from logit zero, moments and samples."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
from densities import IMAGE, B, gather, log_prob, normals, sample

from vae_jax.distributions.bernoulli import Bernoulli
from vae_jax.distributions.continuous_bernoulli import ContinuousBernoulli

# Around zero, on both sides of the limits of the expansions (¼ and 1), and in the tails.
SIZES = [0.0, 1e-30, 1e-8, 1e-4, 0.01, 0.2499, 0.2501, 0.5, 0.9999, 1.0, 1.0001, 3.0, 20.0, 80.0, 104.0]
LOGITS = np.array(SIZES + [-size for size in SIZES])

value_and_grad = jax.jit(jax.value_and_grad(lambda density, value: density.log_prob(value).sum(), argnums=(0, 1)))


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def scalars(logits):
    return ContinuousBernoulli(jnp.asarray(logits), event_ndims=0)


def moments(logits):
    """log ∫₀¹ exp(l·x) dx, the mean and the variance, by Gauss-Legendre quadrature in float64."""
    nodes, weights = np.polynomial.legendre.leggauss(60)
    size = np.abs(np.asarray(logits, np.float64))[:, None]
    width = np.minimum(1, 60 / np.maximum(size, 1))  # the integrand is less than exp(−60) beyond
    distance = width * (nodes + 1) / 2  # to the likelier end
    mass = np.exp(-size * distance) * width * weights / 2
    total = mass.sum(-1)
    mean = (mass * distance).sum(-1) / total
    variance = (mass * (distance - mean[:, None]) ** 2).sum(-1) / total
    positive = np.asarray(logits) > 0
    return np.log(total) + positive * size[:, 0], np.where(positive, 1 - mean, mean), variance


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("x", [0.0, 0.3, 1.0])
def test_continuous_bernoulli_equals_quadrature_in_float64_with_its_gradient(x):
    constant, mean, _ = moments(LOGITS)
    value = jnp.full(LOGITS.shape, x)
    np.testing.assert_allclose(scalars(LOGITS).log_prob(value), LOGITS * x - constant, rtol=1e-12, atol=1e-12)
    _, (for_density, for_x) = value_and_grad(scalars(LOGITS), value)
    np.testing.assert_allclose(for_density.logits, x - mean, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(for_x, LOGITS, rtol=1e-15)


@pytest.mark.usefixtures("x64")
def test_continuous_bernoulli_mean_and_standard_deviation_equal_quadrature_in_float64():
    _, mean, variance = moments(LOGITS)
    np.testing.assert_allclose(scalars(LOGITS).mean(), mean, rtol=1e-11)
    np.testing.assert_allclose(scalars(LOGITS).stddev(), np.sqrt(variance), rtol=1e-9)
    # d mean / d l is the variance
    slope = jax.grad(lambda density: density.mean().sum())(scalars(LOGITS)).logits
    np.testing.assert_allclose(slope, variance, rtol=1e-9)


@pytest.mark.parametrize("x", [0.0, 0.3, 1.0])
def test_continuous_bernoulli_in_float32_is_accurate_around_zero_and_in_the_tails(x):
    logits = LOGITS.astype(np.float32)
    x = np.float32(x)
    constant, mean, variance = moments(logits)
    density, value = scalars(logits), jnp.full(logits.shape, x)
    expected = logits.astype(np.float64) * x - constant
    np.testing.assert_allclose(density.log_prob(value), expected, rtol=1e-6, atol=5e-7)
    _, (for_density, _) = value_and_grad(density, value)
    np.testing.assert_allclose(for_density.logits, x - mean, rtol=1e-6, atol=5e-7)
    np.testing.assert_allclose(density.mean(), mean, rtol=1e-6)
    np.testing.assert_allclose(density.stddev(), np.sqrt(variance), rtol=5e-6)


def test_continuous_bernoulli_of_logit_zero_is_uniform():
    density, value = ContinuousBernoulli(jnp.zeros((4, 3, 1))), jax.random.uniform(jax.random.key(0), (4, 3, 1))
    ours, (for_density, for_x) = value_and_grad(density, value)
    np.testing.assert_array_equal(ours, 0)
    np.testing.assert_allclose(for_density.logits, value - 0.5, atol=1e-7)
    np.testing.assert_array_equal(for_x, 0)
    np.testing.assert_array_equal(density.mean(), 0.5)
    np.testing.assert_allclose(density.stddev(), 12**-0.5, rtol=1e-6)


@pytest.mark.parametrize("logit", [1e3, 1e4, 1e15])
def test_continuous_bernoulli_is_finite_for_extreme_logits(logit):
    for sign in (-1, 1):
        for x in (0.0, 0.25, 1.0):
            density = scalars(jnp.full(1, sign * logit))
            ours, gradients = value_and_grad(density, jnp.full(1, x))
            distance = 1 - x if sign > 0 else x
            np.testing.assert_allclose(ours, np.log(logit) - logit * distance, rtol=1e-6)
            np.testing.assert_allclose(gradients[0].logits, sign * (1 / logit - distance), rtol=1e-6)
        for f in (lambda d: d.mean(), lambda d: d.stddev(), lambda d: d.sample(jax.random.key(0), (100,))):
            chex.assert_tree_all_finite(jax.jit(jax.value_and_grad(lambda d, f=f: f(d).sum()))(density))


@pytest.mark.parametrize("logit", [0.0, 0.9, -5.0, 60.0])
def test_continuous_bernoulli_integrates_to_one(logit):
    x = jnp.linspace(0, 1, 2001)[:, None]
    probability = jnp.exp(log_prob(scalars(jnp.full(1, logit)), x))[:, 0]
    np.testing.assert_allclose(scipy.integrate.simpson(probability, x=gather(x)[:, 0]), 1, rtol=1e-5)


def test_continuous_bernoulli_is_the_bernoulli_term_plus_a_constant():
    logits = normals(0, B, *IMAGE, 1, scale=3.0)
    values = [jax.random.uniform(jax.random.key(seed), logits.shape) for seed in (1, 2)]
    ours = [log_prob(ContinuousBernoulli(logits), value) for value in values]
    theirs = [log_prob(Bernoulli(logits), value) for value in values]
    np.testing.assert_allclose(ours[0] - ours[1], theirs[0] - theirs[1], rtol=1e-4, atol=1e-4)
    # The constant is log 2 at least: (exp(l) − 1) / l ≤ (1 + exp(l)) / 2.
    assert np.all(ours[0] - theirs[0] >= np.log(2) * logits[0].size)


def test_continuous_bernoulli_samples_have_the_distribution_function_and_the_moments():
    logits, n = np.array([0.0, 0.1, -0.24, 0.26, 3.0, -3.0, 40.0, -40.0], np.float32), 40_000
    density = scalars(logits)
    draws = gather(sample(density, jax.random.key(1), (n,)))
    assert draws.dtype == np.float32
    assert draws.min() >= 0
    assert draws.max() <= 1
    mean, stddev = gather(density.mean()), gather(density.stddev())
    assert np.all(np.abs(draws.mean(0) - mean) < 5 * stddev / np.sqrt(n))
    squares = (draws - mean) ** 2
    assert np.all(np.abs(squares.mean(0) - stddev**2) < 5 * squares.std(0) / np.sqrt(n))
    for level in (0.01, 0.3, 0.7, 0.99):
        wide = logits.astype(np.float64) + 1e-9
        quantile = np.log1p(level * np.expm1(wide)) / wide
        assert np.all(np.abs((draws < quantile).mean(0) - level) < 5 * np.sqrt(level * (1 - level) / n))


def test_continuous_bernoulli_samples_of_the_extreme_uniform_numbers_are_in_the_interval(monkeypatch):
    logits = jnp.array([-104.0, -20.0, -1.0, -0.1, 0.0, 0.1, 1.0, 20.0, 104.0])
    for number in (0.0, 1 - 2.0**-23):  # the least and the largest number that jax.random.uniform returns
        monkeypatch.setattr(jax.random, "uniform", lambda key, shape, dtype, u=number: jnp.full(shape, u, dtype))
        x, slope = jax.jvp(lambda l: scalars(l).sample(jax.random.key(0)), (logits,), (jnp.ones_like(logits),))
        chex.assert_tree_all_finite((x, slope))
        assert np.all((x >= 0) & (x <= 1))
        np.testing.assert_allclose(x[2:7], number, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_continuous_bernoulli_samples_are_reparameterized(dtype):
    """The gradient of a sample is −(dF / dl) / p, where F is the distribution function."""
    with jax.enable_x64(dtype == np.float64):
        logits = np.array([0.0, 0.01, -0.24, 0.26, -0.26, 1.0, 5.0, -5.0], dtype)
        x, slope = jax.jvp(
            lambda l: scalars(l).sample(jax.random.key(3)), (jnp.asarray(logits),), (jnp.ones(8, dtype),)
        )
    x, logits = gather(x).astype(np.float64), logits.astype(np.float64)
    nodes, weights = np.polynomial.legendre.leggauss(40)
    inside = x[:, None] * (nodes + 1) / 2
    mean = moments(logits)[1]
    log_density = logits[:, None] * (inside - x[:, None])  # of the points up to x, relative to that at x
    expected = -(np.exp(log_density) * (inside - mean[:, None]) * weights).sum(-1) * x / 2
    np.testing.assert_allclose(slope, expected, rtol=1e-4 if dtype == np.float32 else 1e-5, atol=2e-6)
