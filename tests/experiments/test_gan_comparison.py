"""experiments/gan_comparison.py: what is kept, and the quick form."""

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


@pytest.fixture(scope="module")
def script():
    return load("gan_comparison")


def test_what_is_kept_is_not_made_again_unless_settings_change(script, tmp_path):
    calls = []

    def make():
        calls.append(1)
        return script.Made({"elbo": -1.5}, {"samples": np.full((2, 3, 3, 1), len(calls), np.uint8)})

    path = tmp_path / "vae-0.npz"
    first, again = (script.kept(path, script.QUICK, make) for _ in range(2))
    assert len(calls) == 1
    assert again.numbers == first.numbers == {"elbo": -1.5}
    np.testing.assert_array_equal(again.pictures["samples"], first.pictures["samples"])
    other = script.kept(path, dataclasses.replace(script.QUICK, count=1), make)
    assert len(calls) == 2
    assert (other.pictures["samples"] == 2).all()


def test_the_quick_form(tmp_path, data_dir):
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
    said = json.loads(last)
    assert list(said["scores"]) == ["training images", "VAE", "VAE, reconstructions", "GAN"]
    for found in said["scores"].values():
        for scores in found.values():
            assert all(math.isfinite(value["mean"]) and math.isfinite(value["sd"]) for value in scores.values())
            assert 0 <= scores["precision"]["mean"] <= 1
            assert 0 <= scores["recall"]["mean"] <= 1
    # The floor is the least distance, and the classifier has learnt something to tell.
    distances = {row: found["grey"]["frechet_distance"]["mean"] for row, found in said["scores"].items()}
    assert min(distances, key=distances.get) == "training images"
    result = json.loads((tmp_path / "gan_comparison.json").read_text())
    assert result["classifier_accuracy"]["grey"] > 0.8
    text = (tmp_path / "gan_comparison.md").read_text()
    assert text.splitlines() == table[: len(text.splitlines())]
    assert "no encoder: no reconstruction, no latent code" in text
    assert "no likelihood: no NLL" in text
    with Image.open(tmp_path / "gan_comparison.png") as picture:
        assert picture.size[0] > 1000
    assert {path.name for path in tmp_path.glob("*.npz")} == {f"{k}-{s}.npz" for k in ("vae", "gan") for s in (0, 1)}
