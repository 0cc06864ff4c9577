"""The order of the examples: uniform permutations, the same on the host and on the device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax.data.order import BatchOrder, batch_indices, permute


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 100, 1797, 60_000])
def test_permute_is_a_permutation(size):
    places = permute(jax.random.key(0), jnp.arange(size, dtype=jnp.uint32), size)
    np.testing.assert_array_equal(np.sort(places), np.arange(size))


def test_permutations_are_uniform():
    size, draws = 7, 7000
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(1), i))(jnp.arange(draws))
    places = jax.vmap(lambda key: permute(key, jnp.arange(size, dtype=jnp.uint32), size))(keys)  # [draws, size]
    counts = np.stack([(np.asarray(places) == value).sum(axis=0) for value in range(size)])
    expected = draws / size
    assert ((counts - expected) ** 2 / expected).sum() < 74  # chi-square, 36 degrees of freedom, p = 2e-4


@pytest.mark.parametrize(("size", "pair"), [(10, (0, 1)), (12, (3, 7)), (16, (0, 8)), (17, (0, 8)), (64, (0, 32))])
def test_the_positions_of_two_examples_are_independent(size, pair):
    draws = 40_000
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(1), i))(jnp.arange(draws))
    places = jax.jit(jax.vmap(lambda key: permute(key, jnp.asarray(pair, jnp.uint32), size)))(keys)  # [draws, 2]
    counts = np.bincount(np.asarray(places) @ [size, 1], minlength=size**2).reshape(size, size)
    assert np.trace(counts) == 0
    degrees = size * (size - 1) - 1
    expected = draws / (degrees + 1)
    chi_square = ((counts[~np.eye(size, dtype=bool)] - expected) ** 2 / expected).sum()
    assert abs(chi_square - degrees) < 5 * np.sqrt(2 * degrees)


def test_neighbours_are_separated():
    order = np.asarray(permute(jax.random.key(2), jnp.arange(60_000, dtype=jnp.uint32), 60_000), np.int64)
    correlation = np.corrcoef(order[:-1], order[1:])[0, 1]
    assert abs(correlation) < 5 / np.sqrt(60_000)
    steps = np.diff(order) % 60_000
    assert np.bincount(steps, minlength=60_000).max() < 40  # a lattice would repeat a few steps thousands of times


class TestBatchIndices:
    def test_an_epoch_has_no_example_twice(self):
        steps = jnp.arange(1000 // 32)
        rows = jax.vmap(lambda s: batch_indices(jax.random.key(0), s, num_examples=1000, batch_size=32))(steps)
        assert rows.shape == (31, 32)
        assert len(np.unique(rows)) == 31 * 32
        assert rows.min() >= 0
        assert rows.max() < 1000

    def test_each_epoch_and_each_key_has_a_different_order(self):
        def first_batch(key, epoch):
            step = jnp.asarray(epoch * 10)
            return tuple(np.asarray(batch_indices(jax.random.key(key), step, num_examples=100, batch_size=10)))

        assert len({first_batch(key, epoch) for key in range(3) for epoch in range(3)}) == 9
        assert first_batch(1, 2) == first_batch(1, 2)

    def test_the_examples_left_out_of_an_epoch_change(self):
        def left_out(epoch):
            steps = epoch * 3 + jnp.arange(3)
            rows = jax.vmap(lambda s: batch_indices(jax.random.key(0), s, num_examples=100, batch_size=32))(steps)
            return tuple(sorted(set(range(100)) - set(np.asarray(rows).ravel().tolist())))

        assert len({left_out(epoch) for epoch in range(5)}) > 1

    def test_a_batch_larger_than_the_data_is_refused(self):
        with pytest.raises(ValueError, match="at most the 10 examples"):
            batch_indices(jax.random.key(0), jnp.asarray(0), num_examples=10, batch_size=11)


@pytest.mark.parametrize(("num_examples", "batch_size"), [(5, 5), (7, 3), (1437, 100), (4097, 64)])
def test_the_order_on_the_host_equals_that_on_the_device(num_examples, batch_size):
    key, steps = jax.random.key(3), range(17, 80)
    order = BatchOrder(key, steps, num_examples=num_examples, batch_size=batch_size)
    of_device = jax.jit(jax.vmap(lambda s: batch_indices(key, s, num_examples=num_examples, batch_size=batch_size)))
    found = np.stack([order(step, np.arange(batch_size)) for step in steps])
    np.testing.assert_array_equal(found, of_device(np.asarray(steps)))
    rows = np.asarray([0, batch_size - 1])
    np.testing.assert_array_equal(order(40, rows), found[40 - 17][rows])
