"""experiments/benchmarks: the scripts run, in quick form, and say what they promise to say."""

import json
import subprocess
import sys

import numpy as np
import pytest
from scripts import EXPERIMENTS, load

SCRIPT = EXPERIMENTS / "benchmarks" / "pytorch_mnist.py"


@pytest.fixture
def benchmark_script():
    return load("benchmarks/pytorch_mnist")


@pytest.fixture
def images(tmp_path):
    path = tmp_path / "images.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (300, 8, 8), np.uint8))
    return path


def run(*arguments):
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)], capture_output=True, text=True, timeout=300, check=False
    )


def check(done, rows):
    assert done.returncode == 0, done.stderr
    *table, last = done.stdout.splitlines()
    result = json.loads(last)
    assert [entry["row"] for entry in result["rows"]] == rows
    for row, line in zip(rows, table[-len(rows) :], strict=True):
        assert line.startswith(row)
        assert "nats" in line
    assert all(entry["seconds"]["median"] > 0 for entry in result["rows"])
    assert all(30 < entry["loss"] < 80 for entry in result["rows"])  # 64 pixels of noise: about 64 log 2
    return result


def test_the_vae_jax_half(images):
    result = check(run("--quick", "--rows", "vae_jax", "--data", images), ["vae_jax"])
    assert result["steps"] == 3
    assert result["rounds"] == 1
    assert {"python", "cores", "jax", "device"} <= set(result["versions"])
    assert "ratio" not in result["rows"][0]


def test_both_halves(images):
    pytest.importorskip("torch")
    rows = ["vae_jax", "torch-example", "torch-loader", "torch-plain"]
    result = check(run("--quick", "--rows", *rows, "--data", images), rows)
    assert "torch" in result["versions"]
    ours, *others = result["rows"]
    for entry in others:
        assert entry["ratio"]["median"] == pytest.approx(ours["seconds"]["median"] / entry["seconds"]["median"])


def test_a_missing_torch_and_a_missing_data_set_are_said_in_words(images, benchmark_script, monkeypatch):
    monkeypatch.setattr(benchmark_script.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="pip install torch"):
        benchmark_script.main(["--quick", "--data", str(images)])
    with pytest.raises(SystemExit, match=r"nowhere\.npy"):
        benchmark_script.main(["--quick", "--rows", "vae_jax", "--data", str(images.parent / "nowhere.npy")])


def test_ratios_are_taken_round_by_round(benchmark_script):
    found = {
        "vae_jax": [{"seconds": 1.0, "loss": 9.0}, {"seconds": 2.0, "loss": 8.0}, {"seconds": 1.0, "loss": 7.0}],
        "torch-plain": [{"seconds": 2.0, "loss": 9.0}, {"seconds": 4.0, "loss": 8.0}, {"seconds": 4.0, "loss": 6.0}],
    }
    ours, other = benchmark_script.summarise(found)
    assert ours == {"row": "vae_jax", "seconds": {"median": 1.0, "min": 1.0, "max": 2.0}, "loss": 7.0}
    assert other["seconds"] == {"median": 4.0, "min": 2.0, "max": 4.0}
    assert other["ratio"] == {"median": 0.5, "min": 0.25, "max": 0.5}


def test_a_row_that_fails_is_left_out_and_the_others_go_on(benchmark_script, capsys):
    class Worker:
        def epoch(self, row):
            return {"error": "no compiler"} if row == "torch-compiled" else {"seconds": 1.0, "loss": 2.0}

    rows = ["vae_jax", "torch-compiled"]
    found = benchmark_script.measure(dict.fromkeys(rows, Worker()), rows, warmup=1, rounds=2)
    assert {row: len(epochs) for row, epochs in found.items()} == {"vae_jax": 2}
    assert "torch-compiled: left out (no compiler)" in capsys.readouterr().err
