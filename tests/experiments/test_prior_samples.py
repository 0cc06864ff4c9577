"""experiments/prior_samples.py: an interruption, and a complete run with --quick whose outputs are stored."""

import json
import os
import signal

import numpy as np
import pytest
from PIL import Image
from scripts import load

pytestmark = pytest.mark.usefixtures("digits_prepared")
ROWS = ("reconstructions", "N(0, I)", "Gaussian", "mixture of 10", "coupling flow")


@pytest.mark.parametrize(("argv", "output"), [([], "runs/prior_samples"), (["--quick"], "runs/prior_samples-quick")])
def test_a_quick_run_has_another_folder_than_a_full_one(argv, output, monkeypatch, capsys):
    script, directories = load("prior_samples"), []

    def interrupt(config, directory, *arguments):
        directories.append(str(directory))
        raise script.Interrupted

    monkeypatch.setattr(script, "run_model", interrupt)
    assert script.main(argv) == {"output": output, "status": "interrupted"}
    assert directories == [f"{output}/autoencoder-0"]
    capsys.readouterr()


@pytest.mark.thorough
def test_quick_run_after_an_interruption(tmp_path, monkeypatch, capsys):
    script = load("prior_samples")
    couplings = script.choice("prior", "coupling", layers=1, hidden=(8,))  # compiles faster
    monkeypatch.setitem(script.DENSITIES, "coupling flow", couplings)
    argv = ["--quick", "--fit-steps", "20", "--output", str(tmp_path)]
    prepare = script.prepare_experiment

    def signalled(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return prepare(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(script, "prepare_experiment", signalled)
        assert script.main(argv) == {"output": str(tmp_path), "status": "interrupted"}
    assert not (tmp_path / "prior_samples.md").exists()

    result = script.main(argv)
    assert list(result["scores"]) == [
        "training images",
        *(f"{m}, {row}" for m in ("autoencoder", "VAE") for row in ROWS),
    ]
    stored = json.loads((tmp_path / "prior_samples.json").read_text())
    assert stored["scores"] == result["scores"]
    grey = {row: scores["grey"]["frechet_distance"]["mean"] for row, scores in stored["scores"].items()}
    assert grey["training images"] == min(grey.values())
    densities = stored["log_densities"]["autoencoder"]
    assert all(np.isfinite(value["mean"]) for value in densities.values())
    with np.load(tmp_path / "vae-0" / "images.npz", allow_pickle=False) as images:
        assert {name: images[name].shape for name in ROWS} == dict.fromkeys(ROWS, (200, 8, 8, 1))
        assert all((images[name] != images["N(0, I)"]).any() for name in ROWS if name != "N(0, I)")
    text = (tmp_path / "prior_samples.md").read_text()
    assert all(text.count(f"| {row} |") == 2 for row in result["scores"])
    with Image.open(tmp_path / "prior_samples.png") as image:
        assert image.size[0] > 800

    monkeypatch.setattr(script, "prepare_experiment", None)  # nothing is trained or sampled again
    monkeypatch.setattr(script, "compare", lambda outputs, *_: stored | {"seeds": len(outputs["VAE"])})
    assert script.main(argv) == result
    assert json.loads((tmp_path / "prior_samples.json").read_text()) == stored | {"seeds": 1}
    capsys.readouterr()
