"""Preprocessing: binarization with the stated probabilities, conversion of each kind of data, and mean inputs."""

import functools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from inputs import refused

from vae_jax import random
from vae_jax.config import Config, DataConfig, choice, choices
from vae_jax.data.dataset import ArrayDataset
from vae_jax.data.preprocess import bernoulli_pixels, binarize_once
from vae_jax.errors import InputError

# Samples of two images whose rows have the pixels 30, 40, ..., 210.
KNOWN_BITS = ["0101111110000011100", "0100101001011111100"]
IMAGES = ("dynamic-binarization", "static-binarization", "threshold", "scale")


def preprocess(name, key, x, **fields):
    """The inputs x of the model for stored examples x."""
    return choice("preprocess", name, **fields)(key, {"x": x})["x"]


def test_the_choices():
    found = {name: (cls.kinds, cls.values, cls.in_memory) for name, cls in choices("preprocess").items()}
    assert found == {
        "dynamic-binarization": (("images",), "binary", False),
        "static-binarization": (("images",), "binary", True),
        "threshold": (("images",), "binary", False),
        "scale": (("images",), "levels", False),
        "identity": (("vectors", "counts"), "counts", False),
        "log1p": (("counts",), "reals", False),
        "one-hot": (("counts",), "categories", False),
    }
    identity = choice("preprocess", "identity")
    assert [identity.values_of(kind) for kind in identity.kinds] == ["reals", "counts"]
    assert choice("preprocess", "scale").values_of("images") == "levels"


def test_the_choices_are_found_without_tfds():
    code = """if True:
        import sys
        from vae_jax.config import choices
        assert len(choices("preprocess")) == 7
        print(*{"tensorflow_datasets", "array_record", "grain", "flax", "PIL", "sklearn"} & set(sys.modules))
    """
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"


class TestImages:
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

    def test_the_bits_of_a_key_do_not_change(self):
        images = jnp.broadcast_to(jnp.arange(30, 220, 10, dtype=jnp.uint8)[:, None, None], (2, 19, 1, 1))
        found = np.asarray(preprocess("dynamic-binarization", jax.random.key(3), images)).reshape(2, 19)
        assert ["".join(str(int(pixel)) for pixel in image) for image in found] == KNOWN_BITS

    def test_each_choice(self):
        images = jnp.asarray([[[[0], [127], [128], [255]]]], jnp.uint8)
        read = lambda name: np.asarray(preprocess(name, jax.random.key(0), images)).ravel()  # noqa: E731
        np.testing.assert_array_equal(read("threshold"), [0, 0, 1, 1])
        for name in ("scale", "static-binarization"):
            np.testing.assert_allclose(read(name), np.array([0, 127, 128, 255]) / 255, rtol=1e-6)
        assert set(read("dynamic-binarization")) <= {0.0, 1.0}

    def test_dynamic_samples_at_each_call_and_static_once(self):
        images = jnp.full((4, 8, 8, 1), 128, jnp.uint8)
        dynamic = [preprocess("dynamic-binarization", jax.random.key(k), images) for k in (0, 1)]
        assert np.any(dynamic[0] != dynamic[1])
        config = choice("preprocess", "static-binarization")
        y = np.arange(4)
        once = config.once(jax.random.key(5), {"x": np.asarray(images), "y": y})
        assert once["y"] is y
        np.testing.assert_array_equal(once["x"], binarize_once(jax.random.key(5), images))
        assert isinstance(once["x"], np.ndarray)
        assert set(np.unique(once["x"])) == {0, 255}
        static = [config(jax.random.key(k), once)["x"] for k in (0, 1)]
        np.testing.assert_array_equal(static[0], static[1])
        np.testing.assert_array_equal(static[0], once["x"] / 255)

    def test_only_static_changes_the_examples_before_training(self):
        arrays = {"x": np.full((4, 8, 8, 1), 128, np.uint8)}
        for name, cls in choices("preprocess").items():
            changed = cls().once(jax.random.key(5), arrays) is not arrays
            assert changed == cls.in_memory == (name == "static-binarization")

    @pytest.mark.parametrize("shape", [(4, 4, 1), (3, 3, 1), (1, 1, 1)])  # even and odd numbers of pixels
    def test_the_binarization_of_an_example_depends_on_its_key_and_its_pixels_alone(self, shape):
        read = jax.jit(functools.partial(preprocess, "dynamic-binarization"))
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
            preprocess("dynamic-binarization", keys, jnp.zeros((2, 4, 4, 1), jnp.uint8))

    @pytest.mark.parametrize(
        ("shape", "dtype"), [((2, 4, 4, 1), "float32"), ((2, 4, 4, 1), "int32"), ((2, 4, 4), "uint8")]
    )
    @pytest.mark.parametrize("name", IMAGES)
    def test_images_of_another_dtype_or_rank_are_refused(self, name, shape, dtype):
        with refused(InputError, f"images have shape {list(shape)} and dtype {dtype}; pass uint8 [N, H, W, C]"):
            preprocess(name, jax.random.key(0), jnp.zeros(shape, dtype))


