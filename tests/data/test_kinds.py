"""Kinds of data: what is inferred from an array, how it is stored, and what is refused in one line."""

import numpy as np
import pytest
from inputs import random_images, refused

from vae_jax.data import kinds
from vae_jax.data.kinds import KINDS, check_conditions, check_examples, check_labels, check_mask, infer_kind
from vae_jax.data.loading import load
from vae_jax.data.source import from_arrays
from vae_jax.errors import InputError


@pytest.mark.parametrize(
    ("dtype", "shape", "kind"),
    [
        ("uint8", (5, 4, 4), "images"),
        ("float64", (5, 4, 4, 3), "images"),
        ("float32", (5, 4), "vectors"),
        ("bool", (5, 4), "vectors"),
        ("int64", (5, 4), "counts"),
        ("uint8", (5, 4), "counts"),
    ],
)
def test_the_kind_is_inferred_from_dtype_and_axes(dtype, shape, kind):
    assert infer_kind(np.dtype(dtype), shape) == kind


def test_the_kinds_are_the_values_of_the_setting():
    assert list(KINDS) == ["images", "vectors", "counts"]
    assert [kind.value_range for kind in KINDS.values()] == [(0.0, 1.0), None, None]


@pytest.mark.parametrize("chunk", [7, kinds.CHUNK])
def test_examples_are_stored_in_the_form_of_their_kind(monkeypatch, chunk):
    monkeypatch.setattr(kinds, "CHUNK", chunk)
    pixels = random_images(5, 4, 3)
    for images in (pixels, pixels[..., None], (pixels / 255).astype(np.float16), np.asfortranarray(pixels / 255)):
        np.testing.assert_array_equal(check_examples(images, "images", "x"), pixels[..., None])
    np.testing.assert_array_equal(check_examples(pixels > 99, "images", "x")[..., 0], 255 * (pixels > 99))
    numbers = np.random.default_rng(0).normal(size=(5, 4))
    for kind, array in (("vectors", numbers), ("counts", np.arange(20).reshape(5, 4))):
        for given in (array, np.asfortranarray(array), array[::-1][::-1]):
            stored = check_examples(given, kind, "x")
            assert stored.dtype == KINDS[kind].dtype
            np.testing.assert_array_equal(stored, array.astype(stored.dtype))
    np.testing.assert_array_equal(check_examples(numbers > 0, "vectors", "x"), (numbers > 0).astype(np.float32))
    np.testing.assert_array_equal(check_examples(np.rint(numbers**2), "counts", "x"), np.rint(numbers**2))


def test_an_array_of_the_stored_form_is_not_copied():
    for kind, array in (("images", random_images(5, 4, 3, 1)), ("vectors", np.ones((5, 4), np.float32))):
        assert np.shares_memory(check_examples(array, kind, "x"), array)


