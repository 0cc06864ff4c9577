"""A run: its keys, its batches, and the shapes of the images that its training program receives."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training_runs import without_key_type

from vae_jax.errors import InputError
from vae_jax.runs import evaluation_key, prepare_run


def test_each_split_has_a_separate_key_in_evaluations(make_run):
    run, _ = make_run()
    keys = [jax.random.key_data(evaluation_key(run, split)).tolist() for split in ("train", "validation", "test")]
    assert len({*map(tuple, keys)}) == 3


def test_the_batches_of_an_epoch_contain_each_image_at_most_once(make_run):
    run, _ = make_run()
    steps = run.data["num_examples"] // run.config.train.batch_size
    epoch = np.concatenate([run.examples(step) for step in range(steps)])
    assert len(epoch) == len(set(epoch.tolist())) == steps * run.config.train.batch_size
    assert set(epoch.tolist()) <= set(range(run.data["num_examples"]))
    np.testing.assert_array_equal(run.examples(3), run.examples(3))


def test_the_initial_state_is_a_function_of_the_key(make_run):
    run, _ = make_run(train__ema_decay=0.9)
    first, again, other = (run.initial_state(key) for key in (run.key, run.key, jax.random.key(1)))
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(without_key_type(a), without_key_type(b))
    jax.tree.map(np.testing.assert_array_equal, first.params, first.ema_params)
    kernels = [state.params["posterior_mean"]["kernel"] for state in (first, other)]
    assert not np.array_equal(*kernels)
    without, _ = make_run()
    assert without.initial_state(without.key).ema_params == ()


def test_the_output_bias_starts_at_the_mean_image(make_run):
    run, _ = make_run()
    mean = jnp.full(run.image_shape, 0.25)
    plain, centered = run.initial_state(run.key), run.initial_state(run.key, mean)
    assert not np.array_equal(plain.params["output_bias"], centered.params["output_bias"])


@pytest.mark.parametrize(
    ("settings", "shape"),
    [
        ({}, (1294, 8, 8, 1)),
        ({"data__streaming": "always"}, (5, 16, 8, 8, 1)),
        ({"data__streaming": "always", "train__microbatches": 2}, (5, 2, 8, 8, 8, 1)),
    ],
    ids=["in memory", "streamed", "streamed in microbatches"],
)
def test_the_shape_of_the_images_of_a_dispatch(make_run, settings, shape):
    run, _ = make_run(**settings)
    assert run.images_shape == shape
    assert run.microbatches == settings.get("train__microbatches", 1)
    assert run.images_sharding.shard_shape(shape) == shape  # on one device


def test_images_of_another_shape_are_refused(make_run):
    run, _ = make_run()
    assert run.images("test").shape[1:] == run.image_shape == (8, 8, 1)
    other = dataclasses.replace(run, data=run.data | {"image_shape": [9, 8, 1]})
    with pytest.raises(
        InputError, match=r"^data\.name=.* has images of shape \[8, 8, 1\], but .* was trained on \[9, 8, 1\]"
    ):
        other.images("test")


def test_training_precision_does_not_change_the_model_that_is_evaluated(small, tmp_path):
    run, _ = prepare_run(small(model__compute_dtype="bfloat16"), tmp_path / "run")
    reference, _ = prepare_run(small(), tmp_path / "run")
    assert run.model == reference.model
    assert run.training_model != reference.training_model
