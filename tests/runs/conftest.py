"""Fixtures of the tests of runs: saved steps, untrained experiments, and the config of a sweep."""

import shutil
from pathlib import Path

import pytest
from saved_states import save_steps

from vae_jax.runs import image_grids, prepare_experiment
from vae_jax.runs.figures import class_figures, count_plots, curves, latent_map, layer_figures, prior_map, vector_plots
from vae_jax.runtime import Placement, sharding


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
def one_device():
    """Placement on the first of the eight devices."""
    return Placement(sharding.make_mesh(1))


@pytest.fixture(scope="session")
def make_experiment(small, tmp_path_factory):
    """make_experiment(settings) -> (experiment, initial parameters); no step is trained, and nothing is written."""

    def make(**settings):
        experiment, _ = prepare_experiment(small(**settings), tmp_path_factory.mktemp("runs") / "run")
        return experiment, experiment.initial_state(experiment.key).params

    return make


@pytest.fixture(scope="session")
def bernoulli_experiment(make_experiment):
    """(experiment, initial parameters) of a model of binarized images with two latents."""
    return make_experiment(preprocess="dynamic-binarization", likelihood="bernoulli")


@pytest.fixture
def sweep_config(small):
    """Config of a sweep's members: ten steps, evaluated and saved after five."""
    return small(train__steps=10, train__evaluate_every=5, train__save_every=5, objective__warmup_steps=4)


MODULES = {
    image_grids: (
        "samples",
        "reconstructions",
        "interpolations",
        "traversals",
        "manifold",
        "samples_by_class",
        "styles",
        "top_layers",
        "draws",
    ),
    count_plots: ("mean_variance", "zero_fractions"),
    vector_plots: ("marginals", "pairs"),
    latent_map: ("latent_map",),
    prior_map: ("prior_map",),
    class_figures: ("reliability",),
    curves: ("curves",),
    layer_figures: ("layers",),
}


@pytest.fixture
def figures(monkeypatch):
    """{name of a figure: (path, arguments, keywords)} of the figures that are requested; no file is written."""
    requested = {}
    for module, names in MODULES.items():
        for name in names:

            def record(path, *args, name=name, **kwargs):
                requested[name] = path, args, kwargs

            monkeypatch.setattr(module, f"save_{name}", record)
    return requested
