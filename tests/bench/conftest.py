"""Fixtures of the tests of benchmarks and plans."""

from pathlib import Path

import pytest

from vae_jax.bench import plan
from vae_jax.runs.programs import compile_program
from vae_jax.runs.run import Run
from vae_jax.runtime import sharding


@pytest.fixture
def make_run(small):
    """make_run(devices, image_shape, **settings): run of these shapes; its data are never read."""

    def make(devices=1, image_shape=(8, 8, 1), **settings):
        config = small(mesh__data=devices, train__save_every=20, **settings)
        data = {"fingerprint": "", "num_examples": 200, "image_shape": list(image_shape)}
        return Run(config, data, Path(), sharding.make_mesh(devices))

    return make


@pytest.fixture(params=[False, True], ids=["dynamic-count", "static-count"])
def static_count(request, monkeypatch):
    """Whether programs are compiled for a fixed number of steps, as they are for GPUs."""
    monkeypatch.setattr(sharding, "needs_static_step_count", lambda mesh: request.param)
    compile_program.cache_clear()
    plan.step_costs.cache_clear()
    yield request.param
    compile_program.cache_clear()
    plan.step_costs.cache_clear()
