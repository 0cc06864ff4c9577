"""experiments/disentanglement.py: its settings, the table of the results on disk, and a run with --quick."""

import json

import numpy as np
import pytest
from PIL import Image
from scripts import load

from vae_jax.data import sprite_factors
from vae_jax.runtime import atomic_files


@pytest.fixture(scope="module")
def script():
    return load("disentanglement")


def test_every_method_has_its_objective_and_the_shared_settings(script):
    configs = {method: script.config_of(method, script.FULL, steps=3000) for method in script.METHODS}
    assert [config.objective.name for config in configs.values()] == ["elbo", "beta-tc", "info-vae"]
    assert configs["mmd-vae"].objective.beta == 0
    for config in configs.values():
        assert (config.data.name, config.network.hidden, config.model.latent_dim) == ("sprites", (256, 256), 10)
    assert {method.varied for method in script.METHODS.values()} == {"objective.beta", "objective.mmd_weight"}


def test_the_images_of_a_quick_run_have_all_values_of_all_factors(script):
    factors = np.stack(sprite_factors(script.FEW), axis=1)
    assert [len(np.unique(column)) for column in factors.T] == [3, 6, 20, 16, 16]
    images = script.read_images(script.QUICK, None)
    x = script.few_sprites()["train"]["x"]
    for i in (0, 1, 299):
        (position,) = np.flatnonzero((factors == images.factors[i]).all(axis=1))
        np.testing.assert_array_equal(images.x[i], x[position])
    assert (np.diff(images.factors[:, 0]) < 0).any()  # in random order


def test_the_table_has_mean_and_sd_over_seeds(script, tmp_path):
    for weight, migs in ((4.0, (0.1, 0.3)), (1.0, (0.05,))):
        for seed, mig in enumerate(migs):
            measured = dict.fromkeys([*script.METRICS.values(), "active_units"], 0.5) | {"mig": mig, "elbo": -40.25}
            path = tmp_path / "beta-vae" / f"objective.beta={weight},seed={seed}.json"
            atomic_files.write_json(path, {"method": "beta-vae", "weight": weight, "steps": 7, **measured})
    assert script.write(tmp_path, 8)[0] == []  # metrics after other numbers of steps are not used
    rows, text = script.write(tmp_path, 7)
    assert [(row["weight"], row["seeds"]) for row in rows] == [(1.0, 1), (4.0, 2)]
    assert "| beta-vae | 1 | 1 | 0.050 | 0.500 |" in text
    assert "| beta-vae | 4 | 2 | 0.200 ± 0.141 | 0.500 ± 0.000 |" in text
    assert "| -40.25 ± 0.000 |" in text
    assert "7 steps" in (tmp_path / "table.md").read_text()
    assert json.loads((tmp_path / "table.json").read_text()) == rows


@pytest.mark.parametrize(
    ("argv", "output"), [([], "runs/disentanglement"), (["--quick"], "runs/disentanglement-quick")]
)
def test_a_quick_run_has_another_folder_than_a_full_one(argv, output, script, monkeypatch, tmp_path, capsys):
    folders = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(script, "read_images", lambda *arguments: None)
    monkeypatch.setattr(script, "run_method", lambda *arguments, stop: folders.append(str(arguments[3])))
    assert script.main(argv) == {"status": "interrupted", "output": output, "rows": []}
    assert folders == [output]
    capsys.readouterr()


@pytest.mark.thorough
def test_a_quick_run_is_measured_once(script, tmp_path, capsys, monkeypatch):
    argv = ["--quick", "--methods", "beta-tc-vae", "--weights", "3", "--seeds", "2", "--steps", "2"]
    result = script.main([*argv, "--output", str(tmp_path)])
    (row,) = result["rows"]
    assert (result["status"], row["method"], row["weight"], row["seeds"]) == ("done", "beta-tc-vae", 3.0, 2)
    assert row["mig"]["sd"] > 0  # the seeds differ
    assert 0.2 < row["linear_probe"]["mean"] < 0.6  # three shapes
    frames = np.load(tmp_path / "beta-tc-vae" / "objective.beta=3.0,seed=0.npy")
    assert frames.shape == (6, 9, 32, 32, 1)
    with Image.open(tmp_path / "traversals.png") as image:
        assert image.size[1] > 300
    monkeypatch.setattr(script, "measure", None)  # would fail
    assert script.main([*argv, "--output", str(tmp_path)])["rows"] == result["rows"]
    capsys.readouterr()
