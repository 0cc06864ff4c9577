"""experiments/priors.py: the settings of its cells, the table of the results on disk, and a run with --quick."""

import json

import numpy as np
import pytest
from PIL import Image
from scripts import load

from vae_jax.runs.storage.loggers import read_metrics
from vae_jax.runtime import atomic_files
from vae_jax.training.optimizers import make_schedule

pytestmark = pytest.mark.usefixtures("digits_prepared")


@pytest.fixture
def script():
    return load("priors")


def test_every_cell_has_the_stated_protocol_and_its_densities(script):
    configs = {name: script.config_of(script.Cell(name, 60, "mnist"), num_samples=5000) for name in script.NAMES}
    for name, config in configs.items():
        prior, _, posterior = name.partition("+")
        assert (config.prior.name, config.posterior.name) == (prior, posterior or "gaussian")
        assert (config.train.steps, config.train.batch_size, config.data.holdout) == (36_000, 100, 0)
        assert config.objective.warmup_steps == 6000
        rates = [make_schedule(config)(step) for step in (0, 18_000, 36_000)]
        np.testing.assert_allclose(rates, [1e-3, 5e-4, 0], atol=1e-9)
        assert (config.network.hidden, config.network.gated, config.model.latent_dim) == ((300, 300), False, 40)
        assert config.evaluation.num_samples == 5000
    assert len(configs) == len(set(configs)) == 10
    assert (configs["coupling"].prior.layers, configs["coupling"].prior.hidden) == (8, (256,))
    assert configs["vamp"].prior.components == 500
    few = script.config_of(script.Cell("vamp", 4, "mnist-gated"), num_samples=5)
    assert (few.objective.warmup_steps, few.network.gated) == (1200, True)


def test_the_table_contains_the_results_on_disk(script, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(script, "samples_of", lambda cell, output: shown.append(cell) or np.zeros((16, 4, 4, 1)))
    cell, other, short = (script.Cell(*c) for c in (("vamp", 60, "mnist"), ("coupling+iaf", 60, "mnist"),
                                                    ("vamp", 2, "mnist-gated")))  # fmt: skip
    for run, nlls in ((cell, [82.0, 83.0]), (other, [81.5]), (short, [95.0])):
        for seed, nll in enumerate(nlls):
            evaluated = {"step": run.steps, "nll": nll, "nll_se": 0.2, "elbo": -86.0, "kl": 25.0, "active_units": 30,
                         "num_samples": 5000}  # fmt: skip
            atomic_files.write_json(run.directory(tmp_path) / f"seed={seed}" / "evaluation.json", evaluated)
        for name, seconds in (("clock", 120), ("evaluation-clock", 30)):
            path = run.directory(tmp_path) / f"{name}-of-seeds=0.json"
            atomic_files.write_json(path, {"seconds": seconds, "device": "an abacus"})
    rows, text = script.write([cell], tmp_path)
    lines = text.splitlines()
    numbers, vamp = "0.20 | 5000 | -86.00", "| vamp | gaussian |"
    for line in (
        f"{vamp} 82.50 ± 0.71 | {numbers} ± 0.00 | 25.00 ± 0.00 | 30 | 2 | mnist | no | 60 | 120 | 30 | an abacus |",
        f"| coupling | iaf | 81.50 | {numbers} | 25.00 | 30 | 1 | mnist | no | 60 | 120 | 30 | an abacus |",
        f"{vamp} 95.00 | {numbers} | 25.00 | 30 | 1 | mnist | yes | 2 | 120 | 30 | an abacus |",
        "| spline | gaussian | not run |  |  |  |  |  |  | mnist | no | 60 |  |  |  |",
    ):
        assert lines.count(line) == 1, line
    assert text.count("not run") == 8  # the other cells of 60 epochs
    assert (tmp_path / "table.md").read_text() == text
    assert json.loads((tmp_path / "table.json").read_text()) == rows
    assert shown == [short, cell, other]


def test_a_quick_run_is_evaluated_again_with_other_samples_and_not_trained_again(script, tmp_path, capsys):
    argv = ["--quick", "--cells", "mixture", "--epochs", "1", "--output", str(tmp_path)]
    run = script.Cell("mixture", 1, "quick").directory(tmp_path) / "seed=0"
    result = script.main([*argv, "--num-samples", "3"])
    (row,) = (row for row in result["rows"] if row["seeds"])
    assert (result["status"], row["name"], row["seeds"], row["num_samples"]) == ("done", "mixture", 1, 3)
    assert 10 < row["nll"]["mean"] < 60  # nats
    assert row["evaluation_seconds"] > 0
    images = np.load(run / "samples.npy")
    assert images.shape == (16, 8, 8, 1)
    assert images.std(axis=0).max() > 0
    with Image.open(tmp_path / "priors.png") as image:
        assert image.size[0] > 800
    rows = read_metrics(run / "metrics.jsonl")
    again = script.main([*argv, "--num-samples", "4"])
    (other,) = (row for row in again["rows"] if row["seeds"])
    assert other["num_samples"] == 4
    assert other["nll"] != row["nll"]
    assert read_metrics(run / "metrics.jsonl") == rows
    capsys.readouterr()
