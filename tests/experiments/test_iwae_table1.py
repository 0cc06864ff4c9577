"""experiments/iwae_table1.py: interruptions, the table of the results on disk, and a complete run with --quick."""

import itertools
import json
import os
import signal

import numpy as np
import pytest
from PIL import Image
from scripts import load

from vae_jax.runs.evaluation import evaluation
from vae_jax.runs.storage.loggers import read_metrics
from vae_jax.runtime import atomic_files

pytestmark = pytest.mark.usefixtures("digits_prepared")


@pytest.fixture
def script():
    return load("iwae_table1")


@pytest.mark.thorough
def test_a_signal_saves_and_the_same_command_resumes(script, tmp_path, monkeypatch, capsys):
    argv = ["--quick", "--layers", "1", "--k", "1", "--columns", "vae", "--seeds", "1", "--output", str(tmp_path)]
    run = script.Cell(1, 1, "vae", "quick", 0.9).directory(tmp_path) / "seed=0"

    def interrupted(owner, name, first=1):
        """Run the command with a signal at each call of a function from the `first` on."""
        call, calls = getattr(owner, name), itertools.count(1)

        def signalled(*args, **kwargs):
            if next(calls) >= first:
                os.kill(os.getpid(), signal.SIGTERM)
            return call(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(owner, name, signalled)
            result = script.main(argv)
        assert result["status"] == "interrupted"
        assert all(row["seeds"] == 0 for row in result["rows"])
        assert "the same command resumes" in capsys.readouterr().err

    interrupted(script.cells.TrainingTimer, "__call__", first=2)  # after the first dispatch
    (saved,) = (int(path.name) for path in (run / "checkpoints").iterdir())
    assert 0 < saved < 1640  # the first dispatches are short
    interrupted(script.cells.TrainingTimer, "write")  # after the last
    first = read_metrics(run / "metrics.jsonl")
    interrupted(evaluation, "evaluate_run")

    result = script.main(argv)
    assert result["status"] == "done"
    assert {row["column"] for row in result["rows"] if row["seeds"]} == {
        "vae",
        "iwae",
    }  # they share a training
    rows = read_metrics(run / "metrics.jsonl")
    assert rows == first
    assert [row["step"] for row in rows] == list(range(1640, 1640 * (len(rows) + 1), 1640))


@pytest.mark.thorough
def test_quick_run(script, tmp_path, capsys, monkeypatch):
    argv = ["--quick", "--layers", "1", "--k", "1", "--seeds", "2", "--output", str(tmp_path), "--columns"]
    result = script.main([*argv, "iwae"])
    rows = {(row["layers"], row["k"], row["column"]): row for row in result["rows"]}
    assert len(rows) == 24
    assert {cell for cell, row in rows.items() if row["seeds"]} == {(1, 1, "iwae"), (1, 1, "vae")}
    row = rows[1, 1, "iwae"]
    assert row["seeds"] == 2
    assert row["nll"]["sd"] > 0
    assert 10 < row["nll"]["mean"] < -row["elbo"]["mean"] < 30  # nats
    assert np.shape(row["active_units"]) == (2, 1)
    assert row["seconds"] > 0
    assert json.loads((tmp_path / "table.json").read_text()) == json.loads(json.dumps(result["rows"]))
    assert (tmp_path / "table.md").read_text().count("not run") == 22
    with Image.open(tmp_path / "table.png") as image:
        assert image.size[0] > 800
    # The other cell of the same training: nothing is trained or evaluated.
    monkeypatch.setattr(script.cells, "fit_group", None)
    assert script.main([*argv, "vae"])["rows"] == result["rows"]
    capsys.readouterr()


def write_results(script, output, cell, *, nll, steps=None, **more):
    """Write the files of a cell's runs: an evaluation for each NLL, and the training time."""
    for seed, value in enumerate(nll):
        evaluated = {"step": steps or script.SCHEDULES[cell.schedule].steps, "nll": value, "nll_se": 0.2, "elbo": -90.0,
                     "kl": 25.0, "active_units": 21 + 2 * seed, "num_samples": 5000} | more  # fmt: skip
        atomic_files.write_json(cell.directory(output) / f"seed={seed}" / "evaluation.json", evaluated)
    atomic_files.write_json(cell.directory(output) / "clock-of-seeds=0.json", {"seconds": 12.0, "device": "an abacus"})


def test_the_table_contains_the_results_on_disk(script, tmp_path):
    full, medium, short = (script.Cell(1, 5, "iwae", schedule, 0.9) for schedule in ("full", "medium", "short"))
    write_results(script, tmp_path, full, nll=[85.0, 86.0])
    write_results(script, tmp_path, medium, nll=[85.6])
    write_results(script, tmp_path, short, nll=[86.0])
    write_results(script, tmp_path, full._replace(k=50), nll=[84.0], steps=5)  # not finished
    write_results(script, tmp_path, full._replace(b1=0.99), nll=[85.2])
    write_results(script, tmp_path, full._replace(layers=2), nll=[84.0, 84.0], active_units_by_layer=[16, 5])
    _, text = script.write([full], tmp_path)
    lines = [line for line in text.splitlines() if line.startswith("| 1 | 5 | iwae")]
    assert lines == [
        "| 1 | 5 | iwae | 85.54 | 85.18 | 85.50 ± 0.71 | 2 | 22 | 22 | full | 0.9 | 12 | an abacus |",
        "| 1 | 5 | iwae | 85.54 | 85.18 | 85.20 | 1 | 22 | 21 | full | 0.99 | 12 | an abacus |",
        "| 1 | 5 | iwae | 85.54 | 85.18 | 85.60 | 1 | 22 | 21 | medium | 0.9 | 12 | an abacus |",
        "| 1 | 5 | iwae | 85.54 | 85.18 | 86.00 | 1 | 22 | 21 | short | 0.9 | 12 | an abacus |",
    ]
    assert "| 2 | 5 | iwae | 83.89 | 83.48 | 84.00 ± 0.00 | 2 | 21+5 | 16+5 | full |" in text
    assert "| 1 | 50 | iwae | 84.78 | 84.59 | not run |  | 25 |  | full | 0.9 |  |  |" in text
    assert "The short schedule against the full one, b1 = 0.9, in nats: 1 layer(s) k = 5 iwae +0.50." in text
    assert "The medium schedule against the full one, b1 = 0.9, in nats: 1 layer(s) k = 5 iwae +0.10." in text
    assert "b1 = 0.99, in nats" not in text