@pytest.mark.parametrize(
    ("array", "kind", "message"),
    [
        (np.zeros(5), "images", "x has shape [5]; use [N, H, W] or [N, H, W, 1 or 3] for images, or [N, D]"),
        (np.zeros((5, 4, 4, 2)), "images", "x has shape [5, 4, 4, 2]; use [N, H, W] or [N, H, W, 1 or 3]"),
        (np.zeros((5, 4, 4)), "vectors", "x has shape [5, 4, 4]; use [N, D]"),
        (np.zeros((5, 0)), "counts", "x has shape [5, 0]; use [N, D]"),
        (np.zeros((0, 4)), "counts", "x is empty; use at least one count vector"),
        (np.zeros((5, 4, 4), int), "images", "x has dtype int64; use uint8, bool, or floats in [0, 1]"),
        (np.zeros((5, 4), complex), "vectors", "x has dtype complex128; use floats, integers or bool"),
        (np.full((5, 4), None), "counts", "x has dtype object; use integers of at least 0"),
        (np.full((5, 4, 4), 1.5), "images", "x has float values from 1.5 to 1.5; scale them to [0, 1]"),
        (np.full((5, 4, 4), np.nan), "images", "x has float values from nan to nan; scale them to [0, 1]"),
        (
            np.ones((5, 4, 4), np.uint8),
            "images",
            "x has uint8 values of only 0 and 1, but white is 255; multiply them by 255",
        ),
        (np.array([[1.0, np.nan]]), "vectors", "x has values from nan to nan; remove or replace those"),
        (np.array([[1.0, np.nan]], np.float32), "vectors", "x has values from nan to nan; remove or replace those"),
        (np.array([[1.0, -np.inf]]), "vectors", "x has values from -inf to 1; remove or replace those"),
        (np.array([[1e39, 2]]), "vectors", "x has values from 2 to 1e+39; remove or replace those"),
        (np.array([[1, -2]]), "counts", "x has values from -2 to 1; use counts of at least 0 and less than 2^31"),
        (np.array([[1, -2]], np.int32), "counts", "x has values from -2 to 1; use counts of at least 0"),
        (np.array([[1, 2**31]]), "counts", "x has values from 1 to 2.14748e+09; use counts of at least 0"),
        (np.array([[1.0, np.nan]]), "counts", "x has values from nan to nan; use counts of at least 0"),
        (np.array([[1.0, 1.5]]), "counts", "x has numbers that are no integers; use data.kind=vectors, or integers"),
    ],
)
def test_arrays_that_are_not_of_the_kind_are_refused(array, kind, message):
    with refused(InputError, message):
        check_examples(array, kind, "x")


def test_a_fraction_in_any_chunk_is_found(monkeypatch):
    monkeypatch.setattr(kinds, "CHUNK", 2)
    for position in range(6):
        counts = np.zeros(6)
        counts[position] = 0.5
        with refused(InputError, "x has numbers that are no integers"):
            check_examples(counts.reshape(3, 2), "counts", "x")


def test_labels_are_one_integer_for_each_example():
    labels = np.array([3, 0, 255], np.uint8)
    np.testing.assert_array_equal(check_labels(labels, 3, "y"), labels)
    assert check_labels(labels, 3, "y").dtype == np.int32
    for bad in (labels[:2], labels[:, None], labels / 2):
        with refused(InputError, f"y has shape {list(bad.shape)} and dtype {bad.dtype}; use one integer for each of "):
            check_labels(bad, 3, "y")
    with refused(InputError, "y has values from 0 to 2147483648; use labels that fit in int32"):
        check_labels(np.array([0, 2**31]), 2, "y")


def test_a_mask_has_the_shape_of_the_examples_or_of_the_labels():
    mask = random_images(5, 4, 3) > 99
    np.testing.assert_array_equal(check_mask(mask, (5, 4, 3, 1), "mask")[..., 0], mask)
    np.testing.assert_array_equal(check_mask(mask[..., None].astype(int), (5, 4, 3, 1), "mask")[..., 0], mask)
    np.testing.assert_array_equal(check_mask(mask[:, 0, 0], (5, 4, 3, 1), "mask"), mask[:, 0, 0])
    np.testing.assert_array_equal(check_mask(mask[:, 0, 0], (5, 1), "mask"), mask[:, 0, 0])  # of the labels
    np.testing.assert_array_equal(check_mask(mask[:, :1, 0], (5, 1), "mask"), mask[:, :1, 0])  # of the numbers
    with refused(InputError, "mask has shape [5, 4]; use [5] or [5, 4, 3, 1]"):
        check_mask(mask[..., 0], (5, 4, 3, 1), "mask")
    for bad in (np.full(5, 2), np.full(5, 0.5), np.full(5, "a")):
        with refused(InputError, "mask has dtype ", "other than 0 and 1; use bool"):
            check_mask(bad, (5, 2), "mask")


