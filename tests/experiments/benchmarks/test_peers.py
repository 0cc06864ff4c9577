"""experiments/benchmarks/peers.py: refusals, the measurement, and complete runs with --quick."""

import json
import subprocess
import sys
import threading

import numpy as np
import pytest
from scripts import EXPERIMENTS, load

from vae_jax.config import PRESETS

SCRIPT = EXPERIMENTS / "benchmarks" / "peers.py"


@pytest.fixture
def peers():
    return load("benchmarks/peers")


@pytest.fixture
def images(tmp_path):
    path = tmp_path / "images.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (600, 8, 8), np.uint8))
    return path


def run(images, *rows, options=()):
    arguments = ["--quick", "--here", "--holdout", "0.3", "--data", images, *options, "--rows", *rows]
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


@pytest.mark.thorough
def test_rows_in_jax_train_the_same_model_on_the_same_images(images):
    result = run(images, "vae_jax", "vae_jax-per-step", "flax-example", "numpyro")
    assert (result["steps"], result["rounds"]) == (3, 1)
    assert {"jax", "flax", "optax"} <= set(result["versions"]["ours"])
    ours, *others = result["rows"]
    assert "ratio" not in ours
    assert others[0]["loss"] == pytest.approx(ours["loss"], rel=1e-5)  # the same steps in more dispatches
    assert others[0]["test_elbo"] == pytest.approx(ours["test_elbo"], rel=1e-5)
    for entry in others:
        assert entry["ratio"]["median"] == pytest.approx(ours["seconds"]["median"] / entry["seconds"]["median"])
        # 64 pixels of noise, about 64 log 2 nats; the first steps improve both equally.
        assert entry["test_elbo"] == pytest.approx(ours["test_elbo"], abs=4)
        assert entry["loss"] == pytest.approx(ours["loss"], abs=4)


@pytest.mark.thorough
def test_the_residual_model_is_trained_in_bfloat16(images, peers):
    result = run(images, "vae_jax", options=["--model", "residual", "--precision", "bfloat16", "--overlap"])
    (entry,), task = result["rows"], result["task"]
    assert (task["network"], task["precision"], entry["seconds_to_target"]) == ("residual", "bfloat16", None)
    assert entry["test_elbo"] == pytest.approx(-48, abs=4)  # 64 pixels of noise
    train = np.load(images)[:420, ..., None]

    def loss(precision):  # of the mlp, which compiles faster
        settings = task | peers.MODELS["mlp"] | {"precision": precision}
        rows = load("benchmarks/trainers/ours").trainers(train, train, 3, settings)
        epoch, _ = rows["vae_jax"]()
        return epoch()

    assert loss("bfloat16") != pytest.approx(loss("float32"), rel=1e-6)
    assert loss("bfloat16") == pytest.approx(loss("float32"), rel=0.02)


@pytest.mark.thorough
def test_the_ladder_is_that_of_the_preset(images):
    result = run(images, "vae_jax", options=["--model", "ladder", "--overlap"])
    (entry,), task = result["rows"], result["task"]
    config = PRESETS["mnist-ladder-mlp"]
    assert (task["network"], tuple(task["hidden"])) == ("ladder-mlp", config.model.channels)
    assert tuple(task["latent_dims"]) == config.model.latent_channels
    assert entry["test_elbo"] == pytest.approx(-48, abs=6)  # 64 pixels of noise


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("model", "rows"),
    [
        ("mlp", ("torch-example", "torch-loader", "torch-plain")),
        ("residual", ("torch-plain",)),
        ("ladder", ("torch-plain",)),
    ],
)
def test_rows_in_torch_train_the_same_model_on_the_same_images(images, model, rows, precision):
    pytest.importorskip("torch")
    result = run(images, "vae_jax", *rows, options=["--model", model, "--precision", precision])
    ours, *others = result["rows"]
    for entry in others:
        assert entry["test_elbo"] == pytest.approx(ours["test_elbo"], abs=4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--rows", "torch-cuda-graph"],
            "--platform=cpu is not supported by --rows=torch-cuda-graph; use --platform gpu",
        ),
        (
            ["--rows", "vae_jax", "numpyro", "--model", "residual"],
            "--model=residual is not supported by --rows=numpyro; use --model mlp",
        ),
        (
            ["--rows", "flax-example", "--precision", "bfloat16"],
            "--precision=bfloat16 is not supported by --rows=flax",
        ),
        (
            ["--rows", "pythae", "--platform", "gpu", "--here"],
            "--platform=gpu is not supported by --rows=pythae; use --platform cpu",
        ),
        (["--platform", "gpu"], "--platform=gpu needs --here"),
    ],
)
def test_unsupported_settings_are_refused_in_one_line(peers, capsys, arguments, message):
    with pytest.raises(SystemExit):
        peers.main(arguments)
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_a_missing_data_set_is_refused_in_one_line(peers, images):
    with pytest.raises(SystemExit, match=r"nowhere\.npy"):
        peers.main(["--quick", "--here", "--rows", "vae_jax", "--data", str(images.parent / "nowhere.npy")])


