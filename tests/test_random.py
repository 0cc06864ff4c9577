"""Random numbers: those of jax.random bit for bit, for one key and for arrays of keys."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax import random

SHAPES = [(), (1,), (7,), (0, 3), (128, 391), (3, 5, 11)]
IMPLS = ["threefry2x32", "rbg"]


def key_data(keys):
    return np.asarray(jax.random.key_data(keys))


def one_by_one(function, keys):
    """Return the results for each of the keys, computed one after the other, with the shape of the keys in front."""
    results = jax.lax.map(function, keys.reshape(-1))
    return results.reshape(*keys.shape, *results.shape[1:])


@pytest.mark.parametrize("impl", IMPLS)
def test_bits_are_those_of_jax(impl):
    @jax.jit
    def draw(key):
        return [(random.bits(key, shape), jax.random.bits(key, shape, jnp.uint32)) for shape in SHAPES]

    for ours, theirs in draw(jax.random.key(5, impl=impl)):
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype == theirs.dtype


def test_normals_are_those_of_jax():
    @jax.jit
    def draw(key):
        return [(random.normal(key, shape), jax.random.normal(key, shape)) for shape in SHAPES]

    for ours, theirs in draw(jax.random.key(6)):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)
        assert ours.dtype == theirs.dtype


def test_normals_in_double_precision_are_those_of_jax():
    with jax.enable_x64(True):
        ours = random.normal(jax.random.key(0), (5,), jnp.float64)
        np.testing.assert_array_equal(ours, jax.random.normal(jax.random.key(0), (5,), jnp.float64))


def test_bits_are_not_computed_by_the_loop_of_jax():
    text = str(jax.make_jaxpr(lambda key: random.bits(key, (4, 4)))(jax.random.key(0)))
    assert "= threefry2x32" not in text  # the primitive of jax; the function of kernels has a name
    assert "random_bits" not in text


@pytest.mark.parametrize("impl", IMPLS)
def test_what_a_key_draws_does_not_depend_on_the_other_keys(impl):
    @jax.jit
    def draws(keys):
        of = (random.bits, random.normal)
        return [(draw(keys, (6, 5)), draw(keys[2:], (4, 5)), draw(keys[3], (5,))) for draw in of]

    for complete, last, one in draws(random.example_keys(jax.random.key(4, impl=impl), 6)):
        np.testing.assert_array_equal(complete[2:], last)
        np.testing.assert_array_equal(complete[3], one)


def test_keys_can_be_mapped_by_vmap():
    keys = jax.random.split(jax.random.key(1), 3)
    together = jax.vmap(lambda key: random.bits(key, (4,)))(keys)
    np.testing.assert_array_equal(together, one_by_one(lambda key: jax.random.bits(key, (4,), jnp.uint32), keys))


def test_without_partitionable_threefry_the_numbers_are_still_those_of_jax():
    with jax.threefry_partitionable(False):
        key = jax.random.key(2)
        np.testing.assert_array_equal(random.bits(key, (9,)), jax.random.bits(key, (9,), jnp.uint32))
        keys = random.example_keys(key, 3)
        expected = [jax.random.bits(jax.random.fold_in(key, i), (9,), jnp.uint32) for i in range(3)]
        np.testing.assert_array_equal(random.bits(keys, (3, 9)), jnp.stack(expected))


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("event", [(), (7,), (5, 11)])
@pytest.mark.parametrize("lead", [(), (6,), (3, 4)])
def test_the_numbers_of_each_key_are_those_of_jax(impl, event, lead):
    keys = jax.random.split(jax.random.key(3, impl=impl), lead)

    @jax.jit
    def draw(keys):
        pairs = ((random.bits, lambda key: jax.random.bits(key, event, jnp.uint32)),
                 (random.normal, lambda key: jax.random.normal(key, event)))  # fmt: skip
        return [(ours(keys, (*lead, *event)), one_by_one(of_one, keys)) for ours, of_one in pairs]

    (bits, expected_bits), (normals, expected_normals) = draw(keys)
    np.testing.assert_array_equal(bits, expected_bits)
    np.testing.assert_allclose(normals, expected_normals, rtol=1e-6)


@pytest.mark.parametrize("draw", [random.bits, random.normal])
@pytest.mark.parametrize("shape", [(), (5,), (4, 3), (5, 3), (3,)])
def test_keys_that_are_not_the_beginning_of_the_shape_are_refused(draw, shape):
    keys = jax.random.split(jax.random.key(0), (3, 4))
    message = rf"^keys have shape \[3, 4\], which must be the beginning of \[{', '.join(map(str, shape))}\]$"
    with pytest.raises(ValueError, match=message):
        draw(keys, shape)


def test_a_call_is_one_program_alone_and_is_inlined_in_another():
    key = jax.random.key(0)
    before = random._normal._cache_size()
    for _ in range(2):
        random.normal(key, (2, 13))
    assert random._normal._cache_size() == before + 1
    program = str(jax.make_jaxpr(lambda key: random.normal(key, (2, 13)))(key))
    assert "name=_normal" not in program
    assert "name=_bits" not in program


def test_a_custom_draw_is_mapped_over_the_keys():
    key = jax.random.key(4)
    np.testing.assert_array_equal(random.drawn(jax.random.laplace, key, (6, 3)), jax.random.laplace(key, (6, 3)))
    keys = jax.random.split(key, (2, 6))
    expected = [[jax.random.laplace(k, (3,)) for k in row] for row in keys]
    np.testing.assert_allclose(random.drawn(jax.random.laplace, keys, (2, 6, 3)), jnp.array(expected), rtol=1e-6)


@pytest.mark.parametrize("impl", IMPLS)
class TestFoldIn:
    @pytest.mark.parametrize("number", [0, 7, 2**31 - 1, 2**32 - 1])
    def test_one_key_and_one_number(self, impl, number):
        key, number = jax.random.key(3, impl=impl), np.uint32(number)
        folded = random.fold_in(key, number)
        assert folded.shape == ()
        assert folded.dtype == key.dtype
        np.testing.assert_array_equal(key_data(folded), key_data(jax.random.fold_in(key, number)))

    def test_keys_and_numbers_broadcast(self, impl):
        keys = jax.random.split(jax.random.key(3, impl=impl), 4)
        numbers = jnp.array([5, 0, 9])
        expected = [[key_data(jax.random.fold_in(key, n)) for key in keys] for n in (5, 0, 9)]
        folded = random.fold_in(keys[None], numbers[:, None])
        assert folded.shape == (3, 4)
        np.testing.assert_array_equal(key_data(folded), expected)
        np.testing.assert_array_equal(key_data(random.fold_in(keys, 9)), expected[2])
        of_one_key = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(keys[1], numbers)
        np.testing.assert_array_equal(key_data(random.fold_in(keys[1], numbers)), key_data(of_one_key))

    def test_a_traced_number(self, impl):
        key = jax.random.key(3, impl=impl)
        folded = jax.jit(random.fold_in)(key, jnp.int32(6))
        np.testing.assert_array_equal(key_data(folded), key_data(jax.random.fold_in(key, 6)))

    def test_shapes_that_do_not_broadcast_are_refused(self, impl):
        keys = jax.random.split(jax.random.key(3, impl=impl), 4)
        with pytest.raises(ValueError, match="broadcast"):
            random.fold_in(keys, jnp.arange(3))


@pytest.mark.parametrize("impl", IMPLS)
class TestExampleKeys:
    def test_a_key_is_that_of_the_position_of_the_example(self, impl):
        key = jax.random.key(8, impl=impl)
        expected = [key_data(jax.random.fold_in(key, i)) for i in range(6)]
        np.testing.assert_array_equal(key_data(random.example_keys(key, 6)), expected)
        np.testing.assert_array_equal(key_data(random.example_keys(key, 2, first=3)), expected[3:5])
        traced = jax.jit(lambda first: random.example_keys(key, 2, first=first))(jnp.int32(3))
        np.testing.assert_array_equal(key_data(traced), expected[3:5])

    def test_keys_of_the_examples_are_returned_unchanged(self, impl):
        keys = jax.random.split(jax.random.key(8, impl=impl), 5)
        assert random.example_keys(keys, 5) is keys
        assert random.example_keys(keys, 5, first=3) is keys

    @pytest.mark.parametrize("shape", [(4,), (6,), (1,), (5, 1), (5, 5)])
    def test_keys_of_another_shape_are_refused(self, impl, shape):
        keys = jax.random.split(jax.random.key(8, impl=impl), shape)
        message = rf"^key has shape \[{', '.join(map(str, shape))}\]; pass one key, or a key for each example, \[5\]$"
        with pytest.raises(ValueError, match=message):
            random.example_keys(keys, 5)


def test_key_data_of_two_numbers_are_not_taken_for_the_keys_of_two_examples():
    with pytest.raises(ValueError, match=r"^key has dtype uint32; pass a typed key, such as jax\.random\.key\(0\)$"):
        random.example_keys(jax.random.PRNGKey(0), 2)


def test_the_streams_of_a_run_differ():
    streams = [getattr(random, name) for name in dir(random) if name.endswith("_STREAM")]
    assert len(set(streams)) == len(streams) == 6
