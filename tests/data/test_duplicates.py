"""Equal examples, in any dtype and of any size."""

import numpy as np
import pytest
from inputs import random_images

from vae_jax.data import duplicates
from vae_jax.data.dataset import ArrayDataset

ARRAYS = [random_images(60, 3, 5, 1), random_images(60, 8, 8, 3), np.random.default_rng(0).normal(size=(60, 7)),
          np.arange(60, dtype=np.int32)[:, None]]  # fmt: skip


@pytest.mark.parametrize("x", ARRAYS)
@pytest.mark.parametrize("chunk", [16, 1 << 24])
def test_equal_examples_are_found(x, chunk, monkeypatch):
    monkeypatch.setattr(duplicates, "CHUNK_BYTES", chunk)
    order = np.array([0, 1, 2, 1, 3, 0, 1])
    assert duplicates.group_equal(x[order]).tolist() == [0, 1, 2, 1, 4, 0, 1]
    assert duplicates.group_equal(x).tolist() == list(range(60))
    assert duplicates.count_shared(x[order], x[1:3]) == 4
    assert duplicates.count_shared(x[:30], x[30:]) == 0


@pytest.mark.parametrize("last", [np.uint8, np.float32])
def test_examples_that_differ_in_the_last_bytes_of_a_word_have_different_hashes(last):
    x = np.zeros((4000, 8 // np.dtype(last).itemsize, 3), last)
    x[:, -1, :] = np.stack(np.unravel_index(np.arange(4000), (20, 20, 10)), axis=1)
    x = x.transpose(0, 2, 1)  # words of 8 bytes, of which the last number alone varies
    assert len(np.unique(duplicates.hash_examples(x))) == 4000
    assert duplicates.count_shared(x, x[::-1]) == 4000


def test_a_hash_that_is_equal_by_chance_is_no_equal_example(monkeypatch):
    monkeypatch.setattr(duplicates, "hash_examples", lambda x: np.zeros(len(x), np.uint64))
    x = random_images(5, 3, 3)
    assert duplicates.group_equal(x).tolist() == [0, 1, 2, 3, 4]
    assert duplicates.count_shared(x[1:], x[:1]) == 0


def test_each_two_splits_are_compared():
    x = random_images(20, 4, 4)
    parts = {"train": x[:10], "validation": x[8:15], "test": x[14:]}
    lines = duplicates.describe_duplicates({n: ArrayDataset({"x": p}, "images") for n, p in parts.items()}, "mine")
    assert [line.partition(",")[0] for line in lines] == [
        "data.name='mine': 2 of the 7 validation examples are identical to train examples",
        "data.name='mine': 1 of the 6 test examples are identical to validation examples",
    ]
    counts = {name: ArrayDataset({"x": np.ones((5, 2), np.int32)}, "counts") for name in ("train", "test")}
    assert duplicates.describe_duplicates(counts, "mine") == []