class Scripted:
    """A worker whose epochs take the given seconds, and whose test ELBO rises by 10 nats with each epoch."""

    def __init__(self, *seconds):
        self.seconds, self.done = seconds, 0

    def request(self, what, row):
        if what == "test":
            return {"elbo": -130.0 + 10 * self.done}
        self.done += 1
        return {"seconds": self.seconds[self.done - 1], "loss": 9.0 - self.done}


def test_ratios_are_computed_for_each_round_and_warm_up_epochs_count_for_the_target(peers):
    workers = {"vae_jax": Scripted(5.0, 1.0, 2.0, 1.0), "torch-plain": Scripted(3.0, 2.0, 4.0, 4.0)}
    measured = peers.measure(workers, list(workers), warmup=1, rounds=3, target=-110.0)
    ours, other = peers.summarize(measured)
    assert ours == {"row": "vae_jax", "seconds": {"median": 1.0, "min": 1.0, "max": 2.0}, "loss": 5.0,
                    "test_elbo": -90.0, "seconds_to_target": 6.0}  # fmt: skip
    assert other["seconds"] == {"median": 4.0, "min": 2.0, "max": 4.0}
    assert other["ratio"] == {"median": 0.5, "min": 0.25, "max": 0.5}
    assert other["seconds_to_target"] == 5.0


def test_without_a_target_the_first_epochs_run_at_the_same_time(peers, capsys):
    meeting = threading.Barrier(2, timeout=60)

    class Meeting(Scripted):
        def request(self, what, row):
            if what == "epoch" and not self.done:
                meeting.wait()
            return super().request(what, row)

    one, other = Meeting(5.0, 1.0, 2.0, 1.0, 2.0, 3.0), Meeting(3.0, 2.0, 4.0)
    workers = {"vae_jax": one, "vae_jax-per-step": one, "torch-plain": other}
    measured = peers.measure(workers, list(workers), warmup=1, rounds=2, target=None)
    seconds = [[epoch["seconds"] for epoch in row["epochs"]] for row in measured.values()]
    assert seconds == [[2.0, 2.0], [1.0, 3.0], [2.0, 4.0]]
    table = peers.summarize(measured)
    assert all(entry["seconds_to_target"] is None for entry in table)
    peers.print_table(table, {}, rounds=2, target=None)
    assert "not reached" not in capsys.readouterr().out


def test_a_target_that_is_not_reached_is_reported(peers, capsys):
    workers = {"vae_jax": Scripted(5.0, 1.0)}
    table = peers.summarize(peers.measure(workers, ["vae_jax"], warmup=1, rounds=1, target=-1.0))
    assert table[0]["seconds_to_target"] is None
    peers.print_table(table, {}, rounds=1, target=-1.0)
    assert "not reached" in capsys.readouterr().out


def test_a_row_that_fails_is_omitted_and_the_others_continue(peers, capsys):
    class Failing:
        def request(self, what, row):
            return {"error": "no compiler"}

    workers = {"vae_jax": Scripted(1.0, 1.0, 1.0), "torch-compiled": Failing()}
    measured = peers.measure(workers, list(workers), warmup=1, rounds=2, target=0.0)
    assert {row: len(this["epochs"]) for row, this in measured.items()} == {"vae_jax": 2}
    assert "torch-compiled: omitted (no compiler)" in capsys.readouterr().err
