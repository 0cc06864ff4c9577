"""Poisson, NegativeBinomial and ZeroInflatedNegativeBinomial: log probability, tails, limits, gradients and samples.

The references are sums of log Γ in float64. Their largest terms are about 10^7, so that they are accurate to 10^−8.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from densities import FAMILY, B, gather, log_prob, normals, sample

from vae_jax.distributions.counts import NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial

COUNTS = [0.0, 1.0, 2.0, 3.0, 7.0, 8.0, 9.0, 30.0, 1e3, 1e5]
MEANS = np.array([1e-8, 1e-3, 0.1, 1.0, 3.0, 10.0, 1e3, 9e4, 1e5])
DISPERSIONS = np.array([1e-6, 1e-3, 0.1, 1.0, 7.0, 8.0, 20.0, 1e4, 1e6])
FAMILY_OF_COUNTS = ["poisson", "negative binomial", "zero-inflated negative binomial"]


@jax.jit
def evaluate(density, value):
    """The log probabilities, and the gradients of their sum to the density and the values."""
    log_probability, pullback = jax.vjp(lambda density, value: density.log_prob(value), density, value)
    return log_probability, *pullback(jnp.ones_like(log_probability))


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def grid(dtype, *axes):
    """All combinations of numbers, as arrays of one axis."""
    return [a.reshape(-1) for a in np.meshgrid(*(np.asarray(axis, dtype) for axis in axes))]


def scalars(kind, *parameters):
    return kind(*map(jnp.asarray, parameters), event_ndims=0)


def in_float64(function):
    return lambda *arrays: function(*(np.asarray(a, np.float64) for a in arrays))


@in_float64
def poisson_reference(x, log_rate):
    return x * log_rate - np.exp(log_rate) - scipy.special.gammaln(x + 1)


@in_float64
def negative_binomial_reference(x, log_mean, log_r):
    r = np.exp(log_r)
    gammas = scipy.special.gammaln(x + r) - scipy.special.gammaln(r) - scipy.special.gammaln(x + 1)
    return gammas - r * np.log1p(np.exp(log_mean - log_r)) - x * np.logaddexp(0, log_r - log_mean)


@in_float64
def negative_binomial_gradients(x, log_mean, log_r):
    mean, r = np.exp(log_mean), np.exp(log_r)
    digammas = scipy.special.digamma(x + r) - scipy.special.digamma(r)
    return r * (x - mean) / (r + mean), r * (digammas - np.log1p(mean / r) - (x - mean) / (r + mean))


@in_float64
def zero_inflated_reference(x, log_mean, log_r, logits):
    count = -np.logaddexp(0, logits) + negative_binomial_reference(x, log_mean, log_r)
    return np.where(x == 0, np.logaddexp(-np.logaddexp(0, -logits), count), count)


@pytest.mark.parametrize("seed", range(2))
def test_counts_equal_scipy(seed):
    log_mean, log_r, logits = (normals(seed + i, B, 3) for i in (0, 10, 20))
    value = jnp.floor(5 * jnp.abs(normals(seed + 30, B, 3)))
    mean, r = np.exp(gather(log_mean).astype(np.float64)), np.exp(gather(log_r).astype(np.float64))
    expected = scipy.stats.poisson.logpmf(gather(value), mean)
    np.testing.assert_allclose(log_prob(Poisson(log_mean), value), expected.sum(-1), rtol=1e-5, atol=1e-5)
    expected = scipy.stats.nbinom.logpmf(gather(value), r, r / (r + mean))
    ours = log_prob(NegativeBinomial(log_mean, log_r), value)
    np.testing.assert_allclose(ours, expected.sum(-1), rtol=1e-5, atol=1e-5)
    dropout = scipy.special.expit(gather(logits).astype(np.float64))
    inflated = np.log((gather(value) == 0) * dropout + (1 - dropout) * np.exp(expected)).sum(-1)
    ours = log_prob(ZeroInflatedNegativeBinomial(log_mean, log_r, logits), value)
    np.testing.assert_allclose(ours, inflated, rtol=1e-5, atol=1e-5)


# (dtype, error relative to the value, absolute error), in the centre, in the tails and for large parameters
PRECISIONS = [(np.float32, 5e-6, 2e-6), (np.float64, 1e-9, 1e-8)]


@pytest.mark.parametrize(("dtype", "rtol", "atol"), PRECISIONS)
def test_poisson_is_accurate_in_the_tails_with_its_gradient(dtype, rtol, atol):
    x, log_rate = grid(dtype, COUNTS, np.log(MEANS))
    with jax.enable_x64(dtype == np.float64):
        density, value = scalars(Poisson, log_rate), jnp.asarray(x)
        ours, gradient, _ = jax.device_get(evaluate(density, value))
    assert ours.dtype == dtype
    np.testing.assert_allclose(ours, poisson_reference(x, log_rate), rtol=rtol, atol=atol)
    rate = np.exp(log_rate.astype(np.float64))
    rounding = np.finfo(dtype).eps * (x + rate)  # the difference of a count and its mean
    assert np.all(np.abs(gradient.log_rate - (x - rate)) <= 2 * rounding)


@pytest.mark.parametrize(("dtype", "rtol", "atol"), PRECISIONS)
def test_negative_binomial_is_accurate_in_the_tails_with_its_gradients(dtype, rtol, atol):
    x, log_mean, log_r = grid(dtype, COUNTS, np.log(MEANS), np.log(DISPERSIONS))
    with jax.enable_x64(dtype == np.float64):
        density, value = scalars(NegativeBinomial, log_mean, log_r), jnp.asarray(x)
        ours, gradient, _ = jax.device_get(evaluate(density, value))
    assert ours.dtype == dtype
    np.testing.assert_allclose(ours, negative_binomial_reference(x, log_mean, log_r), rtol=rtol, atol=4 * atol)
    for_mean, for_r = negative_binomial_gradients(x, log_mean, log_r)
    rounding = np.finfo(dtype).eps * (x + np.exp(log_mean.astype(np.float64)))
    assert np.all(np.abs(gradient.log_mean - for_mean) <= 2 * rounding + rtol * np.abs(for_mean))
    np.testing.assert_allclose(gradient.log_dispersion, for_r, rtol=2 * rtol, atol=30 * atol)


def test_counts_far_from_the_mean_are_accurate_in_float32():
    (poisson, negative), r = (np.log(np.float32([29453, 57567]))), np.log(np.float32(11043))
    mean, dispersion = np.exp(np.float64([poisson, negative])), np.exp(np.float64(r))
    found = evaluate(Poisson(jnp.asarray([poisson])), jnp.asarray([23474.0]))[0]
    np.testing.assert_allclose(found, scipy.stats.poisson(mean[0]).logpmf(23474), atol=2e-3)
    found = evaluate(NegativeBinomial(jnp.asarray([negative]), jnp.asarray([r])), jnp.asarray([76665.0]))[0]
    exact = scipy.stats.nbinom(dispersion, dispersion / (dispersion + mean[1])).logpmf(76665)
    np.testing.assert_allclose(found, exact, atol=2e-3)


@pytest.mark.parametrize("value", [-1.0, 0.5, 2.5])
def test_a_number_that_is_no_count_has_no_log_probability(value):
    log_mean = jnp.log(jnp.full(2, 3.0))
    for density in (Poisson(log_mean), NegativeBinomial(log_mean, log_mean)):
        assert np.isnan(evaluate(density, jnp.asarray([1.0, value]))[0])


@pytest.mark.usefixtures("x64")
def test_counts_of_moderate_size_are_accurate_to_rounding_in_float64():
    x, log_mean, log_r = grid(float, COUNTS[:8], np.log(MEANS[1:6]), np.log(DISPERSIONS[1:7]))
    ours, gradient, _ = evaluate(scalars(NegativeBinomial, log_mean, log_r), jnp.asarray(x))
    np.testing.assert_allclose(ours, negative_binomial_reference(x, log_mean, log_r), rtol=1e-12, atol=2e-13)
    for_mean, for_r = negative_binomial_gradients(x, log_mean, log_r)
    np.testing.assert_allclose(gradient.log_mean, for_mean, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(gradient.log_dispersion, for_r, rtol=2e-10, atol=2e-11)
    np.testing.assert_allclose(
        log_prob(scalars(Poisson, log_mean), x), poisson_reference(x, log_mean), rtol=1e-12, atol=2e-13
    )


def test_a_negative_binomial_of_a_small_mean_has_accurate_zeros():
    log_mean, log_r = grid(np.float32, [-40.0, -20.0, -10.0, -3.0], [-5.0, 0.0, 5.0, 20.0])
    density, zeros = scalars(NegativeBinomial, log_mean, log_r), jnp.zeros(log_mean.shape)
    expected = -np.exp(log_r.astype(np.float64)) * np.log1p(np.exp(log_mean.astype(np.float64) - log_r))
    np.testing.assert_allclose(log_prob(density, zeros), expected, rtol=1e-5)
    np.testing.assert_allclose(log_prob(scalars(Poisson, log_mean), zeros), -np.exp(log_mean), rtol=1e-6)


@pytest.mark.parametrize(("dtype", "rtol", "atol"), PRECISIONS)
def test_zero_inflated_negative_binomial_is_accurate_with_its_gradients(dtype, rtol, atol):
    parameters = grid(dtype, [0.0, 1.0, 8.0, 1e3], [-5.0, 0.0, 7.0], [-3.0, 1.0, 10.0], [-90.0, -15.0, 0.0, 3.0, 90.0])
    x, log_mean, log_r, logits = parameters
    with jax.enable_x64(dtype == np.float64):
        density, value = scalars(ZeroInflatedNegativeBinomial, log_mean, log_r, logits), jnp.asarray(x)
        ours, gradient, _ = jax.device_get(evaluate(density, value))
    np.testing.assert_allclose(ours, zero_inflated_reference(*parameters), rtol=rtol, atol=4 * atol)
    count = negative_binomial_reference(x, log_mean, log_r) - np.logaddexp(0, logits.astype(np.float64))
    dropped = np.where(x == 0, scipy.special.expit(-np.logaddexp(0, -logits.astype(np.float64)) - count), 0.0)
    for_mean, for_r = negative_binomial_gradients(x, log_mean, log_r)
    expected = ((1 - dropped) * for_mean, (1 - dropped) * for_r, dropped - scipy.special.expit(logits))
    ours = (gradient.log_mean, gradient.log_dispersion, gradient.dropout_logits)
    for our, their in zip(ours, expected, strict=True):
        np.testing.assert_allclose(our, their, rtol=20 * rtol, atol=20 * atol)


@pytest.mark.parametrize("kind", [Poisson, NegativeBinomial, ZeroInflatedNegativeBinomial])
def test_counts_are_finite_for_extreme_parameters(kind):
    extremes = [-80.0, -40.0, 0.0, 40.0, 80.0]
    number = {Poisson: 1, NegativeBinomial: 2, ZeroInflatedNegativeBinomial: 3}[kind]
    x, *parameters = grid(np.float32, [0.0, 1.0, 5.0, 1e5], *number * [extremes])
    density = scalars(kind, *parameters)
    chex.assert_tree_all_finite(evaluate(density, jnp.asarray(x)))
    chex.assert_tree_all_finite(density.mean())


@pytest.mark.usefixtures("x64")
def test_negative_binomial_has_the_second_derivatives_of_the_trigamma_function():
    x, log_mean, log_r = grid(float, [0.0, 1.0, 5.0, 100.0], [-1.0, 2.0, 4.5], [-2.0, 1.0, 3.0, 6.0])
    one = lambda x, m, r: NegativeBinomial(m, r, event_ndims=0).log_prob(x)  # noqa: E731
    hessian = jax.jit(jax.vmap(jax.hessian(one, argnums=(1, 2))))(*map(jnp.asarray, (x, log_mean, log_r)))
    mean, r = np.exp(log_mean), np.exp(log_r)
    np.testing.assert_allclose(hessian[0][0], -r * mean * (x + r) / (r + mean) ** 2, rtol=1e-8)
    np.testing.assert_allclose(hessian[0][1], r * mean * (x - mean) / (r + mean) ** 2, rtol=1e-8)
    np.testing.assert_allclose(hessian[1][0], hessian[0][1], rtol=1e-7, atol=1e-9)
    trigammas = scipy.special.polygamma(1, x + r) - scipy.special.polygamma(1, r)
    second = r**2 * (trigammas + 1 / r - 1 / (r + mean) + (x - mean) / (r + mean) ** 2)
    np.testing.assert_allclose(hessian[1][1], second + negative_binomial_gradients(x, log_mean, log_r)[1], rtol=1e-6)


def test_negative_binomial_of_little_dispersion_is_poisson():
    log_mean = normals(0, B, 3) + 2
    value = jnp.floor(jnp.exp(log_mean))
    density = NegativeBinomial(log_mean, jnp.full((B, 3), 25.0))
    np.testing.assert_allclose(log_prob(density, value), log_prob(Poisson(log_mean), value), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(density.stddev(), Poisson(log_mean).stddev(), rtol=1e-6)


def test_zero_inflated_negative_binomial_without_dropout_is_negative_binomial():
    log_mean, log_r, value = normals(0, B, 3), normals(1, B, 3), jnp.arange(24.0).reshape(B, 3)
    ours = ZeroInflatedNegativeBinomial(log_mean, log_r, jnp.full((B, 3), -40.0))
    theirs = NegativeBinomial(log_mean, log_r)
    np.testing.assert_allclose(log_prob(ours, value), log_prob(theirs, value), rtol=1e-6)
    np.testing.assert_allclose(ours.mean(), theirs.mean(), rtol=1e-6)
    np.testing.assert_allclose(ours.stddev(), theirs.stddev(), rtol=1e-6)


@pytest.mark.parametrize("name", FAMILY_OF_COUNTS)
def test_probabilities_of_counts_sum_to_one_with_the_mean_and_the_standard_deviation(name):
    three = jax.tree.map(lambda a: a[0] - 1, FAMILY[name]())
    density = scalars(type(three), *jax.tree.leaves(three))
    counts = jnp.broadcast_to(jnp.arange(4000.0)[:, None], (4000, 3))
    probability = np.exp(gather(log_prob(density, counts)).astype(np.float64))
    mean = (probability * gather(counts)).sum(0)
    np.testing.assert_allclose(probability.sum(0), 1, rtol=1e-5)
    np.testing.assert_allclose(density.mean(), mean, rtol=1e-4)
    stddev = np.sqrt((probability * (gather(counts) - mean) ** 2).sum(0))
    np.testing.assert_allclose(density.stddev(), stddev, rtol=1e-4)


@pytest.mark.parametrize("name", FAMILY_OF_COUNTS)
def test_samples_of_counts_have_the_probabilities_of_the_distribution(name):
    three = jax.tree.map(lambda a: jnp.append(a[0, :2] - 3, 8.0), FAMILY[name]())  # the last one has a large mean
    density, n = scalars(type(three), *jax.tree.leaves(three)), 10_000
    draws = gather(sample(density, jax.random.key(1), (n,)))
    assert draws.dtype == np.float32
    np.testing.assert_array_equal(draws, np.floor(draws))
    mean, stddev = gather(density.mean()), gather(density.stddev())
    assert np.all(np.abs(draws.mean(0) - mean) < 5 * stddev / np.sqrt(n))
    squares = (draws - mean) ** 2
    assert np.all(np.abs(squares.mean(0) - stddev**2) < 5 * squares.std(0) / np.sqrt(n))
    counts = np.broadcast_to(np.arange(4, dtype=np.float32)[:, None], (4, 3))
    expected = np.exp(gather(log_prob(density, counts)))
    error = np.abs((draws == counts[:, None]).mean(1) - expected)
    assert np.all(error <= 5 * np.sqrt(expected * (1 - expected) / n) + 1e-6)
    pairs = np.corrcoef(draws.T) - np.eye(3)
    assert np.all(np.abs(pairs[:2, :2]) < 5.5 / np.sqrt(n))  # the draws are independent


@pytest.mark.parametrize("name", FAMILY_OF_COUNTS)
def test_counts_have_no_gradient_to_values_and_through_samples(name):
    density = FAMILY[name]()
    _, _, for_value = evaluate(density, density.mean())
    np.testing.assert_array_equal(for_value, 0)
    through = jax.jit(jax.grad(lambda q: q.sample(jax.random.key(0)).sum()))(density)
    for leaf in jax.tree.leaves(through):
        np.testing.assert_array_equal(leaf, 0)


def test_counts_are_drawn_with_keys_of_another_implementation():
    density = FAMILY["poisson"]()
    keys = jax.random.split(jax.random.key(0, impl="rbg"), B)
    draws = gather(sample(density, keys))
    np.testing.assert_array_equal(draws, np.floor(draws))
    one = sample(jax.tree.map(lambda a: a[3], density), keys[3])
    np.testing.assert_array_equal(one, draws[3])
    assert len(np.unique(draws, axis=0)) == B


@pytest.mark.parametrize("number", [2, 3])
def test_counts_refuse_parameters_of_two_shapes(number):
    kind = {2: NegativeBinomial, 3: ZeroInflatedNegativeBinomial}[number]
    density = kind(jnp.zeros((B, 3)), *(number - 1) * [jnp.zeros(3)])
    with pytest.raises(AssertionError):
        density.log_prob(jnp.zeros((B, 3)))
    with pytest.raises(AssertionError):
        density.sample(jax.random.key(0))
