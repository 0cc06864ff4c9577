"""experiments/labels.py: the settings of its cells, the table of the results on disk, and a run with --quick."""

import json

import numpy as np
import pytest
from own_choices import own_choices
from PIL import Image
from scripts import load

from vae_jax.runs.storage.loggers import read_metrics
from vae_jax.runtime import atomic_files

pytestmark = pytest.mark.usefixtures("digits_prepared")


@pytest.fixture
def script():
    with own_choices():
        load("sampled_codes")  # registers its preprocessing again, which labels.py imports
        yield load("labels")


def test_every_cell_has_the_stated_protocol(script, tmp_path):
    options = script.parse(["--num-samples", "10", "--class-samples", "20"])
    images = {"vae": 0, "conditional": 0, "classifier": 100, "m2": 100, "m1+m2": 100, "sdgm": 100}
    assert set(script.NAMES) == set(images)
    for name, labelled in images.items():
        cell = script.make_cell(name, 100, None, "mnist")
        config = script.config_of(cell, data="mnist", options=options)
        assert (config.data.labelled, config.data.holdout, config.network.activation) == (labelled, 0, "gelu")
        assert config.evaluation.num_samples == 10
        assert config.model.name == {"m1+m2": "m2", "classifier": "m2"}.get(name, name)
        assert (config.likelihood.name == "heteroscedastic-gaussian") == (name == "m1+m2")
        if name not in ("vae", "conditional", "classifier"):
            rows = config.train.batch_size
            assert (round(rows * config.train.labelled_share), rows) == (10, 60)
            assert config.train.steps * 50 == cell.epochs * 60_000
        assert name == "vae" or config.evaluation.class_samples == 20
    same = [script.config_of(script.make_cell(name, 100, None, "mnist"), data="mnist", options=options)
            for name in ("vae", "conditional")]  # fmt: skip
    assert same[0].network == same[1].network
    assert same[0].train == same[1].train
    assert same[0].train.steps == 15 * 300


def test_the_results_of_two_stages_are_those_of_one_first_stage(script, tmp_path):
    cells = [script.make_cell("m1+m2", 100, epochs, "mnist") for epochs in (None, 4, 15)]
    assert [(cell.m1_epochs, cell.epochs) for cell in cells] == [(15, 4), (4, 4), (15, 15)]
    assert len({cell.directory(tmp_path) for cell in cells}) == 3
    for cell in cells:
        cell.directory(tmp_path).mkdir()
    listed = script.all_cells([script.make_cell("vae", 100, 4, "mnist")], tmp_path)
    assert [cell for cell in listed if cell.name == "m1+m2"] == [cells[1], cells[0], cells[2]]
    text = script.markdown([script.row_of(cell, tmp_path) for cell in cells])
    assert all(text.count(f"| mnist | {epochs} |") == 1 for epochs in ("15 + 4", "4 + 4", "15 + 15"))


