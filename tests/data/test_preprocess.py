"""Preprocessing: binarization with the stated probabilities, scaling, and the mean image."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from inputs import refused

from vae_jax import random
from vae_jax.data.preprocess import bernoulli_pixels, binarize_once, mean_image, read_images
from vae_jax.errors import InputError


class TestReadImages:
    def test_pixels_are_sampled_with_their_probability(self):
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

    def test_each_binarization(self):
        images = jnp.asarray([[[[0], [127], [128], [255]]]], jnp.uint8)
        read = lambda mode: np.asarray(read_images(jax.random.key(0), images, binarization=mode)).ravel()  # noqa: E731
        np.testing.assert_array_equal(read("threshold"), [0, 0, 1, 1])
        np.testing.assert_allclose(read("none"), np.array([0, 127, 128, 255]) / 255, rtol=1e-6)
        assert set(read("dynamic")) <= {0.0, 1.0}

    def test_dynamic_samples_at_each_call_and_static_once(self):
        images = jnp.full((4, 8, 8, 1), 128, jnp.uint8)
        dynamic = [read_images(jax.random.key(k), images, binarization="dynamic") for k in (0, 1)]
        assert np.any(dynamic[0] != dynamic[1])
        once = binarize_once(jax.random.key(5), images)
        assert set(np.unique(once)) == {0, 255}
        static = [read_images(jax.random.key(k), once, binarization="static") for k in (0, 1)]
        np.testing.assert_array_equal(static[0], static[1])
        np.testing.assert_array_equal(static[0], once / 255)

    @pytest.mark.parametrize("shape", [(4, 4, 1), (3, 3, 1), (1, 1, 1)])  # even and odd numbers of pixels
    def test_the_binarization_of_an_example_depends_on_its_key_and_its_pixels_alone(self, shape):
        read = jax.jit(functools.partial(read_images, binarization="dynamic"))
        images = jnp.asarray(np.random.default_rng(0).integers(1, 255, size=(60, *shape), dtype=np.uint8))
        keys = random.example_keys(jax.random.key(0), 60)
        complete = np.asarray(read(keys, images))
        np.testing.assert_array_equal(read(jax.random.key(0), images), complete)
        np.testing.assert_array_equal(read(keys[7:40], images[7:40]), complete[7:40])
        np.testing.assert_array_equal(read(keys[7:8], images[7:8]), complete[7:8])
        np.testing.assert_array_equal(read(keys[::-1], images[::-1]), complete[::-1])
        np.testing.assert_array_equal(read(keys, images.at[:7].set(0))[7:], complete[7:])
        equal = jnp.broadcast_to(jnp.uint8(128), images.shape)
        assert len(np.unique(read(keys, equal), axis=0)) > 1  # examples have separate noise

    def test_keys_of_another_number_of_examples_are_refused(self):
        keys = random.example_keys(jax.random.key(0), 3)
        message = r"^key has shape \[3\]; pass one key, or a key for each example, \[2\]$"
        with pytest.raises(ValueError, match=message):
            read_images(keys, jnp.zeros((2, 4, 4, 1), jnp.uint8), binarization="dynamic")

    @pytest.mark.parametrize(
        ("shape", "dtype"), [((2, 4, 4, 1), "float32"), ((2, 4, 4, 1), "int32"), ((2, 4, 4), "uint8")]
    )
    def test_images_of_another_dtype_or_rank_are_refused(self, shape, dtype):
        with refused(InputError, f"images have shape {list(shape)} and dtype {dtype}; pass uint8 [N, H, W, C]"):
            read_images(jax.random.key(0), jnp.zeros(shape, dtype), binarization="none")


@pytest.mark.fault
def test_another_name_of_a_binarization_is_refused():
    images = np.zeros((2, 4, 4, 1), np.uint8)
    for read in (functools.partial(read_images, jax.random.key(0)), mean_image):
        with pytest.raises(InputError, match=r"^data\.binarization='dynamc' must be .*did you mean 'dynamic'"):
            read(images, binarization="dynamc")


@pytest.mark.parametrize("binarization", ["dynamic", "static", "threshold", "none"])
def test_the_mean_image_is_the_mean_of_the_inputs(binarization):
    images = np.random.default_rng(0).integers(0, 256, size=(20_000, 2, 2, 1), dtype=np.uint8)
    read = np.asarray(read_images(jax.random.key(0), jnp.asarray(images), binarization=binarization))
    np.testing.assert_allclose(mean_image(images, binarization=binarization), read.mean(axis=0), atol=0.02)


def test_the_binary_sample_is_computed_once_for_all_its_readers():
    def readers(keys, images, kernel):
        x = read_images(keys, images, binarization="dynamic").reshape(len(images), -1)
        return x @ kernel, jnp.sum(x * jnp.sin(kernel.T), axis=1), x.T @ jnp.cos(kernel.T)

    images, kernel = jnp.zeros((6, 5, 4, 1), jnp.uint8), jnp.ones((20, 6))
    keys = random.example_keys(jax.random.key(0), 6)  # outside of the program, so that the pixels alone use Threefry
    text = jax.jit(readers).lower(keys, images, kernel).compile().as_text()
    samplers = [body for body in text.split("\n}\n") if body.count(" xor(") > 10]  # the rounds of Threefry
    assert len(samplers) == 1
