"""Batches of examples: every example once and in order, with the key of its position, on any number of devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax.runtime import sharding
from vae_jax.training.example_batches import evaluate_examples, padded_batches

IMAGE_SHAPE = (4, 3, 1)
PIXELS = np.random.default_rng(0).integers(0, 256, size=(23, *IMAGE_SHAPE), dtype=np.uint8)
IMAGES = {"x": PIXELS}


@pytest.mark.parametrize("batch_size", [1, 5, 23, 24, 100])
def test_every_example_is_evaluated_once_and_in_order(batch_size):
    def per_example(params, key, batch):
        del params, key
        return {"sum": jnp.sum(batch["x"].astype(jnp.int32), axis=(1, 2, 3)), "y": batch["y"]}

    done = []
    arrays = IMAGES | {"y": np.arange(23)}
    values = evaluate_examples(per_example, None, jax.random.key(0), arrays, batch_size=batch_size, report=done.append)
    np.testing.assert_array_equal(values["sum"], PIXELS.astype(np.int32).sum(axis=(1, 2, 3)))
    np.testing.assert_array_equal(values["y"], np.arange(23))
    assert done[-1] == 23
    for _, batch in padded_batches(arrays, batch_size):
        assert {name: array.shape for name, array in batch.items()} == {
            "x": (batch_size, *IMAGE_SHAPE),
            "y": (batch_size,),
        }


@pytest.mark.parametrize(("fixed", "rows"), [(True, 30), (False, 23)])
def test_batches_of_a_fixed_size_have_it_also_with_fewer_examples(fixed, rows):
    shapes = []

    def per_example(params, keys, batch):
        del params
        shapes.append((keys.shape, batch["x"].shape[0]))
        return {"key": jax.random.key_data(keys), "x": batch["x"]}

    key = jax.random.key(0)
    values = evaluate_examples(per_example, None, key, IMAGES, batch_size=30, fixed_size=fixed)
    assert shapes == [((rows,), rows)]
    np.testing.assert_array_equal(values["x"], PIXELS)
    expected = evaluate_examples(per_example, None, key, IMAGES, batch_size=7)["key"]
    np.testing.assert_array_equal(values["key"], expected)


def test_the_rows_that_fill_a_batch_repeat_the_last_example():
    counts, batches = zip(*padded_batches({"x": np.arange(7)}, 5, multiple=4), strict=True)
    assert counts == (5, 2)
    np.testing.assert_array_equal(
        [batch["x"] for batch in batches], [[0, 1, 2, 3, 4, 4, 4, 4], [5, 6, 6, 6, 6, 6, 6, 6]]
    )


@pytest.mark.parametrize(
    ("arrays", "batch_size", "words"),
    [
        ({"x": PIXELS, "y": np.arange(22)}, 5, r"^arrays have \{'x': 23, 'y': 22\} examples"),
        ({"x": PIXELS[:0]}, 5, r"^arrays have length 0; pass one example or more"),
        ({}, 5, r"^arrays have length 0"),
        (IMAGES, 0, r"^batch_size=0 must be 1 or more"),
    ],
)
def test_arrays_that_cannot_be_divided_into_batches_are_refused(arrays, batch_size, words):
    with pytest.raises(ValueError, match=words):
        evaluate_examples(lambda *_: {}, None, jax.random.key(0), arrays, batch_size=batch_size)


@pytest.mark.parametrize("devices", [1, 3, 8])
@pytest.mark.parametrize("batch_size", [1, 5, 23, 24])
def test_each_example_has_the_key_of_its_position_for_any_batch_size_and_devices(batch_size, devices):
    def per_example(params, keys, batch):
        del params
        assert keys.shape == batch["x"].shape[:1]
        assert keys.sharding.is_equivalent_to(placement, 1)
        return {"key": jax.random.key_data(keys)}

    placement = sharding.batch_sharding(sharding.make_mesh(devices))
    key = jax.random.key(0)
    expected = [jax.random.key_data(jax.random.fold_in(key, i)) for i in range(23)]
    for first in (0, 20):
        part = {"x": PIXELS[first:]}
        values = evaluate_examples(
            per_example, None, key, part, batch_size=batch_size, first=first, placement=placement
        )
        np.testing.assert_array_equal(values["key"], expected[first:])
