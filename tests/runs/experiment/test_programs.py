"""The step and the training program of an experiment: shapes, moving average, compilation, donation, and profiles."""

import jax
import numpy as np
import pytest
from compilations import compilations
from hand_made import hand_made, source
from training_runs import fit

from vae_jax.config import TrainConfig
from vae_jax.runs import (
    build_step,
    compile_program,
    data_shapes,
    is_streamed,
    num_microbatches,
    place_initial_state,
    profile_to,
    state_shapes,
    with_training,
)
from vae_jax.runtime import Placement, sharding
from vae_jax.training import make_train_step


@pytest.mark.parametrize(
    ("settings", "lead"),
    [
        ({}, (1294,)),
        ({"data__streaming": "always"}, (5, 16)),
        ({"data__streaming": "always", "train__microbatches": 2}, (5, 2, 8)),
    ],
    ids=["in memory", "streamed", "streamed in microbatches"],
)
def test_the_shapes_of_the_data_of_a_dispatch(make_experiment, one_device, settings, lead):
    experiment, _ = make_experiment(**settings)
    assert is_streamed(experiment) == ("data__streaming" in settings)
    assert num_microbatches(experiment, one_device) == settings.get("train__microbatches", 1)
    shapes = data_shapes(experiment, one_device)
    assert {name: (s.shape, str(s.dtype)) for name, s in shapes.items()} == {
        "x": ((*lead, 8, 8, 1), "uint8"), "y": (lead, "int32"),
    }  # fmt: skip
    for s in shapes.values():
        assert s.sharding.shard_shape(s.shape) == s.shape  # on one device


def test_a_plain_function_as_objective_is_not_divided_because_it_may_compare_examples(one_device):
    large = TrainConfig(steps=1, batch_size=1000)
    experiment = hand_made(num_samples=5, training=large)
    assert num_microbatches(experiment, one_device) == 1
    assert num_microbatches(with_training(experiment, microbatches=4), one_device) == 4


def test_each_class_of_an_unknown_label_counts_as_a_sample(make_experiment, one_device):
    few = {"data__labelled": 10, "train__batch_size": 400}
    for model, parts in (("m2", 4), ("conditional", 1)):
        experiment, _ = make_experiment(model=model, **few)
        assert num_microbatches(experiment, one_device) == parts


def test_an_experiment_with_another_training_shares_the_data_and_changes_its_config(make_experiment):
    experiment, _ = make_experiment()
    other = with_training(experiment, batch_size=7)
    assert (other.training.batch_size, other.config.train.batch_size, experiment.training.batch_size) == (7, 7, 16)
    assert other.training_data is experiment.training_data
    assert with_training(hand_made(), batch_size=7).config is None


def test_the_initial_state_is_placed_with_the_shapes_of_the_state(make_experiment):
    experiment, _ = make_experiment(network__hidden=(64,))
    placement = Placement(sharding.make_mesh(2, 4))
    state, shapes = place_initial_state(experiment, placement), state_shapes(experiment, placement)
    for leaf, shape in zip(jax.tree.leaves(state), jax.tree.leaves(shapes), strict=True):
        assert (leaf.shape, leaf.dtype, leaf.sharding) == (shape.shape, shape.dtype, shape.sharding)
    mean = experiment.training_data.read_all()["x"].mean(axis=0) / 255
    np.testing.assert_allclose(state.params["output_bias"], mean, rtol=1e-4)


def test_the_moving_average_of_the_weights_is_the_recursion(small, one_device, tmp_path):
    config = small(train__steps=5, train__save_every=5, train__ema_decay=0.3)
    experiment, outcome = fit(config, tmp_path / "run")
    data = experiment.training_data.read_all()

    # Reference: one dispatch per step, and m <- d m + (1 - d) w with d = min(0.3, (1 + t)/(10 + t)), from the initial
    # weights on.
    single = with_training(experiment, log_every=1, save_every=1)
    program = compile_program(single, one_device)
    state = place_initial_state(single, one_device)
    mean = jax.tree.map(lambda w: np.asarray(w, np.float64), state.params)
    for decay in (1 / 10, 2 / 11, 3 / 12, 0.3, 0.3):
        state, _ = program(state, data, 1)
        mean = jax.tree.map(lambda m, w, d=decay: d * m + (1 - d) * np.asarray(w, np.float64), mean, state.params)
    trees = (mean, outcome.state.ema_params, outcome.state.params)
    for expected, average, weights in zip(*map(jax.tree.leaves, trees), strict=True):
        np.testing.assert_allclose(average, expected, rtol=1e-5, atol=1e-7)
        assert average.size < 8 or not np.allclose(average, weights, rtol=1e-3)


def test_a_step_without_a_moving_average_stores_none(make_experiment, one_device):
    experiment, _ = make_experiment()
    state = experiment.initial_state(experiment.key)
    assert state.ema_params == ()
    custom = make_train_step(experiment.loss(), experiment.optimizer)
    batch = experiment.training_data.read(np.arange(16))
    for step in (custom, build_step(experiment, one_device)):
        shapes, _ = jax.eval_shape(step, state, batch)
        assert shapes.ema_params == ()


def test_one_program_serves_every_number_of_steps_on_a_cpu(make_experiment, one_device):
    experiment, _ = make_experiment()
    program, data = compile_program(experiment, one_device), experiment.training_data.read_all()
    assert compile_program(experiment, Placement(sharding.make_mesh(1))) is program
    state = place_initial_state(experiment, one_device)
    with compilations("train_steps") as compiled:
        state, metrics = program(state, data, 5)
        state, _ = program(state, data, 2)
    assert int(state.step) == 7
    assert metrics["loss"].shape == (5,)
    assert len(compiled) == 1


@pytest.mark.parametrize("donate", [True, False])
def test_the_state_is_donated_unless_asked_otherwise(one_device, donate):
    experiment = hand_made()
    state = place_initial_state(experiment, one_device)
    compile_program(experiment, one_device, donate=donate)(state, experiment.training_data.read_all(), 1)
    assert any(leaf.is_deleted() for leaf in jax.tree.leaves(state.params)) == donate


def test_labels_reach_the_model_with_their_examples(one_device):
    """With other labels for the same vectors, a program trains another model."""
    kernels = []
    for data in (source(), source(seed=0, holdout=0.1)):
        experiment = hand_made(data=data)
        arrays = experiment.training_data.read_all()
        arrays["y"] = (arrays["y"] + len(kernels)) % 3
        state, _ = compile_program(experiment, one_device)(place_initial_state(experiment, one_device), arrays, 5)
        kernels.append(np.asarray(state.params["code"]["kernel"]))
    assert not np.allclose(*kernels, rtol=1e-4)


def test_a_profile_is_written_only_into_a_folder(tmp_path):
    with profile_to(None):
        pass
    with profile_to(tmp_path):
        jax.block_until_ready(jax.numpy.ones(3) + 1)
    assert len(list(tmp_path.rglob("*.xplane.pb"))) == 1
    assert len(list(tmp_path.rglob("perfetto_trace.json.gz"))) == 1
