"""experiments/labels.py: the settings of its cells, the table of the results on disk, and a run with --quick."""

import json

import numpy as np
import pytest
from PIL import Image
from scripts import load

from vae_jax.runs.loggers import read_metrics
from vae_jax.runtime import atomic_files

pytestmark = pytest.mark.usefixtures("digits_prepared")


@pytest.fixture
def script():
    return load("labels")


def test_every_cell_has_the_stated_protocol(script, tmp_path):
    for name in script.NAMES:
        config = script.config_of(script.Cell(name, 100, 50, "mnist"), tmp_path, num_samples=10, class_samples=20)
        assert (config.train.steps, config.train.batch_size, config.data.holdout) == (15_000, 200, 0)
        assert (config.network.hidden, config.network.activation) == ((500, 500), "softplus")
        assert (config.model.latent_dim, config.model.num_classes, config.model.embedding) == (50, 10, 16)
        assert (config.evaluation.num_samples, config.evaluation.class_samples) == (10, 20)
        assert config.model.name == {"m1+m2": "m2"}.get(name, name)
        assert config.data.labelled == (0 if name == "conditional" else 100)
        assert (config.likelihood.name == "learned-gaussian") == (name == "m1+m2")


def test_the_table_contains_the_results_on_disk(script, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(script, "save_samples", lambda cell, output: shown.append(cell))
    cell, other = script.Cell("m2", 100, 50, "mnist"), script.Cell("conditional", 50, 50, "mnist")
    for run, errors in ((cell, [0.11, 0.13]), (other, [None])):
        for draw, error in enumerate(errors):
            evaluated = {"step": run.steps, "nll": 82.0, "nll_se": 0.2, "elbo": -86.0, "kl": 25.0, "active_units": 30,
                         "num_samples": 100, "nll_unlabelled": 84.5, "generative_error": 0.02}  # fmt: skip
            evaluated |= {} if error is None else {"classifier_error": error, "classifier_calibration_error": 0.05}
            path = run.directory(tmp_path) / f"data.labelled_draw={draw}" / "evaluation.json"
            atomic_files.write_json(path, evaluated)
        for name, seconds in (("clock", 120), ("evaluation-clock", 30)):
            path = run.directory(tmp_path) / f"{name}-of-seeds=0.json"
            atomic_files.write_json(path, {"seconds": seconds, "device": "an abacus"})
    rows, text = script.write([cell], tmp_path)
    lines = text.splitlines()
    for line in (
        "| m2 | 100 | 12.00 ± 1.41 | 11.97 ± 1.71 | 2.00 ± 0.00 | 5.00 ± 0.00 | 84.50 ± 0.00 | 2 | mnist | 50 | 120 | "
        "30 | an abacus |",
        "| conditional | all |  |  | 2.00 |  | 84.50 | 1 | mnist | 50 | 120 | 30 | an abacus |",
        "| sdgm | 100 | not run | 1.32 ± 0.07 |  |  |  |  | mnist | 50 |  |  |  |",
    ):
        assert lines.count(line) == 1, text
    assert text.count("not run") == 3
    assert json.loads((tmp_path / "table.json").read_text()) == rows
    assert shown == [cell]


def test_a_quick_run_of_two_stages_is_resumed_and_not_trained_again(script, tmp_path, capsys):
    argv = ["--quick", "--cells", "m1+m2", "--labels", "20", "--epochs", "1", "--draws", "2", "--output", str(tmp_path),
            "--num-samples", "2", "--class-samples", "2"]  # fmt: skip
    result = script.main(argv)
    cell = script.Cell("m1+m2", 20, 1, "quick")
    (row,) = (row for row in result["rows"] if row["seeds"])
    assert (result["status"], row["name"], row["seeds"]) == ("done", "m1+m2", 2)
    assert 0 < row["classifier_error"]["mean"] <= 1
    codes = np.load(cell.codes(tmp_path))
    assert codes["x_train"].shape == (len(codes["y_train"]), 4)
    assert codes["x_test"].shape == (len(codes["y_test"]), 4)
    rows = read_metrics(cell.directory(tmp_path) / "data.labelled_draw=1" / "metrics.jsonl")
    assert script.main(argv)["rows"] == result["rows"]
    assert read_metrics(cell.directory(tmp_path) / "data.labelled_draw=1" / "metrics.jsonl") == rows
    capsys.readouterr()


@pytest.mark.thorough
def test_quick_runs_of_models_of_images_have_a_figure(script, tmp_path, capsys):
    names = ["conditional", "m2", "sdgm"]
    argv = ["--quick", "--cells", *names, "--labels", "20", "--epochs", "1", "--draws", "1", "--output", str(tmp_path)]
    result = script.main([*argv, "--num-samples", "2", "--class-samples", "2"])
    assert [row["name"] for row in result["rows"] if row["seeds"]] == names
    for name in names:
        with Image.open(tmp_path / f"{name}.png") as image:
            assert image.size[0] > 100
    capsys.readouterr()
