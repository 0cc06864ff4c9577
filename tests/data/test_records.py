"""Records: the same examples and statistics as in memory, and damaged files are named."""

import dataclasses
import io

import numpy as np
import pytest
from inputs import random_images, refused
from PIL import Image, ImageOps
from prepared_datasets import write_dataset

from vae_jax.config import DataConfig, choice
from vae_jax.data import cache, records
from vae_jax.data.dataset import describe
from vae_jax.data.loading import ConfiguredSource, load, load_labels, open_records
from vae_jax.errors import InputError


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_records_are_the_examples_in_memory(data_dir, split):
    found = open_records("digits", split, data_dir=data_dir)
    expected = ConfiguredSource(DataConfig(data_dir=data_dir, streaming="never")).split(split)
    assert (len(found), found.nbytes, found.spec) == (len(expected), expected.nbytes, expected.spec)
    positions = np.asarray([3, 0, 3, len(expected) - 1])
    for given, of_memory in ((found.read(positions), expected.read(positions)), (found.read_all(), expected.arrays)):
        assert given.keys() == of_memory.keys() == {"x", "y"}
        for name, array in given.items():
            assert array.dtype == of_memory[name].dtype
            np.testing.assert_array_equal(array, of_memory[name])
    assert describe(found) == describe(expected)
    np.testing.assert_array_equal(found.summary.sums, expected.summary.sums)
    for name in ("scale", "threshold"):
        of_records, of_array = (choice("preprocess", name).mean(dataset) for dataset in (found, expected))
        np.testing.assert_array_equal(of_records, of_array)
        x = expected.arrays["x"]
        bright = x >= 128 if name == "threshold" else x / 255
        np.testing.assert_allclose(of_records, bright.mean(axis=0), atol=1e-7)


def test_records_without_labels_have_none(tmp_path):
    x = random_images(10, 5, 6, 3)
    image = lambda tfds: {"image": tfds.features.Tensor(shape=(5, 6, 3), dtype=np.uint8)}  # noqa: E731
    write_dataset(tmp_path, "plain", image, lambda i: {"image": x[i]})
    found = open_records("plain", "train", data_dir=tmp_path, holdout=0)
    assert found.spec.keys() == found.summary.fingerprints.keys() == {"x"}
    np.testing.assert_array_equal(found.read_all()["x"], x)


def test_images_of_different_sizes_are_resized_on_request(tmp_path):
    def encoded(pixels):
        Image.fromarray(pixels).save(file := io.BytesIO(), "PNG")
        file.seek(0)
        return file

    x = [random_images(1, 12 + i, 10, 3)[0] for i in range(10)]
    features = lambda tfds: {"image": tfds.features.Image(shape=(None, None, 3))}  # noqa: E731
    write_dataset(tmp_path, "photographs", features, lambda i: {"image": encoded(x[i])})
    with refused(InputError, "image 1 is (13, 10, 3), image 0 is (12, 10, 3)); set data.resize=64"):
        load("photographs", "train", data_dir=tmp_path, holdout=0)
    for size in (5, 8):  # each is cached
        images = [ImageOps.fit(Image.fromarray(pixels), (size, size), Image.Resampling.BICUBIC) for pixels in x]
        config = DataConfig(name="photographs", data_dir=str(tmp_path), holdout=0, resize=size)
        in_memory, again = (ConfiguredSource(config).split("train").arrays["x"] for _ in range(2))
        streamed = ConfiguredSource(dataclasses.replace(config, streaming="always")).training()
        assert streamed.spec["x"].shape == (size, size, 3)
        for read in (in_memory, again, streamed.read_all()["x"]):
            np.testing.assert_array_equal(read, np.stack(images))
        assert streamed.summary.fingerprints == {"x": cache.fingerprint(in_memory)}


def test_each_example_is_decoded_once(data_dir, monkeypatch):
    found = open_records("digits", "train", data_dir=data_dir)
    encoded, features, decoders = found._reader
    decoded = []

    class Counted:
        def deserialize_example_np(self, record, *, decoders):
            decoded.append(record)
            return features.deserialize_example_np(record, decoders=decoders)

    monkeypatch.setitem(vars(found), "_reader", (encoded, Counted(), decoders))
    assert found.read(np.arange(7)).keys() == {"x", "y"}
    assert len(decoded) == 7


def test_large_images_are_read_in_smaller_parts(data_dir, monkeypatch):
    digits = open_records("digits", "train", data_dir=data_dir)
    monkeypatch.setattr("vae_jax.data.records.CHUNK_BYTES", 10 * 68)  # 64 pixels and a label
    sizes = [len(chunk["x"]) for _, chunk in digits._read_in_chunks()]
    assert (max(sizes), sum(sizes)) == (10, len(digits))


def test_the_summary_is_computed_once(digits_dir, monkeypatch):
    def summary():
        return open_records("digits", "train", data_dir=digits_dir).summary

    first = summary()
    paths = sorted(path.name for path in digits_dir.rglob("*-summary.npy"))
    assert [path.rsplit("-", 2)[0] for path in paths] == ["train-image", "train-label"]
    monkeypatch.setattr(records, "example_sums", None)
    second = summary()
    assert second.fingerprints == first.fingerprints
    np.testing.assert_array_equal(second.sums, first.sums)


@pytest.mark.fault
@pytest.mark.parametrize("name", ["image", "label"])
def test_a_damaged_summary_is_computed_again(digits_dir, name):
    found = open_records("digits", "train", data_dir=digits_dir)
    assert found.summary
    (path,) = digits_dir.rglob(f"train-{name}-*-summary.npy")
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    again = dataclasses.replace(found)
    assert again.summary.fingerprints == {
        "x": cache.fingerprint(load("digits", "train", data_dir=digits_dir)),
        "y": cache.fingerprint(load_labels("digits", "train", data_dir=digits_dir)),
    }
    assert path.read_bytes() == good
