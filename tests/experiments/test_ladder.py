"""experiments/ladder.py: one change in each cell, the table of the results on disk, and a run of one epoch."""

import json

import pytest
from scripts import load

from vae_jax.config import flatten
from vae_jax.runs import RunDirectory
from vae_jax.runtime import atomic_files

pytestmark = pytest.mark.usefixtures("digits_prepared")


@pytest.fixture
def script():
    return load("ladder")


def test_every_cell_has_one_change(script):
    flat = {
        name: flatten(script.config_of(script.Cell(name, "mnist", 30, 1.0), num_samples=500)) for name in script.NAMES
    }
    base, changes = flat["base"], {}
    assert (base["model.blocks"], base["train.steps"], base["train.batch_size"]) == ((2, 2, 2), 18_000, 100)
    assert (base["objective.warmup_steps"], base["optimizer.learning_rate"], base["data.holdout"]) == (4500, 1.5e-3, 0)
    for name, settings in flat.items():
        changes[name] = {path for path, value in settings.items() if path not in base or base[path] != value}
    assert changes.pop("base") == set()
    assert changes["coupling-prior"] == {"prior", "prior.layers", "prior.hidden", "prior.actnorm"}
    assert changes["free-bits"] == {"objective", "objective.free_bits", "objective.per_layer"}
    assert changes["skip-quantile"] == {"optimizer.skip_quantile", "train.nonfinite"}
    for name, changed in changes.items():
        if name.startswith("layers-"):
            assert changed == {"model.blocks"}
            assert sum(flat[name]["model.blocks"]) == int(name.removeprefix("layers-"))
        else:
            assert changed, name
    assert len(script.NAMES) == 13
    twice = script.config_of(script.Cell("base", "digits", 4, 2.0), num_samples=5)
    assert (twice.optimizer.learning_rate, twice.objective.warmup_steps) == (3e-3, 13)


def test_the_table_contains_the_results_on_disk_and_the_failed_seeds(script, tmp_path):
    cell, other = script.Cell("layers-2", "mnist", 30, 1.0), script.Cell("base", "mnist", 30, 2.0)
    for seed, nll in enumerate((90.0, 91.0)):
        evaluated = {"step": cell.steps, "nll": nll, "nll_se": 0.2, "elbo": -95.0, "kl": 20.0, "kl_1": 5.0,
                     "kl_2": 15.0, "active_units": 12, "active_units_by_layer": [4, 8], "num_samples": 500}  # fmt: skip
        atomic_files.write_json(cell.directory(tmp_path) / f"seed={seed}" / "evaluation.json", evaluated)
    clock = {"seconds": 120, "device": "an abacus"}
    atomic_files.write_json(cell.directory(tmp_path) / "clock-of-seeds=0,1.json", clock)
    atomic_files.write_json(RunDirectory(other.directory(tmp_path) / "seed=0").failure, {"reason": "NaN"})
    rows, text = script.write([cell], tmp_path)
    lines = text.splitlines()
    for line in (
        "| layers-2 | 2 | mnist | 30 | 1 | 90.50 ± 0.71 | 0.20 | 500 | -95.00 ± 0.00 | 20.00 ± 0.00 | 5.0 15.0 | 4+8 | "
        "2 | 0 | 120 | an abacus |",
        "| base | 6 | mnist | 30 | 2 | failed |  |  |  |  |  |  | 0 | 1 |  |  |",
        "| log-scale | 6 | mnist | 30 | 1 | not run |  |  |  |  |  |  | 0 | 0 |  |  |",
    ):
        assert lines.count(line) == 1, line
    assert text.count("not run") == 12
    assert json.loads((tmp_path / "table.json").read_text()) == rows
    assert (tmp_path / "table.md").read_text() == text


@pytest.mark.thorough
def test_one_epoch_is_trained_and_evaluated_once(script, tmp_path, capsys):
    argv = ["--cells", "layers-1", "--epochs", "1", "--seeds", "1", "--num-samples", "2", "--output", str(tmp_path)]
    result = script.main(argv)
    (row,) = (row for row in result["rows"] if row["seeds"])
    assert (result["status"], row["name"], row["failed"], row["num_samples"]) == ("done", "layers-1", 0, 2)
    assert 10 < row["nll"]["mean"] < 60  # nats
    assert row["kl"]["mean"] > 0
    evaluation = script.Cell("layers-1", "digits", 1, 1.0).directory(tmp_path) / "seed=0" / "evaluation.json"
    before = evaluation.stat().st_mtime_ns
    assert script.main(argv)["rows"] == result["rows"]
    assert evaluation.stat().st_mtime_ns == before
    capsys.readouterr()
