import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax.data.order import batch_indices, permute
from vae_jax.data.preprocess import bernoulli_pixels, binarize_once, mean_image, read_images
from vae_jax.errors import InputError


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
def test_the_places_of_two_do_not_depend_on_each_other(size, pair):
    draws = 40_000
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(1), i))(jnp.arange(draws))
    places = jax.jit(jax.vmap(lambda key: permute(key, jnp.asarray(pair, jnp.uint32), size)))(keys)  # [draws, 2]
    counts = np.bincount(np.asarray(places) @ [size, 1], minlength=size**2).reshape(size, size)
    assert np.trace(counts) == 0
    degrees = size * (size - 1) - 1
    expected = draws / (degrees + 1)
    chi_square = ((counts[~np.eye(size, dtype=bool)] - expected) ** 2 / expected).sum()
    assert abs(chi_square - degrees) < 5 * np.sqrt(2 * degrees)


def test_neighbours_are_not_kept_together():
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

    def test_each_epoch_and_each_key_has_an_order_of_its_own(self):
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


class TestReadImages:
    def test_pixels_are_drawn_with_their_probability(self):
        values = np.array([0, 1, 64, 127, 200, 254, 255], np.uint8)
        draws = 200_000
        images = jnp.broadcast_to(values, (draws, 7))[:, None, :, None]  # [B, 1, 7, 1], an odd number of pixels
        mean = np.asarray(bernoulli_pixels(jax.random.key(0), images), np.float64).mean(axis=(0, 1, 3))
        p = values / 255
        assert mean[0] == 0
        assert mean[-1] == 1
        np.testing.assert_array_less(np.abs(mean - p), 5 * np.sqrt(p * (1 - p) / draws) + 1e-9)

    def test_neighbouring_pixels_are_independent(self):
        images = jnp.full((100_000, 1, 2, 1), 128, jnp.uint8)  # two pixels from one 32-bit draw
        pixels = np.asarray(bernoulli_pixels(jax.random.key(0), images)).reshape(-1, 2)
        assert abs(np.corrcoef(pixels.T)[0, 1]) < 5 / np.sqrt(100_000)

    def test_modes(self):
        images = jnp.asarray([[[[0], [127], [128], [255]]]], jnp.uint8)
        read = lambda mode: np.asarray(read_images(jax.random.key(0), images, binarization=mode)).ravel()  # noqa: E731
        np.testing.assert_array_equal(read("threshold"), [0, 0, 1, 1])
        np.testing.assert_allclose(read("none"), np.array([0, 127, 128, 255]) / 255, rtol=1e-6)
        assert set(read("dynamic")) <= {0.0, 1.0}

    def test_dynamic_draws_anew_and_static_does_not(self):
        images = jnp.full((4, 8, 8, 1), 128, jnp.uint8)
        dynamic = [read_images(jax.random.key(k), images, binarization="dynamic") for k in (0, 1)]
        assert np.any(dynamic[0] != dynamic[1])
        once = binarize_once(jax.random.key(5), images)
        assert set(np.unique(once)) == {0, 255}
        static = [read_images(jax.random.key(k), once, binarization="static") for k in (0, 1)]
        np.testing.assert_array_equal(static[0], static[1])
        np.testing.assert_array_equal(static[0], once / 255)


@pytest.mark.fault
def test_another_name_of_a_binarisation_is_refused():
    images = np.zeros((2, 4, 4, 1), np.uint8)
    for read in (functools.partial(read_images, jax.random.key(0)), mean_image):
        with pytest.raises(InputError, match=r"^data\.binarization: 'dynamc' given.*did you mean 'dynamic'"):
            read(images, binarization="dynamc")


@pytest.mark.parametrize("binarization", ["dynamic", "static", "threshold", "none"])
def test_the_mean_image_is_the_mean_of_what_is_read(binarization):
    images = np.random.default_rng(0).integers(0, 256, size=(20_000, 2, 2, 1), dtype=np.uint8)
    read = np.asarray(read_images(jax.random.key(0), jnp.asarray(images), binarization=binarization))
    np.testing.assert_allclose(mean_image(images, binarization=binarization), read.mean(axis=0), atol=0.02)


def test_the_draw_is_computed_once_however_many_read_it():
    def readers(key, images, kernel):
        x = read_images(key, images, binarization="dynamic").reshape(len(images), -1)
        return x @ kernel, jnp.sum(x * jnp.sin(kernel.T), axis=1), x.T @ jnp.cos(kernel.T)

    images, kernel = jnp.zeros((6, 5, 4, 1), jnp.uint8), jnp.ones((20, 6))
    text = jax.jit(readers).lower(jax.random.key(0), images, kernel).compile().as_text()
    draws = [body for body in text.split("\n}\n") if body.count(" xor(") > 10]  # the rounds of Threefry
    assert len(draws) == 1
