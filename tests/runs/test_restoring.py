"""Restoring a run: the state on its mesh, the weights to evaluate, and the seed after a change."""

import dataclasses

import jax
import numpy as np
import pytest
from training_runs import fit

from vae_jax.errors import CheckpointError
from vae_jax.runs import evaluation_params, open_run, prepare_run, restore, restored_params
from vae_jax.runs.checkpoints import Checkpoints


@pytest.fixture(scope="module")
def averaged(small, tmp_path_factory):
    """(run, TrainResult) of five steps with a moving average of the weights."""
    config = small(train__steps=5, train__save_every=5, train__ema_decay=0.75)
    return fit(config, tmp_path_factory.mktemp("averaged") / "run")


def test_the_moving_average_is_what_is_evaluated(averaged, small):
    run, outcome = averaged
    assert evaluation_params(outcome.state, run.config) is outcome.state.ema_params
    assert evaluation_params(outcome.state, small()) is outcome.state.params
    with restored_params(run, pytest.fail) as (step, params):
        assert step == 5
        for saved, expected in zip(jax.tree.leaves(params), jax.tree.leaves(outcome.state.ema_params), strict=True):
            np.testing.assert_array_equal(saved, expected)


def test_a_state_is_restored_with_the_shardings_of_the_run(averaged):
    run, outcome = averaged
    opened = open_run(run.directory)
    with Checkpoints(run.directory, read_only=True) as checkpoints:
        restored = restore(opened, checkpoints)
        assert restore(opened, checkpoints, at_most=4) is None
    for leaf, sharding in zip(*map(jax.tree.leaves, (restored.state, opened.state_shardings)), strict=True):
        assert leaf.sharding == sharding
    assert jax.random.key_data(restored.state.key).tolist() == jax.random.key_data(outcome.state.key).tolist()


def test_a_changed_seed_replaces_the_restored_key(averaged):
    run, _ = averaged
    config = dataclasses.replace(run.config, seed=7)
    changed = dataclasses.replace(run, config=config, changes=({"setting": "seed", "from": 0, "to": 7},))
    with Checkpoints(run.directory, read_only=True) as checkpoints:
        assert restore(changed, checkpoints).state.key == jax.random.key(7)
        with pytest.raises(CheckpointError, match="seed: 0 in checkpoint, 7 in config"):
            restore(dataclasses.replace(changed, changes=()), checkpoints)


def test_a_run_without_a_checkpoint_has_no_parameters(small, tmp_path):
    run, _ = prepare_run(small(), tmp_path / "run")
    with pytest.raises(CheckpointError, match="contains no checkpoint yet"), restored_params(run, print):
        pass
    assert not run.directory.exists()
