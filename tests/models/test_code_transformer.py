"""The transformer of codes: causality, the cache, equal probabilities at first, samples with and without the cache."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from code_models import code_config

from vae_jax import random
from vae_jax.config import choice
from vae_jax.errors import InputError

COUNT, CODES = 5, 7


def transformer(count=COUNT, codes=CODES, seed=0, **settings):
    """Return (module, variables away from the initial ones) of a small transformer."""
    settings = {"layers": 2, "heads": 2, "width": 8} | settings
    module = choice("prior", "transformer-codes", **settings).build_codes(count, codes)

    @jax.jit
    def make(key):
        variables = module.init(key)
        leaves, tree = jax.tree.flatten(variables)
        keys = jax.random.split(key, len(leaves))
        noise = [0.3 * jax.random.normal(k, leaf.shape) for k, leaf in zip(keys, leaves, strict=True)]
        return variables, jax.tree.unflatten(tree, [a + b for a, b in zip(leaves, noise, strict=True)])

    initial, moved = make(jax.random.key(seed))
    return module, initial, moved


@pytest.fixture(scope="module")
def small():
    return transformer()


CODES_OF_TWO = np.random.default_rng(0).integers(0, CODES, (2, COUNT)).astype(np.int32)


def test_the_codes_have_equal_probabilities_at_first(small):
    module, initial, _ = small
    log_p = jax.jit(lambda v: module.apply(v).log_prob(CODES_OF_TWO))(initial)
    np.testing.assert_allclose(log_p, np.full(2, -COUNT * np.log(CODES)), rtol=1e-6)


def test_a_position_depends_on_the_codes_before_it_alone(small):
    module, _, variables = small
    logits = jax.jit(lambda v, c: module.apply(v).network(c))
    found = logits(variables, CODES_OF_TWO)
    for g in range(COUNT):
        changed = CODES_OF_TWO.copy()
        changed[:, g] = (changed[:, g] + 1) % CODES
        again = logits(variables, changed)
        np.testing.assert_array_equal(again[:, : g + 1], found[:, : g + 1])
        if g < COUNT - 1:
            assert np.abs(again[:, g + 1] - found[:, g + 1]).min() > 1e-6


def test_the_steps_of_the_cache_are_the_logits_of_all_codes(small):
    module, _, variables = small

    @jax.jit
    def both(variables):
        network = module.apply(variables).network
        cache, found = network(2, method="start"), []
        for g in range(COUNT):
            before = CODES_OF_TWO[:, g - 1] if g else np.full(2, CODES)
            cache, logits = network(cache, jnp.asarray(before), jnp.asarray(g), method="step")
            found.append(logits)
        return jnp.stack(found, axis=1), network(jnp.asarray(CODES_OF_TWO))

    steps, expected = both(variables)
    np.testing.assert_allclose(steps, expected, rtol=1e-4, atol=1e-5)
    assert np.ptp(expected, axis=-1).min() > 0.1


def sample_without_cache(density, keys):
    """Return the samples of keys [N] by a pass over all codes for each position."""

    def advance(codes, g):
        logits = jnp.take(density.network(codes), g, axis=1)
        noise = random.drawn(jax.random.gumbel, random.fold_in(keys, g), logits.shape)
        return codes.at[:, g].set(jnp.argmax(logits + noise, axis=-1).astype(jnp.int32)), None

    codes = jnp.zeros((keys.shape[0], density.count), jnp.int32)
    return jax.lax.scan(advance, codes, jnp.arange(density.count))[0]


def samplers(module, size):
    """Return the samplers with and without the cache, (variables, keys) -> codes."""
    cached = jax.jit(lambda v, keys: module.apply(v).sample(keys, (size,)))
    return cached, jax.jit(lambda v, keys: sample_without_cache(module.apply(v), keys))


def test_samples_with_and_without_the_cache_are_equal(small):
    module, _, variables = small
    cached, slow = samplers(module, 50)
    keys = jax.random.split(jax.random.key(3), 50)
    np.testing.assert_array_equal(cached(variables, keys), slow(variables, keys))


@pytest.mark.thorough
def test_a_thousand_samples_with_and_without_the_cache_are_equal():
    module, _, variables = transformer(49, 64, layers=2, heads=2, width=32)
    keys = jax.random.split(jax.random.key(3), 1000)
    cached, slow = (sampler(variables, keys) for sampler in samplers(module, 1000))
    assert np.mean(cached == slow) > 0.999  # a rounding error may change one of 49,000 codes


def test_the_parameters_have_gradients(small):
    module, _, variables = small
    gradient = jax.jit(jax.grad(lambda v: jnp.sum(module.apply(v).log_prob(CODES_OF_TWO))))(variables)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))


@pytest.mark.fault
def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(InputError, match=r"^prior.width=10 must be a multiple of prior.heads=4"):
        code_config(prior="transformer-codes", prior__width=10)
