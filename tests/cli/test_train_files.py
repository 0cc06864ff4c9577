"""vae_jax/cli/train.py: training on files of images, which may change or move."""

import json
import math
import shutil

import numpy as np
import pytest
from commands import FIGURES, check_refusal, read_png
from inputs import SHARED

from vae_jax.runs import plots

CIFAR = SHARED / "cifar10_4k.npz"


@pytest.mark.fault
def test_a_finished_run_is_evaluated_on_the_other_images_that_it_receives(trained_on_file, call, monkeypatch):
    directory, argv, first = trained_on_file
    monkeypatch.setattr(plots, "plot_all", lambda *_: [])
    again = call(*argv).result
    assert (again["nll"], again["seed"]) == (first["nll"], 0)
    np.save("images.npy", np.full((60, 6, 6), 255, np.uint8))
    other = call(*argv, "--allow-change", "data.name").result
    assert (other["step"], other["status"]) == (10, "done")
    assert abs(other["nll"] - first["nll"]) > 1e-3
    assert other["nll"] == pytest.approx(call("evaluate", directory).result["nll"], rel=1e-5)
    seeded = call(*argv, "--seed", 5, "--allow-change", "seed").result
    assert seeded["seed"] == 5
    assert seeded["elbo"] != other["elbo"]


@pytest.mark.fault
def test_no_command_accepts_other_images_than_those_of_the_run(trained_on_file, call):
    directory, *_ = trained_on_file
    np.save("images.npy", np.full((60, 6, 6), 255, np.uint8))
    for command in ("evaluate", "encode", "reconstruct", "interpolate"):
        check_refusal(
            call, directory, [command, directory], "no longer contains the examples that", "--allow-change data.name"
        )
    call("sample", directory).result  # noqa: B018  samples need no images


@pytest.mark.fault
def test_a_run_finds_its_images_from_another_folder_and_accepts_moved_images(
    trained_on_file, tmp_path, call, monkeypatch
):
    directory, _, first = trained_on_file
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    assert call("evaluate", directory).result["nll"] == pytest.approx(first["nll"], rel=1e-5)
    shutil.move(tmp_path / "images.npy", tmp_path / "other" / "moved.npy")
    words = ("images.npy", "config.json contains this name", "--data.name NAME`")
    check_refusal(call, directory, ["evaluate", directory], *words)
    monkeypatch.setattr(plots, "plot_all", lambda *_: [])
    found = call("train", "--workdir", directory, "--data.name", "moved.npy", "--compilation-cache", "None").result
    assert found["nll"] == first["nll"]  # the same images: nothing is evaluated again
    assert "changes" not in json.loads((directory / "config.json").read_text())
    monkeypatch.chdir(tmp_path)
    assert call("evaluate", directory).result["nll"] == pytest.approx(first["nll"], rel=1e-5)
    more = call("train", "--workdir", directory, "--train.steps", 15, "--compilation-cache", "None").result
    assert (more["status"], more["step"]) == ("done", 15)


def blobs(count, height, width):
    """Return grey images with one bright blob at a random position each, uint8 [N, H, W]."""
    center = np.random.default_rng(0).uniform(0.2, 0.8, (count, 2, 1, 1)) * [[[height]], [[width]]]
    row, column = np.mgrid[:height, :width]
    return np.rint(255 * np.exp(-((row - center[:, 0]) ** 2 + (column - center[:, 1]) ** 2) / 20)).astype(np.uint8)


@pytest.mark.parametrize("kind", [pytest.param("grey 28x20", marks=pytest.mark.thorough), "colour 32x32"])
def test_a_file_of_images_trains_with_the_8_bit_preset(kind, tmp_path, monkeypatch, call):
    if kind == "grey 28x20":
        images = blobs(100, 28, 20)
        assert images.shape == (100, 28, 20)
    elif CIFAR.exists():
        with np.load(CIFAR, allow_pickle=False) as stored:
            images = stored["images" if "images" in stored else stored.files[0]][:200]
        assert images.shape == (200, 32, 32, 3)
    else:
        pytest.skip("cifar10_4k.npz is not in ../shared/data")
    monkeypatch.chdir(tmp_path)
    np.savez("images.npz", images=images)
    result = call(
        "train", "--preset", "conv-8bit", "--data.name", "images.npz", "--network.hidden", 4, 8,
        "--model.latent-dim", 4, "--train.steps", 3, "--train.batch-size", 16, "--train.log-every", 3,
        "--train.evaluate-every", 0, "--train.save-every", 3, "--evaluation.num-samples", 2,
        "--compilation-cache", "None", "--mesh.data", 1,
    ).result  # fmt: skip
    assert (result["workdir"], result["step"]) == ("runs/conv-8bit", 3)
    assert result["num_examples"] == len(images) // 10
    assert result["bits_per_dim"] == pytest.approx(result["nll"] / (images[0].size * math.log(2)))
    assert 0 < result["bits_per_dim"] < 12
    for name in FIGURES - {"manifold", "latent_map", "prior_map"}:
        read_png(tmp_path / "runs" / "conv-8bit" / "figures" / f"{name}.png")
