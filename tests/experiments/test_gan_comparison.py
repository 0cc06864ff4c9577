"""experiments/gan_comparison.py: stored results, and a complete run with --quick."""

import dataclasses
import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from scripts import EXPERIMENTS, load

from vae_jax.errors import InputError


@pytest.fixture(scope="module")
def script():
    return load("gan_comparison")


def test_a_stored_model_is_trained_again_only_if_settings_change(script, tmp_path):
    calls = []

    def make():
        calls.append(1)
        return script.ModelOutput({"elbo": -1.5}, {"samples": np.full((2, 3, 3, 1), len(calls), np.uint8)})

    path = tmp_path / "vae-0.npz"
    first, again = (script.cached(path, script.QUICK.description(), make) for _ in range(2))
    assert len(calls) == 1
    assert again.numbers == first.numbers == {"elbo": -1.5}
    np.testing.assert_array_equal(again.images["samples"], first.images["samples"])
    other = script.cached(path, dataclasses.replace(script.QUICK, count=1).description(), make)
    assert len(calls) == 2
    assert (other.images["samples"] == 2).all()
    vae = script.override(script.QUICK.vae, network="residual")
    script.cached(path, dataclasses.replace(script.QUICK, vae=vae).description(), make)
    assert len(calls) == 3


@pytest.mark.thorough
def test_quick_run(tmp_path, data_dir):
    done = subprocess.run(
        [sys.executable, str(EXPERIMENTS / "gan_comparison.py"), "--quick", "--output", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env=os.environ | {"TFDS_DATA_DIR": data_dir},
    )
    assert done.returncode == 0, done.stderr
    *table, last = done.stdout.splitlines()
    printed = json.loads(last)
    assert list(printed["scores"]) == ["training images", "VAE", "VAE, reconstructions", "GAN"]
    for domains in printed["scores"].values():
        for scores in domains.values():
            assert all(math.isfinite(value["mean"]) and math.isfinite(value["sd"]) for value in scores.values())
            assert 0 <= scores["precision"]["mean"] <= 1
            assert 0 <= scores["recall"]["mean"] <= 1
    # The training images have the smallest distance if the classifier has learned useful features.
    distances = {row: d["grey"]["frechet_distance"]["mean"] for row, d in printed["scores"].items()}
    assert min(distances, key=distances.get) == "training images"
    result = json.loads((tmp_path / "gan_comparison.json").read_text())
    assert result["classifier_accuracy"]["grey"] > 0.8
    text = (tmp_path / "gan_comparison.md").read_text()
    assert text.splitlines() == table[: len(text.splitlines())]
    assert "no encoder: no reconstruction, no latent code" in text
    assert "no likelihood: no NLL" in text
    with Image.open(tmp_path / "gan_comparison.png") as image:
        assert image.size[0] > 1000
    assert {path.name for path in tmp_path.glob("*.npz")} == {f"{k}-{s}.npz" for k in ("vae", "gan") for s in (0, 1)}


def test_quick_run_does_not_overwrite_the_results_of_a_full_run(script, monkeypatch):
    outputs = []

    def compare(settings, output):
        outputs.append(str(output))
        raise InputError("stopped")

    monkeypatch.setattr(script, "compare", compare)
    for argv in ([], ["--quick"], ["--quick", "--output", "here"]):
        with pytest.raises(SystemExit, match="stopped"):
            script.main(argv)
    assert outputs == ["runs/gan_comparison", "runs/gan_comparison-quick", "here"]
