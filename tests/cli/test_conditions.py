"""vae_jax/cli/conditions.py: samples and reconstructions under one condition, and conditions that are refused."""

import numpy as np
import pytest
from commands import SMALL, check_refusal, read_png

from vae_jax.cli.conditions import condition_variant
from vae_jax.data import ArrayDataset
from vae_jax.runs import Experiment, plots

SETTINGS = ["--mesh.data", 1, "--train.label-dropout", 0.2, *SMALL, "--train.log-every", 5]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """File of 60 images with two numbers each, and labels of two classes."""
    path, rng = tmp_path_factory.mktemp("data") / "data.npz", np.random.default_rng(0)
    x = rng.integers(0, 256, (60, 6, 6), dtype=np.uint8)
    np.savez(path, x=x, conditions=np.stack([x.mean((1, 2)) / 255, rng.normal(size=60)], axis=1), y=np.arange(60) % 2)
    return path


@pytest.fixture
def without_figures(monkeypatch):
    monkeypatch.setattr(plots, "plot_all", lambda *_: [])


@pytest.mark.thorough
def test_samples_under_vectors_of_numbers(data, tmp_path, call, without_figures, monkeypatch):
    run, out = tmp_path / "run", tmp_path / "out"
    model = ["--model", "conditional-vector", "--model.condition-dim", 2]
    train = ["train", "--workdir", run, "--data.name", data, *model, *SETTINGS, "--train.steps"]
    assert np.isfinite(call(*train, 2).result["nll"])

    default = call("sample", run, "--count", 8).result
    test_conditions = np.load(default["conditions"])
    assert test_conditions.shape == (8, 2)
    np.testing.assert_array_equal(test_conditions[6:], test_conditions[:2])  # those of the 6 test images
    with monkeypatch.context() as patch:  # the conditions of all but two test images are unknown
        dataset = Experiment.dataset
        patch.setattr(Experiment, "dataset", lambda experiment, split: ArrayDataset(
            dataset(experiment, split).arrays | {"mask": np.arange(6) < 2}, "images"))  # fmt: skip
        known = np.load(call("sample", run, "--count", 4, "--to", out).result["conditions"])
        np.testing.assert_array_equal(known, test_conditions[[0, 1, 0, 1]])
    one = call("sample", run, "--count", 3, "--condition=-0.5,1", "--to", out).result
    np.testing.assert_array_equal(np.load(one["conditions"]), [[-0.5, 1]] * 3)
    none = call("sample", run, "--count", 3, "--condition", "none", "--to", tmp_path / "none").result
    assert "conditions" not in none
    images = [np.load(result["samples"]) for result in (default, one, none)]
    assert all(np.any(images[i][:3] != images[j][:3]) for i, j in ((0, 1), (0, 2), (1, 2)))

    refusals = {"1": "as many as model.condition_dim=2", "a,b": "must be numbers", "nan,1": "must be numbers"}
    for condition, words in refusals.items():
        check_refusal(call, tmp_path, ["sample", run, "--condition", condition], f"--condition={condition}", words)
    other = [*train[:2], tmp_path / "new", *train[3:], 2]
    check_refusal(call, tmp_path, [*other, "--model.condition-dim", 3], "model.condition_dim=3 must be 2, the numbers")
    np.save(tmp_path / "x.npy", np.zeros((9, 6, 6), np.uint8))
    check_refusal(call, tmp_path, ["evaluate", run, "--data.name", tmp_path / "x.npy"], "x.npy has no conditions")


