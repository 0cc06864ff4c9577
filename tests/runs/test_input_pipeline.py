"""The input pipeline of a training: all images on the devices, or the batches of each dispatch."""

import numpy as np
import pytest

from vae_jax.data import load_images
from vae_jax.runs import open_input_pipeline, prepare_run


def test_images_in_memory_are_placed_once_for_all_dispatches(small, tmp_path):
    run, images = prepare_run(small(mesh__data=2), tmp_path / "run")
    with open_input_pipeline(run, images, first_step=0) as next_images:
        first, second = next_images(5), next_images(2)
    assert first is second
    assert first.sharding == run.images_sharding
    np.testing.assert_array_equal(first, images)


@pytest.mark.parametrize("settings", [{}, {"train__microbatches": 2}, {"mesh__data": 4}], ids=str)
def test_streamed_batches_are_the_examples_of_each_step(small, tmp_path, settings):
    config = small(data__streaming="always", train__steps=12, **settings)
    run, records = prepare_run(config, tmp_path / "run")
    images = load_images(config, "train")
    with open_input_pipeline(run, records, first_step=3) as next_images:
        for step, count in ((3, 5), (8, 4)):
            batches = next_images(count)
            assert batches.shape == run.images_shape
            assert batches.sharding == run.images_sharding
            rows = np.asarray(batches).reshape(run.images_shape[0], config.train.batch_size, 8, 8, 1)
            for i in range(count):
                np.testing.assert_array_equal(rows[i], images[run.examples(step + i)])
            assert not rows[count:].any()  # a shorter dispatch is padded with zeros


def test_a_finished_streamed_run_reads_nothing(small, tmp_path):
    run, records = prepare_run(small(data__streaming="always"), tmp_path / "run")
    with open_input_pipeline(run, records, first_step=20) as next_images:
        assert callable(next_images)
