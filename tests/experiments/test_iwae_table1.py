"""experiments/iwae_table1.py: its protocol is the published one, and its table says what is on disk, nothing else."""

import json
import os
import signal
import sys

import numpy as np
import pytest
from PIL import Image
from scripts import load

from vae_jax.config.schema import OptimizerConfig
from vae_jax.runs import evaluation
from vae_jax.runs.loggers import read_metrics
from vae_jax.runtime import atomic_files
from vae_jax.training.optimizers import make_schedule


@pytest.fixture(autouse=True)
def _digits_are_made_here(data_dir, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", data_dir)


@pytest.fixture
def script():
    return load("iwae_table1")


def test_the_full_schedule_has_the_published_rate_at_both_ends_of_every_stage(script):
    config = script.config_of(script.Cell(1, 1, "vae", "full", 0.9))
    rate = make_schedule(config.optimizer, config.train.steps)
    step = 0
    for i in range(1, 9):
        length = 60_000 // 20 * 3 ** (i - 1)
        for at in (step, step + length - 1):
            np.testing.assert_allclose(rate(at), 1e-3 * 10 ** (-(i - 1) / 7), rtol=1e-6, err_msg=f"stage {i}")
        step += length
    assert config.train.steps == step == 9_840_000
    assert (config.data.holdout, config.train.patience) == (0, 0)


@pytest.mark.parametrize("schedule", ["full", "medium", "short", "quick"])
def test_every_schedule_has_the_same_shape_and_few_rows_and_saves(script, schedule):
    config = script.config_of(script.Cell(1, 1, "vae", schedule, 0.9))
    train, stages = config.train, np.diff([0, *config.optimizer.milestones, config.train.steps])
    np.testing.assert_array_equal(stages[1:], 3 * stages[:-1])
    assert train.steps / train.log_every <= 3280
    assert train.steps / train.save_every <= 110


def test_the_networks_and_adam_are_the_published_ones(script):
    for column, (objective, estimator) in script.COLUMNS.items():
        for layers in script.LAYERS:
            config = script.config_of(script.Cell(layers, 50, column, "full", 0.99))
            model, optimizer = config.model, config.optimizer
            assert optimizer == OptimizerConfig(
                learning_rate=1e-3, schedule="staged", milestones=optimizer.milestones, decay=10 ** (-1 / 7),
                b1=0.99, b2=0.999, eps=5e-6,
            )  # fmt: skip
            assert (model.hidden, model.latent_dim, model.activation) == ((200, 200), 50, "tanh")
            assert (model.latent_layers, model.layer_hidden) == (((100,), (100, 100)) if layers == 2 else ((), ()))
            assert (config.objective.name, config.objective.estimator) == (objective, estimator)
            assert (config.objective.num_samples, config.evaluation.num_samples) == (50, 5000)
            assert config.data.binarization == "dynamic"


def test_with_one_sample_two_columns_are_one_training(script, tmp_path):
    def directory(column, k):
        return script.Cell(1, k, column, "full", 0.9).directory(tmp_path)

    assert directory("iwae", 1) == directory("vae", 1) != directory("stl", 1) == directory("dreg", 1)
    assert len({directory(column, 5) for column in script.COLUMNS}) == 4


def test_a_signal_saves_and_the_same_command_goes_on(script, tmp_path, monkeypatch, capsys):
    argv = ["--quick", "--layers", "1", "--k", "1", "--columns", "vae", "--seeds", "1", "--output", str(tmp_path)]
    run = script.Cell(1, 1, "vae", "quick", 0.9).directory(tmp_path) / "seed=0"

    def interrupted(of, name):
        """The command, sent a signal at each call of this function."""
        call = getattr(of, name)

        def signalled(*args, **kwargs):
            os.kill(os.getpid(), signal.SIGTERM)
            return call(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(of, name, signalled)
            result = script.main(argv)
        assert result["status"] == "interrupted"
        assert all(row["seeds"] == 0 for row in result["rows"])
        assert "the same command goes on" in capsys.readouterr().err

    interrupted(script.Clock, "__call__")  # after the first dispatch
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["1640"]
    first = read_metrics(run / "metrics.jsonl")
    interrupted(script.Clock, "write")  # after the last
    interrupted(evaluation, "evaluate")

    result = script.main(argv)
    assert result["status"] == "done"
    assert {row["column"] for row in result["rows"] if row["seeds"]} == {"vae", "iwae"}  # with k = 1 one training
    rows = read_metrics(run / "metrics.jsonl")
    assert rows[: len(first)] == first
    assert [row["step"] for row in rows] == list(range(1640, 1640 * (len(rows) + 1), 1640))


def test_the_quick_form(script, tmp_path, capsys, monkeypatch):
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
    # The same command again, for the other cell of the same training: nothing is trained or evaluated.
    monkeypatch.setattr(script.sweeping, "fit_group", None)
    assert script.main([*argv, "vae"])["rows"] == result["rows"]
    capsys.readouterr()


def fake(script, output, cell, *, nll, steps=None, **more):
    """Leaves on disk what the runs of a cell would: an evaluation for each NLL, and the clock of all."""
    for seed, value in enumerate(nll):
        found = {"step": steps or script.SCHEDULES[cell.schedule].steps, "nll": value, "nll_se": 0.2, "elbo": -90.0,
                 "active_units": 21 + 2 * seed, "num_samples": 5000} | more  # fmt: skip
        atomic_files.write_json(cell.directory(output) / f"seed={seed}" / evaluation.EVALUATION_FILE, found)
    atomic_files.write_json(cell.directory(output) / "clock-of-seeds=0.json", {"seconds": 12.0, "device": "an abacus"})


def test_the_table_says_what_is_on_disk(script, tmp_path):
    full, medium, short = (script.Cell(1, 5, "iwae", schedule, 0.9) for schedule in ("full", "medium", "short"))
    fake(script, tmp_path, full, nll=[85.0, 86.0])
    fake(script, tmp_path, medium, nll=[85.6])
    fake(script, tmp_path, short, nll=[86.0])
    fake(script, tmp_path, full._replace(k=50), nll=[84.0], steps=5)  # not finished
    fake(script, tmp_path, full._replace(b1=0.99), nll=[85.2])
    fake(script, tmp_path, full._replace(layers=2), nll=[84.0, 84.0], active_units_by_layer=[16, 5])
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


def test_a_clock_goes_on_where_it_was_stopped(script, tmp_path, monkeypatch):
    times = iter([100.0, 105.0, 112.0, 112.0, 200.0, 203.0])
    monkeypatch.setattr(sys.modules["clock"].time, "perf_counter", lambda: next(times))
    clock = script.Clock(tmp_path / "clock.json", lambda: False)
    assert clock() is False  # too soon to write
    assert not clock.path.exists()
    assert clock() is False
    assert json.loads(clock.path.read_text())["seconds"] == 12
    again = script.Clock(clock.path, lambda: True)
    again.write()
    assert json.loads(clock.path.read_text())["seconds"] == 15
