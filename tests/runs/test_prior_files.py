"""The files of a fitted prior: the same bits after a round trip, replacement, other weights, and damage."""

import hashlib
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from known_codes import known_experiment

from vae_jax.config import choice
from vae_jax.errors import CheckpointError, InputError, LockedError
from vae_jax.runs import FittedPrior, RunDirectory, read_fitted_prior, write_fitted_prior
from vae_jax.runs.generation.fitted_prior import fitted_module
from vae_jax.runs.storage.checksums import combined_checksum
from vae_jax.runtime import lock

EXPERIMENT, PARAMS = known_experiment(np.arange(20.0).reshape(10, 2))


def unfitted(name="spline", seed=0, **settings):
    """Return a fitted prior with random parameters."""
    prior, rng = choice("prior", name, **settings), np.random.default_rng(seed)
    module = fitted_module(prior, EXPERIMENT, PARAMS)
    shapes = jax.eval_shape(module.init, jax.random.key(0))["params"]
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)
    return FittedPrior(prior, module, params, {"train": {"log_prob": -1.5}})


@pytest.fixture
def run(tmp_path):
    """Directory of a run with a fitted spline prior."""
    directory = RunDirectory(tmp_path / "run")
    write_fitted_prior(directory, unfitted(layers=2, hidden=(4,)), PARAMS, step=20)
    return directory


def read(directory, params=PARAMS, step=20):
    return read_fitted_prior(directory, EXPERIMENT, params, step=step)


def test_a_round_trip_has_the_same_bits_and_another_fit_replaces_the_first(run):
    first, found = unfitted(layers=2, hidden=(4,)), read(run)
    assert (found.prior, found.module, found.summary) == (first.prior, first.module, first.summary)
    jax.tree.map(np.testing.assert_array_equal, found.params, first.params)
    files = {"lock", "prior.json"}
    assert len({path.name for path in run.fitted_prior.iterdir()} - files) == 1
    run.figures.mkdir()
    names = ["samples.npy", "figures/samples.png", "codes-my-fitted-shoes-all.npz", "scores-my-fitted-shoes-all.npz",
             "figures/reconstructions-fitted-shoes-all.png"]  # fmt: skip
    kept = [run.path / name for name in names]
    shown = ["samples-fitted.npy", "labels-fitted-temperature-0.5.npy", "scores-test-fitted.npz",
             "scores-my-fitted-shoes-all-fitted-K5.npz", "figures/samples-fitted.png", "figures/pairs-fitted-1.png",
             "figures/layers-test-fitted.png"]  # fmt: skip
    replaced = [run.path / name for name in shown]
    for path in (*kept, *replaced):
        path.touch()
    second = unfitted("mixture", components=3, seed=1)
    write_fitted_prior(run, second, PARAMS, step=20)
    found = read(run)
    assert found.prior == second.prior
    assert all(path.exists() for path in kept)
    assert not any(path.exists() for path in replaced)
    jax.tree.map(np.testing.assert_array_equal, found.params, second.params)
    assert len({path.name for path in run.fitted_prior.iterdir()} - files) == 1
    write_fitted_prior(run, unfitted("standard-normal"), PARAMS, step=20)
    assert read(run).params.keys() == {"loc", "scale_tril"}


@pytest.mark.fault
def test_two_writes_at_once_result_in_a_usable_prior(run):
    with lock.run_lock(run.path):  # of a training, which does not block it
        write_fitted_prior(run, unfitted("mixture", components=3), PARAMS, step=20)
    with lock.run_lock(run.fitted_prior), pytest.raises(LockedError, match="fitted_prior is in use by process"):
        write_fitted_prior(run, unfitted(layers=2, hidden=(4,)), PARAMS, step=20)
    assert read(run).prior.name == "mixture"


def test_a_write_that_fails_leaves_the_earlier_fit(run, monkeypatch):
    monkeypatch.setattr("vae_jax.runtime.atomic_files.write_json", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_fitted_prior(run, unfitted("mixture", components=3), PARAMS, step=20)
    assert read(run).prior.name == "spline"


@pytest.mark.fault
def test_a_prior_of_other_weights_or_none_is_refused(run, tmp_path):
    again = rf"run `vae-jax fit-prior {run} --prior NAME` again$"
    other = {"shift": PARAMS["shift"].at[0].set(1e-7)}
    with pytest.raises(InputError, match=rf"^prior=fitted belongs to step 20, but the weights are now those of step 30"
                                         rf"; {again}"):  # fmt: skip
        read(run, other, step=30)
    with pytest.raises(InputError, match=r"but the weights are now those of another training; run"):
        read(run, other)
    read(run, {"shift": jnp.array(PARAMS["shift"])}, step=30)  # equal weights
    with pytest.raises(InputError, match=r"^prior=fitted does not exist in .*; run `vae-jax fit-prior .*` first$"):
        read(RunDirectory(tmp_path))


def edit(run, change):
    """Change the content of prior.json, and its checksum with it."""
    path = run.fitted_prior / "prior.json"
    content = json.loads(path.read_text())
    change(content)
    del content["sha256"]
    path.write_text(json.dumps(content | {"sha256": combined_checksum(content)}))


def arrays(run):
    (path,) = run.fitted_prior.glob("*.npz")
    return path


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def compress_zeros(run):
    path = arrays(run)
    np.savez_compressed(path, loc=np.zeros(100_000))
    edit(run, lambda c: c["arrays"].update(sha256=hashlib.sha256(path.read_bytes()).hexdigest()))


DAMAGE = {
    "a bit of the arrays": (lambda run: flip(arrays(run)), "the arrays do not match their checksum"),
    "a bomb": (compress_zeros, "the arrays declare more data than their file contains"),
    "no arrays": (lambda run: arrays(run).unlink(), "No such file or directory"),
    "half of the description": (lambda run: os.truncate(run.fitted_prior / "prior.json", 300), "damaged"),
    "another bound of the splines": (
        lambda run: (run.fitted_prior / "prior.json").write_text(
            (run.fitted_prior / "prior.json").read_text().replace('"prior.bound": 5.0', '"prior.bound": 6.0')
        ),
        "prior.json does not match its checksum",
    ),
    "JSON of another kind": (lambda run: (run.fitted_prior / "prior.json").write_text("[1]"), "damaged"),
    "more layers": (lambda run: edit(run, lambda c: c["prior"].update({"prior.layers": 3})), "but those of prior=spli"),
    "another file": (
        lambda run: edit(run, lambda c: c["arrays"].update(file="prior.json")), "the arrays do not match their checksum"
    ),
}  # fmt: skip


@pytest.mark.fault
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_fitted_prior_is_one_line(run, damage):
    change, reason = DAMAGE[damage]
    change(run)
    with pytest.raises(CheckpointError, match=rf"^{run.fitted_prior} is damaged \(.*\); run .* again$") as error:
        read(run)
    assert reason in str(error.value)