def test_the_table_contains_the_results_on_disk(script, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(script, "save_samples", lambda cell, output: shown.append(cell))
    cell, other = script.Cell("m2", 100, 5, "mnist"), script.Cell("conditional", 0, 50, "mnist")
    vae = script.Cell("vae", 0, 50, "mnist")
    for run, errors in ((cell, [0.11, 0.13]), (other, [None]), (vae, [None])):
        for draw, error in enumerate(errors):
            evaluated = {"step": run.steps, "nll": 82.0, "nll_se": 0.2, "elbo": -86.0, "kl": 25.0, "active_units": 30,
                         "num_samples": 100}  # fmt: skip
            evaluated |= {} if run is vae else {"nll_unlabelled": 84.5, "generative_error": 0.02}
            evaluated |= {} if error is None else {"classifier_error": error, "classifier_calibration_error": 0.05}
            path = run.directory(tmp_path) / f"data.labelled_draw={draw}" / "evaluation.json"
            atomic_files.write_json(path, evaluated)
        for name, seconds in (("clock", 120), ("evaluation-clock", 30)):
            path = run.directory(tmp_path) / f"{name}-of-seeds=0.json"
            atomic_files.write_json(path, {"seconds": seconds, "device": "an abacus"})
    atomic_files.write_json(other.directory(tmp_path) / "samples.json", {"confirmed": 0.987, "accuracy": 0.99})
    alone = script.Cell("classifier", 100, 2000, "mnist")
    results = {str(draw): {"classifier_error": error} for draw, error in enumerate((0.2, 0.22))}
    atomic_files.write_json(alone.directory(tmp_path) / "results.json", results)
    rows, text = script.write([cell], tmp_path)
    lines = text.splitlines()
    for line in (
        "| m2 | 100 | 12.00 ± 1.41 | 11.97 ± 1.71 | 2.00 ± 0.00 | 5.00 ± 0.00 | 82.00 ± 0.00 | 84.50 ± 0.00 |  | 2 | "
        "mnist | 5 | 120 | 30 | an abacus |",
        "| conditional | all |  |  | 2.00 |  | 82.00 | 84.50 | 98.7 | 1 | mnist | 50 | 120 | 30 | an abacus |",
        "| vae | none |  |  |  |  |  | 82.00 |  | 1 | mnist | 50 | 120 | 30 | an abacus |",
        "| classifier | 100 | 21.00 ± 1.41 |  |  |  |  |  |  | 2 | mnist | 2000 |  |  |  |",
        "| sdgm | 100 | not run | 1.32 ± 0.07 |  |  |  |  |  |  | mnist | 3 |  |  |  |",
    ):
        assert lines.count(line) == 1, text
    assert text.count("not run") == 2
    assert json.loads((tmp_path / "table.json").read_text()) == rows
    assert shown == [cell]


@pytest.mark.thorough
def test_a_quick_run_of_two_stages_is_resumed_and_not_trained_again(script, tmp_path, capsys):
    argv = ["--quick", "--cells", "m1+m2", "--labels", "20", "--epochs", "1", "--draws", "2", "--output", str(tmp_path),
            "--num-samples", "2", "--class-samples", "2"]  # fmt: skip
    result = script.main(argv)
    cell, vae = script.Cell("m1+m2", 20, 1, "quick", 1), script.Cell("vae", 0, 1, "quick")
    first, row = (row for row in result["rows"] if row["seeds"])
    assert (result["status"], first["name"], row["name"], row["seeds"]) == ("done", "vae", "m1+m2", 2)
    assert 0 < row["classifier_error"]["mean"] <= 1
    codes = np.load(vae.directory(tmp_path) / "codes.npz")
    assert codes["x_train"].shape == (len(codes["y_train"]), 8)
    assert codes["x_test"].shape == (len(codes["y_test"]), 8)
    rows = read_metrics(cell.directory(tmp_path) / "data.labelled_draw=1" / "metrics.jsonl")
    assert script.main(argv)["rows"] == result["rows"]
    assert read_metrics(cell.directory(tmp_path) / "data.labelled_draw=1" / "metrics.jsonl") == rows
    capsys.readouterr()


@pytest.mark.thorough
def test_quick_runs_of_models_of_images_have_a_figure(script, tmp_path, capsys):
    names = ["classifier", "conditional", "m2", "sdgm"]
    argv = ["--quick", "--cells", *names, "--labels", "20", "--epochs", "1", "--draws", "1", "--output", str(tmp_path)]
    result = script.main([*argv, "--num-samples", "2", "--class-samples", "2"])
    assert [row["name"] for row in result["rows"] if row["seeds"]] == names
    for name in names[1:]:
        (path,) = tmp_path.glob(f"{name},labels=*.png")
        with Image.open(path) as image:
            assert image.size[0] > 100
        (row,) = (row for row in result["rows"] if row["name"] == name)
        assert ("confirmed" in row) == (name == "conditional")
    capsys.readouterr()
