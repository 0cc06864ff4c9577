"""vae_jax.random: the numbers of jax.random, bit for bit, by another program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax import random

SHAPES = [(), (1,), (7,), (0, 3), (128, 391), (3, 5, 11)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_bits_are_those_of_jax(shape, impl):
    key = jax.random.key(5, impl=impl)
    ours, theirs = random.bits(key, shape), jax.random.bits(key, shape, jnp.uint32)
    np.testing.assert_array_equal(ours, theirs)
    assert ours.dtype == theirs.dtype


@pytest.mark.parametrize("shape", SHAPES)
def test_normals_are_those_of_jax(shape):
    ours, theirs = (jax.jit(lambda k, f=f: f(k, shape))(jax.random.key(6)) for f in (random.normal, jax.random.normal))
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    assert ours.dtype == theirs.dtype


def test_normals_in_double_precision_are_those_of_jax():
    with jax.enable_x64(True):
        ours = random.normal(jax.random.key(0), (5,), jnp.float64)
        np.testing.assert_array_equal(ours, jax.random.normal(jax.random.key(0), (5,), jnp.float64))


def test_the_rounds_are_not_left_in_a_loop():
    text = str(jax.make_jaxpr(lambda key: random.bits(key, (4, 4)))(jax.random.key(0)))
    assert "threefry2x32" not in text.replace("key<fry>", "")
    assert "random_bits" not in text


def test_keys_go_through_vmap():
    keys = jax.random.split(jax.random.key(1), 3)
    together = jax.vmap(lambda key: random.bits(key, (4,)))(keys)
    np.testing.assert_array_equal(together, jnp.stack([jax.random.bits(key, (4,), jnp.uint32) for key in keys]))


def test_without_partitionable_threefry_the_numbers_are_still_those_of_jax():
    with jax.threefry_partitionable(False):
        key = jax.random.key(2)
        np.testing.assert_array_equal(random.bits(key, (9,)), jax.random.bits(key, (9,), jnp.uint32))