@pytest.mark.thorough
def test_a_run_given_vectors_has_the_same_bits_after_a_stop_and_numbers_on_devices_and_in_a_sweep(data, tmp_path, call):
    settings = ["--data.name", data, "--model", "conditional-vector", "--model.condition-dim", 2, *SETTINGS,
                "--schedule", "constant"]  # fmt: skip
    results = [
        call("train", "--workdir", tmp_path / "run", *settings, "--train.steps", steps).result for steps in (5, 10)
    ]
    names = {path.stem for path in (tmp_path / "run" / "figures").iterdir()}
    assert {"samples", "reconstructions", "interpolations"} < names
    assert not {"samples_by_class", "styles", "reliability"} & names
    undisturbed = call("train", "--workdir", tmp_path / "other", *settings, "--train.steps", 10).result
    assert undisturbed["nll"] == results[1]["nll"] != results[0]["nll"]
    assert set(call("export", tmp_path / "run").result["programs"]) == {"encoder", "decoder", "sampler"}
    read_png(call("reconstruct", tmp_path / "run", "--count", 3, "--condition", "0.1,2").result["figure"])
    devices = [word if i != settings.index("--mesh.data") + 1 else 2 for i, word in enumerate(settings)]
    call("train", "--workdir", tmp_path / "devices", *devices, "--train.steps", 10)
    on_devices = call("evaluate", tmp_path / "devices").result
    assert on_devices["nll"] == pytest.approx(undisturbed["nll"], rel=1e-3)
    call("sweep", "--workdir", tmp_path / "sweep", *settings, "--train.steps", 10, "--vary", "seed=0,1")
    in_sweep = call("evaluate", tmp_path / "sweep" / "seed=0").result
    assert in_sweep["nll"] == pytest.approx(undisturbed["nll"], rel=1e-3)


def test_images_are_decoded_under_another_class_or_none(data, tmp_path, call, without_figures, monkeypatch):
    run, shown = tmp_path / "run", []
    model = ["--model", "conditional", "--model.num-classes", 2]
    call("train", "--workdir", run, "--data.name", data, *model, *SETTINGS, "--train.steps", 2)
    save = plots.image_grids.save_reconstructions
    record = lambda *images, **words: shown.append(images) or save(*images, **words)  # noqa: E731
    monkeypatch.setattr(plots.image_grids, "save_reconstructions", record)
    usual = call("reconstruct", run, "--count", 4).result["figure"]
    figures = [call("reconstruct", run, "--count", 4, "--condition", c).result["figure"] for c in "01"]
    figures.append(call("reconstruct", run, "--count", 4, "--condition", "none").result["figure"])
    assert usual == str(run / "figures" / "reconstructions.png")
    assert figures == [str(run / "figures" / f"transfer-condition-{c}.png") for c in ("0", "1", "none")]
    read_png(figures[0])
    (_, seen, decoded), *others = shown
    for _, same, _ in others:
        np.testing.assert_array_equal(same, seen)
    equal = [np.isclose(transferred, decoded, atol=1e-6).all(axis=(1, 2, 3)).tolist() for *_, transferred in others]
    assert np.sum(equal[:2], axis=0).tolist() == [1] * 4  # under the class of an image, the usual reconstruction
    assert equal[2] == [False] * 4
    assert len(np.load(call("sample", run, "--count", 2, "--condition", "none").result["samples"])) == 2
    for condition, words in (("2", "must be at least 0 and less than"), ("x", "must be a class"), ("-1", "must be a")):
        check_refusal(
            call, tmp_path, ["reconstruct", run, f"--condition={condition}"], f"--condition={condition}", words
        )


def test_no_condition_needs_an_embedding_that_is_trained(data, tmp_path, call, without_figures):
    run, model = tmp_path / "run", ["--model", "conditional", "--model.num-classes", 2]
    call("train", "--workdir", run, "--data.name", data, *model, "--mesh.data", 1, *SMALL, "--train.steps", 2)
    check_refusal(
        call, tmp_path, ["sample", run, "--condition", "none"], "--condition=none needs a model that is trained"
    )


def test_the_name_of_a_file_for_a_long_condition_is_short():
    assert (condition_variant(None), condition_variant("0.3,-1")) == ("", "condition-0.3,-1")
    long = [condition_variant(",".join(["0.123456"] * 40 + [end])) for end in ("1", "2")]
    assert long[0] != long[1]
    assert max(map(len, long)) < 20
