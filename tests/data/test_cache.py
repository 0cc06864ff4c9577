"""The cache of decoded arrays: used, renewed when data change or an entry is damaged, and never an error."""

import functools
import hashlib
import os

import numpy as np
import pytest
from inputs import random_images

from vae_jax.data import cache, catalog, loading
from vae_jax.data.cache import fingerprint
from vae_jax.data.loading import load


def cached(folder):
    return sorted((folder / catalog.CACHE_FOLDER / "digits" / "1.0.0").glob("*"))


@pytest.mark.fault
def test_damaged_caches_are_rebuilt_without_a_message(digits_dir, capfd):
    load = functools.partial(loading.load, "digits", "train", data_dir=digits_dir)
    expected = load()
    array, metadata = cached(digits_dir)[1], cached(digits_dir)[0]
    assert (array.name, metadata.name) == ("train-image.npy", "train-image.json")
    good = {array: array.read_bytes(), metadata: metadata.read_bytes()}
    for path in (array, metadata):
        content = good[path]
        flipped = bytearray(content)
        flipped[len(content) * 2 // 3] ^= 1
        for damaged in (bytes(flipped), content[: len(content) // 2], b"", b"null", None):
            path.unlink() if damaged is None else path.write_bytes(damaged)
            np.testing.assert_array_equal(load(), expected)
            assert (array.read_bytes(), metadata.read_bytes()) == (good[array], good[metadata])
    assert sorted(p.suffix for p in cached(digits_dir)) == [".json", ".json", ".npy", ".npy"]
    assert capfd.readouterr() == ("", "")


def test_the_cache_is_used_until_the_data_change(digits_dir, monkeypatch):
    load = functools.partial(loading.load, "digits", "train", data_dir=digits_dir, holdout=0)
    expected = load()
    stats = cache.file_stats(digits_dir / "digits" / "1.0.0")
    path = cached(digits_dir)[1]
    cache.write(path, 255 - expected, stats)  # different pixels show that the cache is read
    np.testing.assert_array_equal(load(), 255 - expected)
    shard = next((digits_dir / "digits" / "1.0.0").glob("*train*"))
    os.utime(shard, ns=(0, 0))
    np.testing.assert_array_equal(load(), expected)
    cache.write(path, 255 - expected, stats)
    (digits_dir / "digits" / "1.0.0" / "more").write_text("")
    np.testing.assert_array_equal(load(), expected)


@pytest.mark.fault
def test_a_cache_that_cannot_be_written_is_no_error(digits_dir, data_dir):
    (digits_dir / catalog.CACHE_FOLDER).write_text("in the way")
    expected = load("digits", "train", data_dir=data_dir)
    np.testing.assert_array_equal(load("digits", "train", data_dir=digits_dir), expected)


def test_fingerprints_depend_on_pixels_shape_and_dtype():
    x = random_images(4, 6, 6, 1)
    changed = x.copy()
    changed[3, 5, 5, 0] ^= 1
    others = [changed, x.reshape(4, 36, 1, 1), x.view(np.int8), x[:3], x[::-1]]
    assert len({fingerprint(a) for a in (x, *others)}) == 6
    assert fingerprint(x) == fingerprint(np.asfortranarray(x)) == fingerprint(x.copy())
    digest = hashlib.sha256(b"|u1 (1, 2)" + bytes([7, 9])).hexdigest()
    assert fingerprint(np.array([[7, 9]], np.uint8)) == digest