def test_conditions_are_vectors_of_finite_numbers():
    found = check_conditions(np.array([3, 0, 255], np.uint8), 3, "c")
    np.testing.assert_array_equal(found, [[3], [0], [255]])
    assert found.dtype == np.float32
    np.testing.assert_array_equal(check_conditions(np.eye(3), 3, "c"), np.eye(3))
    for bad in (np.ones(2), np.ones((3, 1, 1)), np.ones((3, 0)), np.array(["a", "b", "c"])):
        with refused(InputError, f"c has shape {list(bad.shape)} and dtype {bad.dtype}; use numbers [3, C]"):
            check_conditions(bad, 3, "c")
    for bad in (np.nan, 1e39):
        with refused(InputError, "c has numbers that are not finite in float32; use a mask for unknown conditions"):
            check_conditions(np.full(3, bad), 3, "c")


PIXELS = random_images(20, 16, 12)


@pytest.mark.fault
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("scale", [255**2, 255**3, 255 * 1000])
def test_floats_that_were_divided_by_255_twice_are_refused(dtype, scale):
    images = (PIXELS / scale).astype(dtype)
    if images.any():
        with refused(InputError, "probably divided by 255 twice: x * 255; scale them to [0, 1]"):
            check_examples(images, "images", "x")


def test_floats_that_are_outside_by_rounding_are_taken():
    for noise in (1e-7, -1e-7, 1e-3, -1e-3):
        np.testing.assert_array_equal(check_examples(PIXELS / 255 + noise, "images", "x")[..., 0], PIXELS)
    for images in (PIXELS / 255 - 0.01, PIXELS / 255 + 0.01):
        with refused(InputError, "has float values from", "scale them to [0, 1]"):
            check_examples(images, "images", "x")


@pytest.mark.fault
@pytest.mark.parametrize(
    ("array", "guess"),
    [
        (PIXELS / 127.5 - 1, "probably scaled to [-1, 1]: (x + 1) / 2"),
        (PIXELS.astype(float), "probably of 0 to 255: x / 255"),
        (random_images(16, 12, 3), "shape [16, 12, 3], probably one image [H, W, C]: add an axis, x[None]"),
        (random_images(16, 12, 4), "probably one image [H, W, C]"),
        (random_images(16, 12, 1) / 255, "probably one image [H, W, C]"),
        (random_images(16, 16, 100), "probably [H, W, N]: x.transpose(2, 0, 1)"),
        (random_images(9, 3, 16, 12), "probably [N, C, H, W]: x.transpose(0, 2, 3, 1)"),
        (random_images(9, 1, 16, 12), "probably [N, C, H, W]: x.transpose(0, 2, 3, 1)"),
        (random_images(16, 12, 3, 9), "probably [H, W, C, N]: x.transpose(3, 0, 1, 2)"),
        (random_images(3, 9, 16, 12), "probably [C, N, H, W]: x.transpose(1, 2, 3, 0)"),
        (random_images(9, 16, 12, 4), "probably with transparency: x[..., :3]"),
        (random_images(16, 12), "probably intensities of flattened images, or of one image; use an array [N, H, W]"),
        (random_images(60, 784), "or data.kind=counts"),
        (random_images(16, 16).astype(np.int64), "probably one image; use an array [N, H, W], or data.kind=counts"),
        (random_images(16, 16) / 255, "probably one image; use an array [N, H, W], or data.kind=vectors"),
    ],
)
def test_arrays_that_are_probably_something_else_are_refused_with_that_guess(array, guess, tmp_path):
    with refused(InputError, guess):
        from_arrays(array)
    np.save(tmp_path / "x.npy", array)
    with refused(InputError, guess):
        load(tmp_path / "x.npy", "train")


def test_a_stated_kind_is_no_guess():
    assert from_arrays(random_images(60, 784), kind="counts").kind == "counts"
    assert from_arrays(random_images(16, 16) / 255, kind="vectors").kind == "vectors"
    assert from_arrays(np.random.default_rng(0).normal(size=(16, 16))).kind == "vectors"
