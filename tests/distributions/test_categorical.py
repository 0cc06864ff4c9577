"""Categorical: log probability, extreme logits and samples."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as npd
import pytest
import scipy.special
import scipy.stats
from densities import B, gather, log_prob, normals, sample

from vae_jax.distributions.categorical import Categorical

G, C = 4, 3  # numbers of an event, classes


def one_hot(seed, *shape, classes=C):
    return jax.nn.one_hot(jax.random.randint(jax.random.key(seed), shape, 0, classes), classes)


@pytest.mark.parametrize("seed", range(3))
def test_categorical_equals_scipy_and_numpyro(seed):
    logits, value = normals(seed, B, G, C, scale=3.0), one_hot(seed + 10, B, G)
    ours = Categorical(logits).log_prob(value)
    probability = scipy.special.softmax(gather(logits).astype(np.float64), axis=-1)
    scipys = scipy.stats.multinomial.logpmf(gather(value), 1, probability / probability.sum(-1, keepdims=True)).sum(-1)
    np.testing.assert_allclose(ours, scipys, rtol=1e-5, atol=1e-5)
    numpyros = npd.Categorical(logits=logits).to_event(1).log_prob(value.argmax(-1))
    np.testing.assert_allclose(ours, numpyros, rtol=1e-5, atol=1e-5)


def test_categorical_in_float64_has_the_gradient_of_the_softmax():
    with jax.enable_x64(True):
        logits, value = normals(0, B, G, C, scale=5.0), one_hot(1, B, G).astype(float)
        assert logits.dtype == np.float64
        ours = jax.grad(lambda q: q.log_prob(value).sum())(Categorical(logits)).logits
        expected = value - scipy.special.softmax(gather(logits), axis=-1)
        np.testing.assert_allclose(ours, expected, rtol=1e-10, atol=1e-14)


def test_categorical_probabilities_sum_to_one():
    classes = jnp.array(list(itertools.product(range(C), repeat=G)))
    probability = jnp.exp(log_prob(Categorical(normals(0, G, C)), jax.nn.one_hot(classes, C)))
    np.testing.assert_allclose(probability.sum(), 1.0, rtol=1e-5)


def test_categorical_of_probabilities_is_the_expected_log_probability():
    density = Categorical(normals(0, 1, C))
    weights = jnp.array([0.2, 0.5, 0.3])
    expected = weights @ log_prob(density, jnp.eye(C)[:, None])
    np.testing.assert_allclose(log_prob(density, weights[None]), expected, rtol=1e-6)


@pytest.mark.parametrize("logit", [20.0, 104.0, 1e4, 1e30])
def test_categorical_is_finite_and_correct_for_extreme_logits(logit):
    logits = np.array([logit, 0.0, -logit], np.float32)
    for c in range(C):
        value_and_grad = jax.value_and_grad(log_prob, argnums=(0, 1))
        ours, (for_density, for_x) = value_and_grad(Categorical(jnp.array(logits)[None]), jnp.eye(C)[c][None])
        expected = scipy.special.log_softmax(logits.astype(np.float64))
        np.testing.assert_allclose(ours, expected[c], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(for_density.logits[0], np.eye(C)[c] - np.exp(expected), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(for_x[0], expected, rtol=1e-5, atol=1e-6)


def test_categorical_samples_are_one_hot_and_have_the_mean_and_the_standard_deviation_of_the_distribution():
    density, n = Categorical(normals(0, B, G, C, scale=2.0)), 20_000
    draws = gather(sample(density, jax.random.key(1), (n,)))
    assert draws.dtype == np.float32
    assert set(np.unique(draws)) == {0.0, 1.0}
    np.testing.assert_array_equal(draws.sum(-1), 1.0)
    mean = gather(density.mean())
    np.testing.assert_allclose(mean, scipy.special.softmax(gather(density.logits), axis=-1), rtol=1e-5)
    np.testing.assert_allclose(density.stddev(), np.sqrt(mean * (1 - mean)), rtol=1e-4)
    assert np.all(np.abs(draws.mean(0) - mean) < 5 * np.sqrt(mean * (1 - mean) / n))
    first, second = draws[:, :, 0], draws[:, :, 1]  # the numbers of an event are independent
    covariance = np.einsum("nbc,nbd->bcd", first, second) / n - mean[:, 0, :, None] * mean[:, 1, None]
    assert np.all(np.abs(covariance) < 5 * np.sqrt(mean[:, 0, :, None] * mean[:, 1, None] / n))


def test_categorical_of_events_of_other_ranks():
    logits, value = normals(0, B, 2, G, C), one_hot(1, B, 2, G)
    complete = Categorical(logits, event_ndims=3)
    assert complete.batch_shape == (B,)
    np.testing.assert_allclose(complete.log_prob(value), Categorical(logits).log_prob(value).sum(-1), rtol=1e-5)
    of_one = Categorical(logits, event_ndims=1)
    assert of_one.batch_shape == (B, 2, G)
    np.testing.assert_allclose(of_one.log_prob(value).sum((1, 2)), complete.log_prob(value), rtol=1e-5)


def test_categorical_refuses_another_number_of_classes():
    with pytest.raises(ValueError, match="leading axes"):
        Categorical(jnp.zeros((B, G, C))).log_prob(jnp.zeros((B, G, 1)))
    with pytest.raises(ValueError, match="leading axes"):
        Categorical(jnp.zeros((B, G, C))).log_prob(jnp.zeros((B, G)))
