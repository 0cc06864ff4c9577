"""The script of docs/guides/experiment.md: it runs complete, survives kill -9, and runs on one device or eight."""

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time

import jax
import numpy as np
import pytest
from scripts import ROOT
from training_runs import digest_of

from vae_jax.runs import RunDirectory, fit, restore
from vae_jax.runs.storage.checkpoints import Checkpoints
from vae_jax.runtime import Placement, sharding

PAGE = ROOT / "docs" / "guides" / "experiment.md"
STEPS = 60
ONE_DEVICE = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")

# Trains the script's experiment for fewer steps. Each dispatch takes a moment, so that it can be killed in between.
SHORTER = f"""
    import sys, time
    from front_door import make_experiment
    from vae_jax.runs import Callback, default_callbacks, fit, with_training

    class Slow(Callback):
        def on_steps(self, run):
            time.sleep(float(sys.argv[2]))

    def shorter():
        intervals = {{"log_every": 10, "evaluate_every": 50, "save_every": 10}}
        return with_training(make_experiment(seed=0), steps={STEPS}, **intervals)

    if __name__ == "__main__":
        fit(shorter(), sys.argv[1], callbacks=[*default_callbacks(), Slow()])
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Folder with the script of the page, front_door.py, and shorter.py."""
    folder = tmp_path_factory.mktemp("front_door")
    (folder / "front_door.py").write_text(script())
    (folder / "shorter.py").write_text(textwrap.dedent(SHORTER))
    return folder


@pytest.fixture(scope="module")
def experiment(folder):
    """The shorter experiment, in this process."""
    sys.path.insert(0, str(folder))
    try:
        from shorter import shorter  # pyright: ignore[reportMissingImports]
    finally:
        sys.path.remove(str(folder))
    return shorter()


@pytest.fixture(scope="module")
def uninterrupted(folder):
    """Directory of a run on one device, without interruption."""
    finish(start(folder, "shorter.py", folder / "uninterrupted", 0))
    return folder / "uninterrupted"


def script():
    """Return the first Python block of the page."""
    return re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)[0]


def start(folder, *argv):
    """Start a script in the folder, with one device."""
    return subprocess.Popen(
        [sys.executable, *map(str, argv)], cwd=folder, env=os.environ | {"XLA_FLAGS": ONE_DEVICE},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finish(process):
    """Wait for a process to end without an error; return its stdout."""
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out


def saved_steps(directory):
    """Return the steps whose checkpoints are complete."""
    return {int(path.name) for path in (directory / "checkpoints").glob("*") if path.name.isdecimal()}


def kill_after_a_save(process, directory):
    """Kill a training with SIGKILL when it has saved a step that was not there before."""
    before = saved_steps(directory)
    while saved_steps(directory) <= before:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def final_digest(experiment, directory):
    """Return the newest step of a run that no config describes, and a digest of its state and of metrics.jsonl."""
    with Checkpoints(directory, read_only=True) as checkpoints:
        restored = restore(experiment, checkpoints, Placement(sharding.make_mesh(1)))
    return restored.step, digest_of(restored.state, directory)


def losses(directory):
    rows = map(json.loads, RunDirectory(directory).metrics.read_text().splitlines())
    return {row["step"]: row["loss"] for row in rows if "loss" in row}


def test_the_script_has_at_most_sixty_lines():
    assert len(script().splitlines()) <= 60
    assert max(map(len, script().splitlines())) <= 120


def test_the_script_trains_evaluates_plots_exports_and_sweeps(folder):
    text = script().replace("steps=600", "steps=40").replace("log_every=20", "log_every=10")
    text = text.replace("evaluate_every=200, save_every=100", "evaluate_every=20, save_every=20")
    assert text.count("=20") == 2
    (folder / "complete.py").write_text(text)
    result = finish(start(folder, "complete.py"))
    assert "'nll': " in result
    figures = {path.stem for path in (folder / "runs/mine/figures").iterdir()}
    assert figures == {"samples", "reconstructions", "interpolations", "traversals", "latent_map", "curves"}
    assert list((folder / "runs/mine").glob("events.out.tfevents.*"))
    assert saved_steps(folder / "runs/mine") == {20, 40}
    assert losses(folder / "runs/mine").keys() == {10, 20, 30, 40}

    from jax.export import deserialize

    decoder = deserialize(bytearray((folder / "runs/mine/decoder.jax").read_bytes()))
    assert decoder.call(np.zeros((3, 8), np.float32)).shape == (3, 8, 8, 1)
    members = [folder / "runs/sweep" / f"seed={seed}" for seed in range(4)]
    assert [saved_steps(member) for member in members] == [{20, 40}] * 4
    assert len({losses(member)[40] for member in members}) == 4
    np.testing.assert_allclose(losses(members[0])[40], losses(folder / "runs/mine")[40], rtol=1e-3)


@pytest.mark.fault
def test_killed_twice_it_ends_in_the_same_bits(folder, experiment, uninterrupted):
    killed = folder / "killed"
    for _ in range(2):
        kill_after_a_save(start(folder, "shorter.py", killed, 0.3), killed)
    assert 0 < max(saved_steps(killed)) < STEPS
    finish(start(folder, "shorter.py", killed, 0))
    assert final_digest(experiment, killed) == final_digest(experiment, uninterrupted)
    assert final_digest(experiment, killed)[0] == STEPS


@pytest.mark.thorough
def test_one_device_and_eight_compute_the_same_losses(folder, experiment, uninterrupted):
    assert jax.device_count() == 8
    fit(experiment, folder / "eight")
    one, eight = losses(uninterrupted), losses(folder / "eight")
    assert one.keys() == eight.keys() == set(range(10, STEPS + 1, 10))
    np.testing.assert_allclose(list(one.values()), list(eight.values()), rtol=1e-5)
