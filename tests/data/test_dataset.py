"""Data sets in memory: reading by position, and the statistics and the description of all examples."""

import json

import jax
import numpy as np
import pytest
from inputs import random_images

from vae_jax.data.cache import fingerprint
from vae_jax.data.dataset import ArrayDataset, describe, example_sums


@pytest.fixture
def labelled():
    arrays = {"x": random_images(6, 4, 3, 1), "y": np.arange(6, dtype=np.int32), "mask": np.arange(6) < 3}
    return ArrayDataset(arrays, "images")


def test_examples_are_read_by_position(labelled):
    positions = np.array([4, 0, 4])
    found = labelled.read(positions)
    assert found.keys() == labelled.arrays.keys()
    for name, array in labelled.arrays.items():
        np.testing.assert_array_equal(found[name], array[positions])
        assert labelled.read_all()[name] is array
    assert (len(labelled), labelled.nbytes) == (6, 6 * 12 + 6 * 4 + 6)


def test_the_spec_describes_one_example(labelled):
    assert labelled.spec == {
        "x": jax.ShapeDtypeStruct((4, 3, 1), np.uint8),
        "y": jax.ShapeDtypeStruct((), np.int32),
        "mask": jax.ShapeDtypeStruct((), bool),
    }


def test_the_description_is_json_and_changes_with_each_array(labelled):
    found = describe(labelled)
    assert json.loads(json.dumps(found)) == found
    assert (found["kind"], found["num_examples"]) == ("images", 6)
    x = labelled.arrays["x"]
    assert found["arrays"]["x"] == {"shape": [4, 3, 1], "dtype": "uint8", "sha256": fingerprint(x)}
    assert list(found["arrays"]) == ["x", "y", "mask"]
    other = describe(ArrayDataset({**labelled.arrays, "y": labelled.arrays["y"][::-1]}, "images"))
    assert other["arrays"]["x"] == found["arrays"]["x"]
    assert other["arrays"]["y"]["sha256"] != found["arrays"]["y"]["sha256"]


def test_sums_over_the_examples():
    images = random_images(50, 4, 3, 1)
    sums, bright = example_sums(images)
    assert sums.dtype == np.uint64
    np.testing.assert_array_equal(sums, images.astype(int).sum(axis=0))
    np.testing.assert_array_equal(bright, (images >= 128).sum(axis=0))
    vectors = np.random.default_rng(0).normal(size=(50, 7)).astype(np.float32)
    for array in (vectors, np.full((50, 7), 2**31 - 1, np.int32)):
        assert example_sums(array).dtype == np.float64
        np.testing.assert_array_equal(example_sums(array), [array.astype(np.float64).sum(axis=0), np.zeros(7)])


def test_the_summary_is_computed_once(labelled):
    assert labelled.summary is labelled.summary
