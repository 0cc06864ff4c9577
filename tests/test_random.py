"""Random numbers: those of jax.random bit for bit, and rows of a larger array."""

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


def test_bits_are_not_computed_by_the_loop_of_jax():
    text = str(jax.make_jaxpr(lambda key: random.bits(key, (4, 4)))(jax.random.key(0)))
    assert "threefry2x32" not in text.replace("key<fry>", "")
    assert "random_bits" not in text


def test_keys_can_be_mapped_by_vmap():
    keys = jax.random.split(jax.random.key(1), 3)
    together = jax.vmap(lambda key: random.bits(key, (4,)))(keys)
    np.testing.assert_array_equal(together, jnp.stack([jax.random.bits(key, (4,), jnp.uint32) for key in keys]))


def test_without_partitionable_threefry_the_bits_are_still_those_of_jax():
    with jax.threefry_partitionable(False):
        key = jax.random.key(2)
        np.testing.assert_array_equal(random.bits(key, (9,)), jax.random.bits(key, (9,), jnp.uint32))


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
@pytest.mark.parametrize(("shape", "axis"), [((16, 3), 0), ((2, 16, 5), 1), ((16,), 0)])
def test_rows_are_those_of_the_complete_array(impl, shape, axis):
    key = jax.random.key(3, impl=impl)
    part = (*shape[:axis], 4, *shape[axis + 1 :])
    rows = lambda complete: np.take(np.asarray(complete), range(8, 12), axis=axis)  # noqa: E731
    of_rows = random.RowsKey(key, jnp.asarray(8), 16)
    for draw in (random.bits, random.normal):
        np.testing.assert_array_equal(draw(of_rows, part, axis=axis), rows(draw(key, shape)))
    folded, halves = random.fold_in(of_rows, 7), random.split(of_rows)
    expected = [jax.random.fold_in(key, 7), *jax.random.split(key)]
    for made, plain in zip([folded, *halves], expected, strict=True):
        np.testing.assert_array_equal(random.bits(made, part, axis=axis), rows(random.bits(plain, shape)))


def test_a_custom_draw_returns_the_rows_of_the_complete_array():
    key = jax.random.key(4)
    of_rows = random.RowsKey(key, jnp.asarray(2), 6)
    np.testing.assert_array_equal(random.drawn(jax.random.laplace, key, (6, 3)), jax.random.laplace(key, (6, 3)))
    expected = jax.random.laplace(key, (5, 6))[:, 2:4]
    np.testing.assert_array_equal(random.drawn(jax.random.laplace, of_rows, (5, 2), axis=1), expected)


def test_the_streams_of_a_run_differ():
    streams = [getattr(random, name) for name in dir(random) if name.endswith("_STREAM")]
    assert len(set(streams)) == len(streams) == 5
