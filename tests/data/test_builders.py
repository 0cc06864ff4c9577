"""The built-in datasets: the records are the published images, and TFDS reads them."""

import gzip
import hashlib

import numpy as np
import pytest

from vae_jax.data import builders, catalog, splits
from vae_jax.data.builders import MoonsGap, Sprites
from vae_jax.data.loading import load, load_labels
from vae_jax.data.moons import moon_parameters, render_moons
from vae_jax.data.preparation import available
from vae_jax.data.sprites import render_sprites, sprite_factors

MD5 = {  # of the uncompressed archives
    "train-images-idx3-ubyte.gz": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte.gz": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte.gz": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte.gz": "27ae3e4e09519cfbb04c329615203637",
}


def test_digits_are_exactly_those_of_scikit_learn(data_dir):
    from sklearn.datasets import load_digits

    digits = load_digits()
    x = np.concatenate([load("digits", s, data_dir=data_dir) for s in splits.SPLITS])
    y = np.concatenate([load_labels("digits", s, data_dir=data_dir) for s in splits.SPLITS])
    assert x.dtype == np.uint8
    assert x.shape == (1797, 8, 8, 1)
    assert (x.min(), x.max()) == (0, 255)
    original = np.rint(x[..., 0].astype(float) * 16 / 255)  # the documented inverse
    got = sorted((image.tobytes(), int(label)) for image, label in zip(original, y, strict=True))
    assert got == sorted((i.tobytes(), int(label)) for i, label in zip(digits.images, digits.target, strict=True))
    assert x[np.rint(x * (16 / 255)) == 8].tolist().count(128) == np.sum(original == 8)  # 127.5 is rounded up


def test_digits_have_a_test_split_of_every_class(data_dir):
    y = load_labels("digits", "test", data_dir=data_dir)
    assert len(y) == 359
    assert np.bincount(y, minlength=10).min() > 20
    assert len(load("digits", "validation", data_dir=data_dir)) == 144


def test_digits_are_read_by_plain_tfds(digits_dir):
    with catalog.silence_tfds():
        import tensorflow_datasets as tfds

        source = tfds.data_source("digits", split="train", data_dir=digits_dir)
        records = [source[i] for i in range(5)]
    train = load("digits", "train", data_dir=digits_dir, holdout=0)
    labels = load_labels("digits", "train", data_dir=digits_dir, holdout=0)
    for record, image, label in zip(records, train, labels, strict=False):
        np.testing.assert_array_equal(record["image"], image)
        assert record["label"] == label


@pytest.mark.parametrize("split", [pytest.param("train", marks=pytest.mark.thorough), "test"])
def test_mnist_is_the_published_one(archives, mnist_dir, split):
    """TFDS shuffles by the hash of a key, so pixels and labels are compared as a multiset of pairs."""
    raw = {n: gzip.decompress((archives / n).read_bytes()) for n in catalog.BUILTIN["mnist"].archives[split]}
    assert {name: hashlib.md5(content).hexdigest() for name, content in raw.items()} == {n: MD5[n] for n in raw}
    images, labels = raw.values()
    x = load("mnist", split, data_dir=mnist_dir, holdout=0)
    y = load_labels("mnist", split, data_dir=mnist_dir, holdout=0)
    assert x.shape == (len(labels) - 8, 28, 28, 1)
    expected = np.frombuffer(images, np.uint8, offset=16).reshape(-1, 784)
    pairs = sorted(image.tobytes() + bytes([label]) for image, label in zip(expected, labels[8:], strict=True))
    assert sorted(image.tobytes() + bytes([label]) for image, label in zip(x, y, strict=True)) == pairs


def test_tfds_reads_mnist_as_its_standard_dataset(mnist_dir):
    with catalog.silence_tfds():
        import tensorflow_datasets as tfds

        source = tfds.data_source("mnist:3.0.1", split="test", data_dir=mnist_dir)
        assert len(source) == 10000
        np.testing.assert_array_equal(source[7]["image"], load("mnist", "test", data_dir=mnist_dir)[7])
        assert tfds.builder("mnist", data_dir=mnist_dir).info.full_name == "mnist/3.0.1"


def test_the_list_of_built_in_datasets_agrees_with_the_builders(tmp_path):
    with catalog.silence_tfds():
        for name, builtin in catalog.BUILTIN.items():
            builder = getattr(builders, builtin.builder)
            assert (builder.name, str(builder.VERSION)) == (name, builtin.version)
        assert catalog.BUILTIN["mnist"].url == builders.Mnist.URL
        assert len(builders.Mnist.url_infos) == 4


@pytest.fixture(scope="module")
def few_moons_dir(tmp_path_factory):
    """A folder with the dataset of a small subclass: moons of 12x20 pixels, 8 for training and 3 for testing."""
    folder = tmp_path_factory.mktemp("moons")
    with catalog.silence_tfds():

        class Few(MoonsGap, skip_registration=True):
            name = "few_moons"
            shape = (12, 20)

            def _split_generators(self, dl_manager):
                del dl_manager
                return {"train": self._generate_examples(0, 8), "test": self._generate_examples(8, 11)}

        Few(data_dir=folder).download_and_prepare(file_format="array_record")
    return folder


def test_a_subclass_of_another_shape_stores_images_and_parameters(few_moons_dir):
    parameters = moon_parameters(np.arange(8), phases="gap")
    images = load("few_moons", "train", data_dir=few_moons_dir, holdout=0)
    np.testing.assert_array_equal(images, render_moons(parameters, (12, 20)))
    with catalog.silence_tfds():
        import tensorflow_datasets as tfds

        records = list(tfds.data_source("few_moons", split="train", data_dir=few_moons_dir))
    for name, column in parameters._asdict().items():
        np.testing.assert_array_equal([record[name] for record in records], column.astype(np.float32))
    np.testing.assert_array_equal([record["image"] for record in records], images)
    assert len(load("few_moons", "test", data_dir=few_moons_dir)) == 3


def test_moons_are_prepared_on_first_use_and_listed(tmp_path):
    listed = {entry["name"]: entry for entry in available(tmp_path)}
    assert not any(listed[name]["prepared"] for name in ("moons", "moons_gap", "moons_full_half"))
    test = load("moons_full_half", "test", data_dir=tmp_path)
    np.testing.assert_array_equal(
        test, render_moons(moon_parameters(np.arange(10_000, 12_000), phases="full-and-half"))
    )
    found = {entry["name"]: entry for entry in available(tmp_path)}["moons_full_half"]
    assert found["prepared"]
    assert (found["splits"], found["shape"]) == ({"train": 10_000, "test": 2_000}, [32, 32, 1])


def test_some_sprites_are_stored_with_their_factors_in_order(tmp_path):
    with catalog.silence_tfds():
        import tensorflow_datasets as tfds

        class Few(Sprites, skip_registration=True):
            name = "few_sprites"
            shape = (12, 20)
            numbers = np.arange(7, 92_160, 9_001)

        Few(data_dir=tmp_path).download_and_prepare(file_format="array_record")
        records = list(tfds.data_source("few_sprites", split="train", data_dir=tmp_path))
    factors = sprite_factors(Few.numbers)
    images = load("few_sprites", "train", data_dir=tmp_path, holdout=0)
    np.testing.assert_array_equal(images, render_sprites(factors, (12, 20)))
    labels = load_labels("few_sprites", "train", data_dir=tmp_path, holdout=0)
    np.testing.assert_array_equal(labels, factors.shape)
    for name, column in list(factors._asdict().items())[1:]:
        np.testing.assert_array_equal([record[name] for record in records], column)
    assert len(Sprites.numbers) == 92_160
