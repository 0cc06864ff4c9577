"""Restoring a run: the state on its devices, the weights to evaluate, and the seed after a change."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest
from hand_made import hand_made
from training_runs import fit

from vae_jax.errors import CheckpointError
from vae_jax.runs import (
    RunDirectory,
    open_run,
    prepare_experiment,
    prepare_members,
    restore,
    restored_params,
    state_shapes,
    train_loop,
)
from vae_jax.runs.members import Member
from vae_jax.runs.storage.checkpoints import Checkpoints


@pytest.fixture(scope="module")
def averaged(small, tmp_path_factory):
    """(directory, experiment, TrainResult) of five steps with a moving average of the weights."""
    config = small(train__steps=5, train__save_every=5, train__ema_decay=0.75)
    directory = tmp_path_factory.mktemp("averaged") / "run"
    return RunDirectory(directory), *fit(config, directory)


def test_the_moving_average_is_what_is_evaluated(averaged, make_experiment, one_device):
    directory, experiment, outcome = averaged
    assert experiment.evaluation_params(outcome.state) is outcome.params is outcome.state.ema_params
    assert make_experiment()[0].evaluation_params(outcome.state) is outcome.state.params
    with restored_params(experiment, directory, one_device, pytest.fail) as (step, params):
        assert step == 5
        for saved, expected in zip(jax.tree.leaves(params), jax.tree.leaves(outcome.state.ema_params), strict=True):
            np.testing.assert_array_equal(saved, expected)


def test_a_state_is_restored_with_the_shardings_of_the_placement(averaged):
    directory, _, outcome = averaged
    opened = open_run(directory)
    assert opened.placement.mesh.size == 8
    with Checkpoints(directory.path, read_only=True) as checkpoints:
        restored = restore(opened.experiment, checkpoints, opened.placement)
        assert restore(opened.experiment, checkpoints, opened.placement, at_most=4) is None
    shapes = state_shapes(opened.experiment, opened.placement)
    for leaf, shape in zip(*map(jax.tree.leaves, (restored.state, shapes)), strict=True):
        assert leaf.sharding == shape.sharding
    assert jax.random.key_data(restored.state.key).tolist() == jax.random.key_data(outcome.state.key).tolist()


def test_a_changed_seed_replaces_the_restored_key(averaged, one_device):
    directory, experiment, _ = averaged
    config = dataclasses.replace(experiment.config, seed=7)
    changed = dataclasses.replace(experiment, config=config, seed=7)
    with Checkpoints(directory.path, read_only=True) as checkpoints:
        restored = restore(changed, checkpoints, one_device, changed={"seed"})
        assert restored.state.key == jax.random.key(7)
        with pytest.raises(CheckpointError, match="seed: 0 in checkpoint, 7 in config"):
            restore(changed, checkpoints, one_device)


def test_a_hand_made_run_is_restored_by_its_experiment(one_device, tmp_path):
    outcome = train_loop.fit(hand_made(), tmp_path)
    with restored_params(hand_made(), RunDirectory(tmp_path), one_device) as (step, params):
        assert step == 20
        jax.tree.map(np.testing.assert_array_equal, params, outcome.params)
    with (
        pytest.raises(CheckpointError, match=r"objective: .*half_kl.* in checkpoint, .*<lambda>.* in config"),
        restored_params(hand_made(objective=lambda terms: terms.log_px_z[0]), RunDirectory(tmp_path), one_device),
    ):
        pass


def test_a_run_without_a_checkpoint_has_no_parameters(small, tmp_path):
    experiment, placement = prepare_experiment(small(), tmp_path / "run")
    with (
        pytest.raises(CheckpointError, match="contains no checkpoint yet"),
        restored_params(experiment, RunDirectory(tmp_path / "run"), placement),
    ):
        pass
    assert not (tmp_path / "run").exists()


@pytest.mark.fault
def test_a_run_without_its_checkpoints_is_refused_and_not_trained_from_scratch(averaged, tmp_path):
    directory, experiment, _ = averaged
    copy = RunDirectory(shutil.copytree(directory.path, tmp_path / "run"))

    def refused(reason):
        with pytest.raises(CheckpointError, match=rf"checkpoints {reason}.*restore the folder, or choose another"):
            prepare_experiment(experiment.config, copy)
        with pytest.raises(CheckpointError, match=reason):
            prepare_members([Member({}, experiment.config)], copy)

    shutil.rmtree(copy.checkpoints)
    refused("is missing")
    copy.checkpoints.mkdir()
    copy.evaluation.write_text("{}")
    refused(r"contains no step, but evaluation\.json")
    copy.evaluation.unlink()
    prepare_experiment(experiment.config, copy)  # as a run that was killed before its first save
    copy.metrics.write_text('{"step": 15}\n')
    refused(r"contains no step, but metrics\.jsonl ends at step 15 with train\.save_every=5")
