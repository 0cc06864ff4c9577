"""vae_jax/inference/pareto.py: shapes of tails that are known in closed form, and the fit against NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax.inference import pareto

shape_of = jax.jit(pareto.pareto_shape)


def largest(log_w, count=None):
    """Return the sorted tail [M + 1, B] of log weights [K, B]."""
    count = pareto.tail_length(len(log_w)) if count is None else count
    return jnp.asarray(np.sort(log_w, axis=0)[::-1][: count + 1], jnp.float32)


def fitted(log_w):
    """Return k̂ of a tail [M + 1] in NumPy: the posterior mean of θ on the grid of Zhang & Stephens."""
    w = np.exp(np.asarray(log_w, np.float64) - log_w[0])
    x = np.sort(w[:-1] - w[-1])
    n = len(x)
    m = 30 + int(np.sqrt(n))
    theta = 1 / x[-1] + (1 - np.sqrt(m / (np.arange(1, m + 1) - 0.5))) / 3 / x[int(n / 4 + 0.5) - 1]
    k = np.array([np.mean(np.log1p(-t * x)) for t in theta])
    profile = n * (np.log(-theta / k) - k - 1)
    weights = np.exp(profile - profile.max())
    mean = (theta * weights).sum() / weights.sum()
    return (n * np.mean(np.log1p(-mean * x)) + 5) / (n + 10)


@pytest.mark.parametrize("k", [0.2, 0.5, 0.7, 0.9])
def test_the_shape_of_exponential_weights_is_known(k):
    """With p = Exp(1), q = Exp(λ) the weights exceed t with probability t^(-λ/(λ-1)): k = (λ - 1) / λ."""
    rate = 1 / (1 - k)
    x = np.random.default_rng(0).exponential(1 / rate, size=(20_000, 30))
    tails = largest((rate - 1) * x)
    found = np.asarray(shape_of(tails))
    count = len(tails) - 1
    expected = (count * k + 5) / (count + 10)
    error = (1 + k) / np.sqrt(count)  # of one maximum likelihood estimate
    assert abs(found.mean() - expected) < 4 * error / np.sqrt(30)
    assert found.std() == pytest.approx(error, rel=0.5)


@pytest.mark.parametrize("spread", [0.3, 2.0, 20.0])
def test_the_fit_is_that_of_numpy(spread):
    tails = largest(spread * np.random.default_rng(1).normal(size=(1000, 4)))
    np.testing.assert_allclose(shape_of(tails), [fitted(tail) for tail in np.asarray(tails).T], atol=2e-3)


def test_weights_that_underflow_have_a_large_shape():
    """With a spread of 180 they span several hundred nats, which only float64 can represent."""
    noise = np.random.default_rng(1).normal(size=(5000, 4))
    for spread in (30, 100, 180):
        tails = largest(spread * noise)
        np.testing.assert_allclose(shape_of(tails), [fitted(tail) for tail in np.asarray(tails).T], rtol=1e-3)


def test_the_length_of_the_tail():
    assert [pareto.tail_length(k) for k in (5000, 1000, 100, 25, 4)] == [213, 95, 20, 5, 0]


def test_equal_weights_have_no_tail_and_a_tail_that_is_too_short_is_refused():
    assert shape_of(jnp.full((30, 2), -7.0)).tolist() == [0, 0]
    assert np.isfinite(shape_of(jnp.asarray([[0.0], *([[-200.0]] * 20)]))).all()  # one weight is everything
    with pytest.raises(AssertionError):
        pareto.pareto_shape(jnp.zeros((5, 2)))


def test_weights_that_equal_the_threshold_are_not_in_the_tail():
    rng = np.random.default_rng(0)
    two_values = np.where(np.arange(1000) < 50, 1.0, 0.0)
    mostly_equal = np.where(np.arange(1000) < 950, 1.0, 1 + rng.gumbel(0, 0.3, 1000))
    rounded = mostly_equal + rng.normal(0, 1e-7, 1000)
    few_finite = np.where(np.arange(1000) < 10, rng.normal(size=1000), -np.inf)
    far = np.where(np.arange(1000) < 950, -500.0, rng.normal(0, 100, 1000))
    columns = np.stack([two_values, mostly_equal, rounded, few_finite, far], axis=1)
    k = np.asarray(shape_of(largest(columns)))
    assert k[0] < 0
    above = np.sort(mostly_equal)[::-1]
    np.testing.assert_allclose(k[1], fitted(np.append(above[above > 1], 1.0)), atol=2e-3)
    np.testing.assert_allclose(k[2], k[1], atol=2e-3)
    assert np.isfinite(k[3])
    assert k[3] < pareto.RELIABLE < k[4]
