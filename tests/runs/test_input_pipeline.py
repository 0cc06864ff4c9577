"""The input pipeline of a training: all examples on the devices, or the batches of each dispatch."""

import jax
import numpy as np
import pytest
from hand_made import hand_made

from vae_jax.data import Records
from vae_jax.runs import data_shapes, prepare_experiment
from vae_jax.runs.input_pipeline import open_input_pipeline
from vae_jax.runtime import Placement


def test_examples_in_memory_are_placed_once_for_all_dispatches(small, tmp_path):
    experiment, placement = prepare_experiment(small(mesh__data=2), tmp_path / "run")
    with open_input_pipeline(experiment, placement, first_step=0) as next_data:
        first, second = next_data(5), next_data(2)
    assert first is second
    arrays = experiment.training_data.read_all()
    assert set(first) == set(arrays) == {"x", "y"}
    for name, placed in first.items():
        assert placed.sharding == data_shapes(experiment, placement)[name].sharding
        np.testing.assert_array_equal(placed, arrays[name])


@pytest.mark.parametrize("settings", [{}, {"train__microbatches": 2}, {"mesh__data": 4}], ids=str)
def test_streamed_batches_are_the_examples_of_each_step(small, tmp_path, settings):
    config = small(data__streaming="always", train__steps=12, **settings)
    experiment, placement = prepare_experiment(config, tmp_path / "run")
    assert isinstance(experiment.training_data, Records)
    arrays, shapes = experiment.dataset("train").arrays, data_shapes(experiment, placement)
    with open_input_pipeline(experiment, placement, first_step=3) as next_data:
        for step, count in ((3, 5), (8, 4)):
            batches = next_data(count)
            assert jax.tree.map(lambda b: (b.shape, b.dtype, b.sharding), batches) == jax.tree.map(
                lambda s: (s.shape, s.dtype, s.sharding), shapes
            )
            for name, batch in batches.items():
                rows = np.asarray(batch).reshape(5, config.train.batch_size, *arrays[name].shape[1:])
                for i in range(count):
                    np.testing.assert_array_equal(rows[i], arrays[name][experiment.examples(step + i)])
                assert not rows[count:].any()  # a shorter dispatch is padded with zeros


def test_a_finished_streamed_run_reads_nothing(small, tmp_path):
    experiment, placement = prepare_experiment(small(data__streaming="always"), tmp_path / "run")
    with open_input_pipeline(experiment, placement, first_step=20) as next_data:
        assert callable(next_data)


def test_arrays_of_a_user_are_placed_like_a_data_set():
    experiment, placement = hand_made(), Placement()
    with open_input_pipeline(experiment, placement, first_step=0) as next_data:
        placed = next_data(5)
    assert {len(array.devices()) for array in placed.values()} == {8}
    np.testing.assert_array_equal(placed["y"], experiment.training_data.read_all()["y"])
