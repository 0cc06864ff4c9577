"""Fixtures of the tests of benchmarks and plans."""

import numpy as np
import pytest

from vae_jax.config import PRESETS, override
from vae_jax.data import from_arrays
from vae_jax.runs import build_experiment
from vae_jax.runtime import Placement, sharding

SMALL = {
    "preprocess": "scale", "likelihood": "learned-gaussian", "network__hidden": (8,), "model__latent_dim": 2,
    "train__steps": 20, "train__batch_size": 16, "train__log_every": 5, "train__evaluate_every": 0,
    "train__save_every": 20, "mesh__data": 1,
}  # fmt: skip


@pytest.fixture
def make_config(data_dir):
    """make_config(train__steps=7, ...): config of a small model of `digits`."""
    return lambda **settings: override(PRESETS["digits"], **SMALL | {"data__data_dir": data_dir} | settings)


@pytest.fixture
def make_experiment():
    """make_experiment(devices, shape, **settings): (experiment on 200 random images of this shape, placement)."""

    def make(devices=1, shape=(8, 8, 1), **settings):
        images = np.random.default_rng(0).integers(0, 256, (200, *shape), np.uint8)
        config = override(PRESETS["digits"], **SMALL | settings)
        source = from_arrays(images, holdout=0)
        return build_experiment(config, source=source), Placement(sharding.make_mesh(devices))

    return make


@pytest.fixture(params=[False, pytest.param(True, marks=pytest.mark.thorough)], ids=["dynamic-count", "static-count"])
def static_count(request, monkeypatch):
    """Whether programs are compiled for a fixed number of steps, as they are for GPUs."""
    monkeypatch.setattr(sharding, "needs_static_step_count", lambda mesh: request.param)
    return request.param
