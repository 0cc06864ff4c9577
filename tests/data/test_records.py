"""Records: the same images and statistics as in memory, and damaged files are named."""

import numpy as np
import pytest

from vae_jax.data import records
from vae_jax.data.cache import fingerprint
from vae_jax.data.loading import load, open_records
from vae_jax.data.preprocess import mean_image


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_records_are_the_images_of_load(data_dir, split):
    found, expected = (read("digits", split, data_dir=data_dir) for read in (open_records, load))
    assert (found.shape, found.nbytes) == (expected.shape, expected.nbytes)
    positions = np.asarray([3, 0, 3, len(expected) - 1])
    np.testing.assert_array_equal(found.read(positions), expected[positions])
    assert found.summary.fingerprint == fingerprint(expected)
    for binarization in ("none", "threshold"):
        of_records, of_array = (mean_image(images, binarization=binarization) for images in (found, expected))
        np.testing.assert_array_equal(of_records, of_array)
        bright = expected >= 128 if binarization == "threshold" else expected / 255
        np.testing.assert_allclose(of_records, bright.mean(axis=0), atol=1e-7)


def test_the_summary_is_computed_once(digits_dir, monkeypatch):
    def summary():
        return open_records("digits", "train", data_dir=digits_dir).summary

    first = summary()
    monkeypatch.setattr(records, "pixel_sums", None)
    second = summary()
    assert second.fingerprint == first.fingerprint
    np.testing.assert_array_equal(second.sums, first.sums)
