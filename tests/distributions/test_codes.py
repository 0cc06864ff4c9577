"""Distributions over grids of integer codes: probabilities against sums over all grids, and against NumPy."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax.distributions import CategoricalCodes, ChosenCodes, UniformCodes, kl_divergence

LOGITS = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
GRIDS = np.array(list(itertools.product(range(3), repeat=2)), np.int32)  # all grids of two codes, each one of three
DENSITIES = {"uniform": UniformCodes(3, 2), "categorical": CategoricalCodes(jnp.asarray(LOGITS))}


def probabilities(logits):
    return np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("name", DENSITIES)
def test_the_probabilities_of_all_grids_sum_to_one_and_samples_have_them(name):
    density = DENSITIES[name]
    keys = jax.random.split(jax.random.key(0), 4000)
    z, log_p, all_log_p = jax.jit(lambda d: (*d.sample_and_log_prob(keys, (4000,)), d.log_prob(GRIDS)))(density)
    assert (z.shape, z.dtype, density.batch_shape) == ((4000, 2), jnp.int32, ())
    p = np.exp(all_log_p)
    np.testing.assert_allclose(p.sum(), 1, rtol=1e-6)
    number = np.asarray(z) @ [3, 1]
    np.testing.assert_array_equal(log_p, np.asarray(all_log_p)[number])
    frequency = np.bincount(number, minlength=9) / 4000
    assert (np.abs(frequency - p) < 4 * np.sqrt(p * (1 - p) / 4000)).all()


def test_a_categorical_density_is_the_product_of_its_positions():
    p = probabilities(LOGITS)
    expected = np.log(p[0][GRIDS[:, 0]] * p[1][GRIDS[:, 1]])
    density = DENSITIES["categorical"]
    np.testing.assert_allclose(density.log_prob(GRIDS.reshape(3, 3, 2)), expected.reshape(3, 3), rtol=1e-5)
    np.testing.assert_array_equal(density.mean(), LOGITS.argmax(axis=-1))
    tempered = density.tempered(0.5).logits
    np.testing.assert_allclose(probabilities(tempered), p**2 / (p**2).sum(axis=-1, keepdims=True), rtol=1e-5)


def test_a_code_out_of_range_has_no_probability():
    wrong = np.array([[0, 3], [-1, 0]], np.int32)
    np.testing.assert_array_equal(DENSITIES["uniform"].log_prob(jnp.asarray(wrong)), [-np.inf] * 2)
    assert np.isnan(DENSITIES["categorical"].log_prob(jnp.asarray(wrong))).all()


def test_chosen_codes_have_probability_one():
    q = ChosenCodes(jnp.array([[1, 2], [0, 0]]), 3)
    z, log_q = q.sample_and_log_prob(jax.random.key(0), (4,))
    np.testing.assert_array_equal(z, np.broadcast_to(q.indices, (4, 2, 2)))
    np.testing.assert_array_equal(log_q, np.zeros((4, 2)))
    np.testing.assert_array_equal(q.log_prob(jnp.array([[1, 2], [0, 1]])), [0, -np.inf])
    np.testing.assert_array_equal(q.mean(), q.indices)
    np.testing.assert_array_equal(q.stddev(), np.zeros((2, 2)))
    assert q.batch_shape == (2,)
    assert kl_divergence(q, DENSITIES["uniform"]) is None  # the objectives use log q - log p of the sample
    assert DENSITIES["uniform"].tempered(2.0) is DENSITIES["uniform"]
    np.testing.assert_array_equal(DENSITIES["uniform"].mean(), [1, 1])


def test_codes_are_integers():
    with jax.enable_x64(True):
        assert UniformCodes(3, 2).sample(jax.random.key(0), (4,)).dtype == jnp.int32
    for density in (*DENSITIES.values(), ChosenCodes(jnp.zeros((1, 2), jnp.int32), 3)):
        with pytest.raises(AssertionError):
            density.log_prob(jnp.zeros((1, 2)))
    for density in DENSITIES.values():
        with pytest.raises(AssertionError):
            density.log_prob(jnp.zeros((1, 3), jnp.int32))
    chex.assert_trees_all_equal(jax.tree.leaves(UniformCodes(3, 2)), [])
