"""experiments/benchmarks: the scripts run, in quick form, and say what they promise to say."""

import json
import subprocess
import sys

import numpy as np
import pytest
from scripts import EXPERIMENTS, load

SCRIPT = EXPERIMENTS / "benchmarks" / "peers.py"


@pytest.fixture
def peers():
    return load("benchmarks/peers")


@pytest.fixture
def images(tmp_path):
    path = tmp_path / "images.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (600, 8, 8), np.uint8))
    return path


def run(images, *rows):
    arguments = ["--quick", "--here", "--holdout", "0.3", "--data", images, "--rows", *rows]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    *table, last = done.stdout.splitlines()
    result = json.loads(last)
    assert [entry["row"] for entry in result["rows"]] == list(rows)
    for row, line in zip(rows, table[-len(rows) :], strict=True):
        assert line.startswith(row)
        assert "nats" in line
    return result


def test_rows_in_jax_train_the_same_model_on_the_same_images(images):
    result = run(images, "vae_jax", "flax-example", "numpyro")
    assert (result["steps"], result["rounds"]) == (3, 1)
    assert {"jax", "flax", "optax"} <= set(result["versions"]["ours"])
    ours, *others = result["rows"]
    assert "ratio" not in ours
    for entry in others:
        assert entry["ratio"]["median"] == pytest.approx(ours["seconds"]["median"] / entry["seconds"]["median"])
        # 64 pixels of noise, about 64 log 2 nats; the gain of the first steps is alike.
        assert entry["test_elbo"] == pytest.approx(ours["test_elbo"], abs=4)
        assert entry["loss"] == pytest.approx(ours["loss"], abs=4)


def test_rows_in_torch_train_the_same_model_on_the_same_images(images):
    pytest.importorskip("torch")
    result = run(images, "vae_jax", "torch-example", "torch-loader", "torch-plain")
    ours, *others = result["rows"]
    for entry in others:
        assert entry["test_elbo"] == pytest.approx(ours["test_elbo"], abs=4)


def test_a_missing_data_set_is_said_in_words(peers, images):
    with pytest.raises(SystemExit, match=r"nowhere\.npy"):
        peers.main(["--quick", "--here", "--rows", "vae_jax", "--data", str(images.parent / "nowhere.npy")])


def test_an_environment_is_made_once_and_again_when_it_is_not_whole(peers, tmp_path, monkeypatch):
    calls = []

    def fake(command, **settings):
        calls.append(command)
        if "venv" in command:
            (tmp_path / "pytorch").mkdir(exist_ok=True)

    monkeypatch.setattr(peers.subprocess, "run", fake)
    python = peers.environment_python("pytorch", tmp_path)
    assert python == str(tmp_path / "pytorch" / "bin" / "python")
    venv, install = calls
    assert "venv" in venv
    assert install[:4] == [python, "-m", "pip", "install"]
    assert set(peers.load_trainer("pytorch").REQUIREMENTS) <= set(install)
    peers.environment_python("pytorch", tmp_path)
    assert len(calls) == 2
    (tmp_path / "pytorch" / "requirements.txt").write_text("torch==1.0")
    peers.environment_python("pytorch", tmp_path)
    assert len(calls) == 4
    assert peers.environment_python("ours", tmp_path) == sys.executable


class Scripted:
    """A worker whose epochs take these seconds, and whose test ELBO rises by 10 nats with each."""

    def __init__(self, *seconds):
        self.seconds, self.done = seconds, 0

    def ask(self, what, row):
        if what == "test":
            return {"elbo": -130.0 + 10 * self.done}
        self.done += 1
        return {"seconds": self.seconds[self.done - 1], "loss": 9.0 - self.done}


def test_ratios_are_taken_round_by_round_and_the_first_epoch_counts_for_the_target(peers):
    workers = {"vae_jax": Scripted(5.0, 1.0, 2.0, 1.0), "torch-plain": Scripted(3.0, 2.0, 4.0, 4.0)}
    found = peers.measure(workers, list(workers), warmup=1, rounds=3, target=-110.0)
    ours, other = peers.summarise(found)
    assert ours == {"row": "vae_jax", "seconds": {"median": 1.0, "min": 1.0, "max": 2.0}, "loss": 5.0,
                    "test_elbo": -90.0, "seconds_to_target": 6.0}  # fmt: skip
    assert other["seconds"] == {"median": 4.0, "min": 2.0, "max": 4.0}
    assert other["ratio"] == {"median": 0.5, "min": 0.25, "max": 0.5}
    assert other["seconds_to_target"] == 5.0


def test_a_target_that_is_not_reached_is_said(peers, capsys):
    workers = {"vae_jax": Scripted(5.0, 1.0)}
    table = peers.summarise(peers.measure(workers, ["vae_jax"], warmup=1, rounds=1, target=-1.0))
    assert table[0]["seconds_to_target"] is None
    peers.show(table, {}, rounds=1, target=-1.0)
    assert "not yet" in capsys.readouterr().out


def test_a_row_that_fails_is_left_out_and_the_others_go_on(peers, capsys):
    class Failing:
        def ask(self, what, row):
            return {"error": "no compiler"}

    workers = {"vae_jax": Scripted(1.0, 1.0, 1.0), "torch-compiled": Failing()}
    found = peers.measure(workers, list(workers), warmup=1, rounds=2, target=0.0)
    assert {row: len(this["epochs"]) for row, this in found.items()} == {"vae_jax": 2}
    assert "torch-compiled: left out (no compiler)" in capsys.readouterr().err
