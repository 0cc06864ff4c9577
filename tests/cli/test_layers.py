"""Commands on a ladder: the figure of `train` and `evaluate`, cold samples, a learned prior of the highest layer."""

import json

import jax
import numpy as np
import pytest
from commands import read_png, snapshot
from inputs import random_images

from vae_jax.runs import plots

LADDER = ["--model", "ladder-mlp", "--model.blocks", "2", "1", "--model.channels", "6", "--model.bottleneck", "4",
          "--model.latent-channels", "2", "--train.steps", "4", "--train.batch-size", "8", "--train.log-every", "2",
          "--train.evaluate-every", "0", "--train.save-every", "4", "--evaluation.num-samples", "0",
          "--compilation-cache", "None", "--mesh.data", "1"]  # fmt: skip


@pytest.fixture
def ladder(tmp_path, monkeypatch, call):
    """Train a small ladder on images.npy; return its directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plots, "plot_all", lambda *_: [])
    np.save("images.npy", random_images(60, 6, 6, seed=0))
    assert call("train", "--workdir", "run", "--data.name", "images.npy", *LADDER).result["status"] == "done"
    return tmp_path / "run"


@pytest.mark.thorough
def test_training_and_evaluation_draw_the_layers_and_cold_samples_vary_less(ladder, call):
    figure = ladder / "figures" / "layers.png"
    assert read_png(figure).size
    assert "KL and active units of each stochastic layer" in (ladder / "report.html").read_text()
    stored = json.loads((ladder / "evaluation.json").read_text())
    assert sum(stored[f"kl_{i}"] for i in (1, 2, 3)) == pytest.approx(stored["kl"], rel=1e-5)
    before = snapshot(ladder)
    result = call("evaluate", ladder, "--split", "validation", "--to", "other").result
    assert result["figure"] == "other/figures/layers-validation.png"
    assert read_png(result["figure"]).size
    assert snapshot(ladder) == before
    assert call("evaluate", ladder).result["figure"] == str(figure)
    cold, warm = (
        np.load(call("sample", ladder, "--temperature", t, "--to", "to").result["samples"]).astype(float)
        for t in (0.1, 1)
    )
    assert cold.std(axis=0).mean() < warm.std(axis=0).mean() / 2


@pytest.mark.thorough
def test_a_ladder_with_a_learned_prior_is_planned_sampled_and_exported(tmp_path, monkeypatch, call):
    monkeypatch.chdir(tmp_path)
    np.save("images.npy", random_images(60, 6, 6, seed=0))
    argv = ["--data.name", "images.npy", *LADDER, "--prior", "coupling", "--prior.layers", "2", "--prior.hidden", "4"]
    without_cache = [word for word in argv if word not in ("--compilation-cache", "None")]
    assert call("plan", *without_cache).result["parameters"] > 0
    trained = call("train", "--workdir", "run", *argv, "--evaluation.num-samples", "3").result
    one = ["train", "--workdir", "eight", *argv, "--evaluation.num-samples", "3", "--mesh.data", "8"]
    for name in ("elbo", "kl", "kl_1", "nll"):
        assert call(*one).result[name] == pytest.approx(trained[name], rel=1e-3), name
    samples = np.load(call("sample", "run", "--temperature", 0.5).result["samples"])
    assert samples.shape == (100, 6, 6, 1)
    call("export", "run")
    exported = jax.export.deserialize((tmp_path / "run" / "exported" / "sampler.jax").read_bytes())
    assert exported.call(jax.random.key_data(jax.random.split(jax.random.key(0), 3))).shape == (3, 6, 6, 1)
