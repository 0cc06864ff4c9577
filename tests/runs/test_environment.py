"""vae_jax/runs/environment.py: versions and devices, and environment.json of a training."""

import dataclasses
import json
import platform

import jax
from hand_made import TRAINING, hand_made

from vae_jax.runs import RunDirectory, train_loop
from vae_jax.runs.environment import describe_environment
from vae_jax.runtime import Placement, sharding


def test_versions_and_devices():
    found = describe_environment(Placement(sharding.make_mesh(2)))
    assert found["versions"]["jax"] == jax.__version__
    assert (found["python"], found["device"]) == (platform.python_version(), "cpu")
    assert (found["num_devices"], found["num_processes"]) == (2, 1)
    assert found["cores"] >= 1
    assert platform.node() not in json.dumps(found)


def test_a_training_records_its_environment_and_a_finished_one_keeps_it(tmp_path):
    directory = RunDirectory(tmp_path / "run")
    train_loop.fit(hand_made(), directory)
    found = json.loads(directory.environment.read_text())
    assert (found["first_step"], found["last_step"]) == (0, 20)
    assert found["seconds"] > 0
    assert found["started"].endswith("+00:00")
    train_loop.fit(hand_made(), directory)
    assert json.loads(directory.environment.read_text()) == found


def test_a_training_that_ended_early_keeps_its_environment(tmp_path):
    directory = RunDirectory(tmp_path / "run")
    training = dataclasses.replace(TRAINING, patience=1, evaluate_every=5)
    early = hand_made(learning_rate=0.0, training=training)
    train_loop.fit(early, directory)
    found = json.loads(directory.environment.read_text())
    assert found["last_step"] < early.training.steps
    train_loop.fit(early, directory)
    assert json.loads(directory.environment.read_text()) == found
