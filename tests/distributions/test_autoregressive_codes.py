"""Codes one after another: the probabilities of all grids, samples, temperature, by a table in place of a network."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax.distributions import AutoregressiveCodes

COUNT, CODES = 3, 3
GRIDS = np.array(list(itertools.product(range(CODES), repeat=COUNT)), np.int32)
TABLE = np.random.default_rng(0).normal(size=(COUNT, CODES + 1, CODES)).astype(np.float32)  # position, code before


def network(table, *arguments, method=None):
    """Logits that depend on the code before; the cache is the number of steps."""
    if method == "start":
        return jnp.zeros((), jnp.int32)
    if method == "step":
        cache, codes, g = arguments
        return cache + 1, table[g, codes]
    (codes,) = arguments
    before = jnp.concatenate([jnp.full((codes.shape[0], 1), CODES), codes[:, :-1]], axis=1)
    return table[jnp.broadcast_to(jnp.arange(COUNT), before.shape), before]


DENSITY = AutoregressiveCodes(jax.tree_util.Partial(network, jnp.asarray(TABLE)), COUNT, CODES)


def log_probabilities(temperature=1.0):
    """Return log p of all grids by loops, [27]."""
    result = []
    for grid in GRIDS:
        total = 0.0
        for g, code in enumerate(grid):
            logits = TABLE[g, grid[g - 1] if g else CODES].astype(np.float64) / temperature
            total += logits[code] - np.log(np.exp(logits).sum())
        result.append(total)
    return np.array(result)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_log_probabilities_and_frequencies_of_samples_are_those_of_a_loop(temperature):
    keys = jax.random.split(jax.random.key(0), 4000).reshape(2, 2000)

    @jax.jit
    def run(density):
        density = density.tempered(temperature)
        return density.log_prob(GRIDS.reshape(3, 9, COUNT)), *density.sample_and_log_prob(keys, (2, 2000))

    log_p, z, log_p_z = run(DENSITY)
    expected = log_probabilities(temperature)
    np.testing.assert_allclose(log_p.reshape(-1), expected, rtol=1e-4)
    np.testing.assert_allclose(np.exp(expected).sum(), 1)
    assert (z.shape, z.dtype) == ((2, 2000, COUNT), jnp.int32)
    number = np.asarray(z).reshape(-1, COUNT) @ [9, 3, 1]
    np.testing.assert_allclose(log_p_z.reshape(-1), expected[number], rtol=1e-4)
    p = np.exp(expected)
    frequency = np.bincount(number, minlength=27) / 4000
    assert (np.abs(frequency - p) < 4.5 * np.sqrt(p * (1 - p) / 4000)).all()


def test_a_sample_depends_on_its_key_alone():
    keys = jax.random.split(jax.random.key(1), 6)
    sample = jax.jit(lambda keys: DENSITY.sample(keys, keys.shape))
    np.testing.assert_array_equal(sample(keys)[2:4], sample(keys[2:4]))


def test_the_mean_takes_the_most_probable_code_after_each():
    expected, before = [], CODES
    for g in range(COUNT):
        before = TABLE[g, before].argmax()
        expected.append(before)
    np.testing.assert_array_equal(jax.jit(DENSITY.mean)(), expected)


def test_a_code_out_of_range_is_nan():
    wrong = jnp.array([[0, CODES, 0], [0, 0, -1], [0, 0, 0]])
    np.testing.assert_array_equal(np.isnan(jax.jit(DENSITY.log_prob)(wrong)), [True, True, False])
    with pytest.raises(AssertionError):
        DENSITY.log_prob(jnp.zeros((1, COUNT)))