def test_vectors_and_counts_are_converted():
    key, counts = jax.random.key(0), jnp.asarray([[0, 1, 5], [2, 0, 1]], jnp.int32)
    vectors = jnp.asarray([[0.5, -1e3]])
    np.testing.assert_array_equal(preprocess("identity", key, vectors), vectors)
    np.testing.assert_array_equal(preprocess("identity", key, counts), counts.astype(jnp.float32))
    np.testing.assert_allclose(preprocess("log1p", key, counts), np.log([[1, 2, 6], [3, 1, 2]]), rtol=1e-6)
    hot = preprocess("one-hot", key, counts, num_categories=6)
    assert (hot.shape, hot.dtype) == ((2, 3, 6), jnp.float32)
    np.testing.assert_array_equal(hot.argmax(axis=-1), counts)
    np.testing.assert_array_equal(hot.sum(axis=-1), np.ones((2, 3)))


@pytest.mark.parametrize("name", ["scale", "identity"])
def test_the_other_arrays_of_a_batch_are_unchanged(name):
    batch = {"x": np.ones((3, 2, 2, 1), np.uint8), "y": np.arange(3), "mask": np.ones(3, bool)}
    found = choice("preprocess", name)(jax.random.key(0), batch)
    assert found.keys() == batch.keys()
    assert found["y"] is batch["y"]
    assert found["mask"] is batch["mask"]


@pytest.mark.parametrize("name", [*IMAGES, "identity", "log1p", "one-hot"])
def test_the_mean_is_the_mean_of_the_inputs(name):
    config = choice("preprocess", name, **({"num_categories": 256} if name == "one-hot" else {}))
    x = np.random.default_rng(0).integers(0, 256, size=(20_000, 2, 2, 1), dtype=np.uint8)
    if name not in IMAGES:
        x = x.reshape(-1, 4).astype(np.int32)
    dataset = ArrayDataset({"x": x}, config.kinds[-1])
    inputs = np.asarray(config(jax.random.key(0), {"x": jnp.asarray(x)})["x"])
    mean = config.mean(dataset)
    assert (mean.shape, mean.dtype) == (inputs.shape[1:], np.float32)
    atol = 0.02 if name == "dynamic-binarization" else 1e-6
    np.testing.assert_allclose(mean, inputs.mean(axis=0, dtype=np.float64), atol=atol, rtol=1e-6)


def test_the_mean_of_preprocessing_by_a_user_is_unknown():
    from vae_jax.data.preprocess import PreprocessConfig

    assert PreprocessConfig().mean(ArrayDataset({"x": np.zeros((2, 3), np.float32)}, "vectors")) is None


def test_preprocessing_of_another_kind_of_data_is_refused():
    with refused(InputError, "preprocess=dynamic-binarization must be identity, log1p or one-hot for counts"):
        choice("preprocess", "dynamic-binarization").check(Config(data=DataConfig(kind="counts")))
    vectors = ArrayDataset({"x": np.zeros((2, 3), np.float32)}, "vectors")
    with refused(InputError, "preprocess=scale must be identity for vectors"):
        choice("preprocess", "scale").check_data(vectors)
    images = ArrayDataset({"x": np.zeros((2, 3, 3, 1), np.uint8)}, "images")
    message = "must be dynamic-binarization, static-binarization, threshold or scale for images"
    for name in ("identity", "log1p", "one-hot"):
        with refused(InputError, f"preprocess={name} {message}"):
            choice("preprocess", name).check_data(images)
    choice("preprocess", "identity").check_data(vectors)
    for kind in ("auto", "images"):
        choice("preprocess", "scale").check(Config(data=DataConfig(kind=kind)))


def test_numbers_that_are_no_category_are_refused():
    counts = ArrayDataset({"x": np.array([[0, 4], [1, 2]], np.int32)}, "counts")
    choice("preprocess", "one-hot", num_categories=5).check_data(counts)
    with refused(InputError, "preprocess.num_categories=4 must be at least 5, since the largest number in the data is"):
        choice("preprocess", "one-hot", num_categories=4).check_data(counts)


def test_static_binarization_cannot_be_streamed():
    config = Config(data=DataConfig(streaming="always"))
    message = "preprocess=static-binarization must be dynamic-binarization, threshold or scale with data.streaming="
    with refused(InputError, message):
        choice("preprocess", "static-binarization").check(config)
    choice("preprocess", "scale").check(config)


def test_the_binary_sample_is_computed_once_for_all_its_readers():
    def readers(keys, images, kernel):
        x = preprocess("dynamic-binarization", keys, images).reshape(len(images), -1)
        return x @ kernel, jnp.sum(x * jnp.sin(kernel.T), axis=1), x.T @ jnp.cos(kernel.T)

    images, kernel = jnp.zeros((6, 5, 4, 1), jnp.uint8), jnp.ones((20, 6))
    keys = random.example_keys(jax.random.key(0), 6)  # outside of the program, so that the pixels alone use Threefry
    text = jax.jit(readers).lower(keys, images, kernel).compile().as_text()
    samplers = [body for body in text.split("\n}\n") if body.count(" xor(") > 10]  # the rounds of Threefry
    assert len(samplers) == 1
