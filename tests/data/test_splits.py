"""Splits: disjoint, complete, the same on every machine, and of the requested size."""

import numpy as np
import pytest
from inputs import refused

from vae_jax.data import splits
from vae_jax.data.loading import load
from vae_jax.errors import InputError, NoExamplesError


def test_the_hash_order_never_changes():
    def splitmix64(x):  # in Python's integers, independent of NumPy
        z = (x + 1) * 0x9E3779B97F4A7C15 % 2**64
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
        return z ^ z >> 31

    assert splitmix64(0) == 0xE220A8397B1DCDAF  # the published first output for the seed 0
    order = splits.hash_order(1000)
    assert order.tolist() == sorted(range(1000), key=splitmix64)
    assert order[:4].tolist() == [410, 821, 366, 503]


@pytest.mark.parametrize("sizes", [{"train": 101}, {"train": 101, "test": 7}, {"train": 101, "validation": 7}])
@pytest.mark.parametrize("holdout", [0.1, 0.5])
def test_splits_are_disjoint_and_cover_everything(sizes, holdout):
    picked = {split: splits.select(sizes, split, holdout) for split in splits.SPLITS}
    from_train = [index for source, index in picked.values() if source == "train"]
    assert np.sort(np.concatenate(from_train)).tolist() == list(range(101))
    assert all(np.all(np.diff(index) > 0) for index in from_train)
    for split in sizes.keys() - {"train"}:
        assert picked[split] == (split, None)


def test_the_validation_share_is_that_of_the_examples_after_the_test_split():
    count = {s: len(splits.select({"train": 1000}, s, 0.1)[1]) for s in splits.SPLITS}
    assert count == {"test": 100, "validation": 90, "train": 810}
    assert len(splits.select({"train": 60000, "test": 10000}, "validation", 0.1)[1]) == 6000
    assert splits.select({"train": 60000, "test": 10000}, "train", 0.0) == ("train", None)


def test_unknown_splits_and_shares_outside_of_the_range_are_refused():
    with refused(InputError, "split='dev' is not a split; use train, validation or test"):
        load("digits", "dev")
    for holdout in (-0.1, 1.0, float("nan"), False, "0.1"):
        with refused(InputError, f"data.holdout={holdout!r} must be "):
            load("digits", "train", holdout=holdout)
    with refused(NoExamplesError, "data.holdout=0 results in no validation examples out of 10; use a share above 0"):
        splits.select({"train": 10, "test": 2}, "validation", 0)
    with refused(NoExamplesError, "data.holdout=0 results in no test examples"):
        splits.select({"train": 10}, "test", 0)
    with refused(NoExamplesError, "data.holdout=0.9 results in no train examples out of 3"):
        splits.select({"train": 3}, "train", 0.9)
    with refused(InputError, "split='train' needs training examples", "test"):
        splits.select({"test": 2}, "train", 0.1)


def test_too_few_examples_to_hold_out_others_are_all_splits():
    for sizes in ({"train": 1}, {"train": 2}, {"train": 1, "test": 5}):
        for split in set(splits.SPLITS) - {"test"} | ({"test"} - sizes.keys()):
            assert splits.select(sizes, split, 0.1) == ("train", None)
    assert len(splits.select({"train": 3}, "test", 0.1)[1]) == 1


def test_examples_of_a_group_stay_in_one_split():
    groups = np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 3, 3, 7, 0])
    picked = {split: splits.select({"train": 14}, split, 0.2, groups)[1] for split in splits.SPLITS}
    assert np.sort(np.concatenate(list(picked.values()))).tolist() == list(range(14))
    found = [set(groups[index]) for index in picked.values()]
    assert sum(map(len, found)) == len(set.union(*found)) == 10
    plain = splits.select({"train": 10}, "test", 0.2, np.arange(10))
    np.testing.assert_array_equal(plain[1], splits.select({"train": 10}, "test", 0.2)[1])
