"""Fixtures of the tests of runs: saved steps, untrained runs, and the config of a sweep."""

import shutil
from pathlib import Path

import pytest
from saved_states import save_steps

from vae_jax.runs import prepare_run


@pytest.fixture(scope="session")
def two_steps(tmp_path_factory):
    """Directory with the steps 100 and 200; copy it before you damage it."""
    directory = tmp_path_factory.mktemp("two") / "run"
    save_steps(directory, 100, 200)
    return directory


@pytest.fixture
def saved_run(two_steps, tmp_path):
    """Copy of `two_steps` that a test may damage."""
    return Path(shutil.copytree(two_steps, tmp_path / "run"))


@pytest.fixture(scope="session")
def make_run(small, tmp_path_factory):
    """make_run(settings) -> (run, initial parameters); no step is trained."""

    def make(**settings):
        run, _ = prepare_run(small(**settings), tmp_path_factory.mktemp("runs") / "run")
        return run, run.initial_state(run.key).params

    return make


@pytest.fixture(scope="session")
def bernoulli_run(make_run):
    """(run, initial parameters) of a model of binarized images with two latents."""
    return make_run(data__binarization="dynamic", model__likelihood="bernoulli")


@pytest.fixture
def sweep_config(small):
    """Config of a sweep's members: ten steps, evaluated and saved after five."""
    return small(train__steps=10, train__evaluate_every=5, train__save_every=5, objective__warmup_steps=4)
