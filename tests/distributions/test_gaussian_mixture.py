"""The mixture of normal distributions against a double loop in float64, and its samples against their moments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flow_cases import normalization, numbers

from vae_jax.distributions import gaussian_mixture
from vae_jax.distributions.gaussian_mixture import GaussianMixture


def mixture(count, size, scale=1.0):
    return GaussianMixture(numbers(0, count), numbers(1, count, size, scale=2), numbers(2, count, size, scale=scale))


def double_loop(density, values):
    """Return log Σ_c π_c N(z; m_c, σ_c²) of each value in float64."""
    logits, loc, log_scale = (np.asarray(a, np.float64) for a in (density.logits, density.loc, density.log_scale))
    log_weights = logits - np.log(np.exp(logits).sum())
    result = []
    for value in np.asarray(values, np.float64):
        terms = []
        for log_weight, m, s in zip(log_weights, loc, log_scale, strict=True):
            terms.append(log_weight + sum(-0.5 * ((value - m) / np.exp(s)) ** 2 - s - 0.5 * np.log(2 * np.pi)))
        result.append(np.log(np.sum(np.exp(np.array(terms) - max(terms)))) + max(terms))
    return np.array(result)


@jax.jit
def log_prob_and_gradient(density, value):
    return density.log_prob(value), jax.grad(lambda *a: jnp.sum(a[0].log_prob(a[1])), argnums=(0, 1))(density, value)


@pytest.mark.parametrize("count", [1, 7, 75])  # of 75 components, those of the last chunk are not complete
def test_the_log_density_equals_a_double_loop(count, monkeypatch):
    density, value = mixture(count, 3), numbers(5, 4, 6, 3, scale=3)
    found, gradient = log_prob_and_gradient(density, value)
    assert found.shape == (4, 6)
    np.testing.assert_allclose(found.reshape(-1), double_loop(density, value.reshape(-1, 3)), rtol=1e-5, atol=1e-5)
    if count > gaussian_mixture._CHUNK:
        monkeypatch.setattr(gaussian_mixture, "_CHUNK", count)
        at_once, expected = jax.jit(log_prob_and_gradient.__wrapped__)(density, value)
        np.testing.assert_allclose(found, at_once, rtol=1e-6, atol=1e-6)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), gradient, expected)
    far, gradient = log_prob_and_gradient(density, value + 1e4)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((far, gradient)))


def test_the_density_integrates_to_one():
    assert float(jax.jit(normalization)(mixture(40, 2, scale=0.1))) == pytest.approx(1, abs=1e-3)


def test_samples_have_the_moments_and_depend_on_their_key_alone():
    density, count = mixture(4, 2, scale=0.3), 4000

    @jax.jit
    def draw(density):
        keys = jax.random.split(jax.random.key(0), count)
        return density.sample(jax.random.key(1), (count,)), density.sample(keys, (count,)), density.sample(
            keys[7:9], (2,)), density.mean(), density.stddev()  # fmt: skip

    (one_key, own_keys, part, mean, stddev) = map(np.asarray, draw(density))
    for z in (one_key, own_keys):
        assert np.all(np.abs(z.mean(0) - mean) < 5 * stddev / np.sqrt(count))
        squares = (z - mean) ** 2
        assert np.all(np.abs(squares.mean(0) - stddev**2) < 5 * squares.std(0) / np.sqrt(count))
    np.testing.assert_array_equal(part, own_keys[7:9])
    assert density.batch_shape == ()
    assert density.event_ndims == 1
    np.testing.assert_allclose(density.tempered(0.5).log_scale, density.log_scale + np.log(0.5), rtol=1e-5)


@pytest.mark.fault
def test_shapes_that_do_not_fit_are_refused():
    density = mixture(4, 2)
    with pytest.raises(ValueError, match=r"^shapes \[3\] and \[2\] may differ only by leading axes"):
        density.log_prob(jnp.zeros(3))
    with pytest.raises(AssertionError):
        GaussianMixture(jnp.zeros(3), jnp.zeros((4, 2)), jnp.zeros((4, 2))).log_prob(jnp.zeros(2))
