"""Sources of a user's arrays: splits that are given or held out, and mistakes that are refused in one line."""

import jax.numpy as jnp
import numpy as np
import pytest
from inputs import random_images, refused

from vae_jax.data import splits
from vae_jax.data.source import ArraySource, from_arrays, from_splits, join_splits
from vae_jax.errors import InputError, NoExamplesError


def test_missing_splits_are_held_out_and_all_arrays_belong_together():
    y = np.arange(200)
    x = np.broadcast_to(y.astype(np.uint8)[:, None, None], (200, 2, 2))
    source = from_arrays(x, y, y % 2 == 0, holdout=0.2)
    parts = {split: source.split(split) for split in splits.SPLITS}
    assert {split: len(part) for split, part in parts.items()} == {"train": 128, "validation": 32, "test": 40}
    assert sorted(np.concatenate([part.arrays["y"] for part in parts.values()])) == y.tolist()
    for split, part in parts.items():
        expected = splits.select({"train": 200}, split, 0.2)[1]
        np.testing.assert_array_equal(part.arrays["y"], expected)
        np.testing.assert_array_equal(part.arrays["x"][:, 0, 0, 0], expected)
        np.testing.assert_array_equal(part.arrays["mask"], expected % 2 == 0)
    assert parts["train"].kind == "images"
    np.testing.assert_array_equal(source.training().arrays["y"], parts["train"].arrays["y"])
    assert source.name == "arrays"


def test_given_splits_are_used():
    x = np.random.default_rng(0).normal(size=(30, 4))
    source = from_arrays(x[:20], validation={"x": x[20:25]}, test={"x": x[25:]})
    for split, expected in (("train", x[:20]), ("validation", x[20:25]), ("test", x[25:])):
        np.testing.assert_array_equal(source.split(split).arrays["x"], expected.astype(np.float32))
        assert source.split(split).kind == "vectors"
    held_out = from_arrays(x[:20], test={"x": x[25:]}, holdout=0.25)
    assert [len(held_out.split(split)) for split in splits.SPLITS] == [15, 5, 5]


def test_lists_jax_arrays_and_sparse_matrices_are_converted():
    sparse = pytest.importorskip("scipy.sparse")
    counts = np.random.default_rng(0).poisson(0.3, size=(20, 5))
    for given in (counts.tolist(), jnp.asarray(counts), sparse.csr_matrix(counts)):
        source = from_arrays(given, holdout=0)
        assert (source.kind, source.split("train").arrays["x"].dtype) == ("counts", np.int32)
        np.testing.assert_array_equal(source.split("train").arrays["x"], counts)


def test_the_kind_of_the_training_examples_holds_for_all_splits():
    counts = np.arange(20).reshape(5, 4)
    source = from_arrays(counts / 2, test={"x": counts})
    assert (source.split("test").kind, source.split("test").arrays["x"].dtype) == ("vectors", np.float32)
    assert from_arrays(counts.astype(float), kind="counts").split("train").kind == "counts"


X = random_images(6, 4, 4)
Y = np.arange(6)
VECTORS = np.ones((6, 4))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": X, "y": Y[:5]}, "y has shape [5] and dtype int64; use one integer for each of the 6 examples"),
        ({"x": X, "y": Y / 2}, "y has shape [6] and dtype float64; use one integer for each of the 6 examples"),
        ({"x": X, "mask": Y}, "mask has dtype int64 and values other than 0 and 1; use bool"),
        ({"x": X, "c": Y[:5]}, "c has shape [5] and dtype int64; use numbers [6, C]"),
        (
            {"x": X, "c": Y, "test": {"x": X, "c": VECTORS}},
            "test c has examples of shape [4], but training examples have shape [1]; use the same",
        ),
        ({"x": X.astype(int)}, "x has dtype int64; use uint8, bool, or floats in [0, 1]"),
        ({"x": VECTORS * np.nan}, "x has values from nan to nan; remove or replace those that are not finite"),
        ({"x": [[1, 2], [3]]}, "x has rows of different lengths; use an array"),
        ({"x": None}, 'examples are the arrays []; use {"x": ...}, with "y", "mask" and "c" if there are any'),
        ({"x": X, "kind": "image"}, "kind='image' must be one of auto, images, vectors, counts"),
        ({"x": X, "holdout": 1}, "data.holdout=1 must be a number at least 0 and less than 1"),
        ({"x": X, "test": X}, 'test examples are ndarray; use {"x": ...}, with "y", "mask" and "c" if there are any'),
        ({"x": X, "test": {"x": X, "labels": Y}}, "test examples are the arrays ['labels', 'x']; use "),
        ({"x": X, "test": {"x": X, "y": Y}}, "test examples have the arrays x, y, but training examples have x; use "),
        (
            {"x": X, "validation": {"x": X[:, :3]}},
            "validation x has examples of shape [3, 4, 1], but training examples have shape [4, 4, 1]; use the same",
        ),
        ({"x": VECTORS, "test": {"x": VECTORS * np.inf}}, "test x has values from inf to inf; remove or replace "),
        ({"x": X, "test": {"x": VECTORS}}, "test x has shape [6, 4]; use [N, H, W] or [N, H, W, 1 or 3]"),
    ],
)
def test_mistakes_are_refused_in_one_line(arguments, message):
    with refused(InputError, message):
        from_arrays(**arguments)


def test_splits_need_training_examples_and_known_names():
    for parts in ({}, {"test": {"x": X}}, [X]):
        with refused(InputError, 'the data set has no training examples; use {"train": {"x": ...}, ...}'):
            from_splits(parts)
    with refused(InputError, "split='valid' is not a split; use train, validation or test"):
        from_splits({"train": {"x": X}, "valid": {"x": X}})
    with refused(InputError, "split='dev' is not a split; use train, validation or test"):
        from_arrays(X).split("dev")
    with refused(NoExamplesError, "data.holdout=0 results in no test examples out of 6; use a share above 0"):
        from_arrays(X, holdout=0).split("test")


def test_all_splits_are_joined_in_the_order_of_the_source():
    x = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    y = np.arange(30)
    for source in (from_arrays(x, y, holdout=0.2), from_arrays(x[:20], y[:20], test={"x": x[20:], "y": y[20:]})):
        joined = join_splits(source.split, source.name)
        np.testing.assert_array_equal(joined.arrays["x"], x)
        assert joined.arrays["y"].tolist() == joined.origin["index"].tolist() == list(range(30))
        for split in splits.SPLITS:
            index = joined.origin["index"][joined.origin["split"] == split]
            np.testing.assert_array_equal(joined.arrays["x"][index], source.split(split).arrays["x"])
    assert len(join_splits(from_arrays(x[:2]).split, "two")) == 2  # of two examples all splits are the same
    assert len(join_splits(from_arrays(x[:3], holdout=0.5).split, "three")) == 3  # none is left for training
    unequal = ArraySource({"train": {"x": x}, "test": {"x": x, "y": y}}, "vectors")
    with refused(InputError, "arrays: its splits have arrays", "use splits with equal arrays"):
        join_splits(unequal.split, unequal.name)
