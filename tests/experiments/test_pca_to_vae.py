"""experiments/pca_to_vae.py: its computations, and a complete run with --quick."""

import json

import numpy as np
import pytest
from scripts import load

from vae_jax.config.building import override

pytestmark = pytest.mark.usefixtures("digits_prepared")


@pytest.fixture
def script():
    return load("pca_to_vae")


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (40, 4, 3, 1), np.uint8), rng.integers(0, 256, (15, 4, 3, 1), np.uint8)


@pytest.mark.thorough
def test_quick_run(script, tmp_path, capsys):
    first = script.main(["--quick", "--output", str(tmp_path)])
    rows = {row["model"]: row for row in first["models"]}
    assert list(rows) == ["PCA by SVD", "pca", "autoencoder", "noisy-autoencoder", "vae"]
    assert rows["PCA by SVD"]["squared_error"] < rows["pca"]["squared_error"]
    for name, row in rows.items():
        assert 0 < row["squared_error"] < 6, name  # the variance of the data is 4.7
        assert row["nearest_prior"] > 0
        assert ("elbo" in row) == (name in ("noisy-autoencoder", "vae"))
    assert len(first["principal_angles"]) == 10
    assert json.loads((tmp_path / "pca_to_vae.json").read_text()) == json.loads(json.dumps(first))
    table = (tmp_path / "pca_to_vae.md").read_text()
    assert table.count("does not exist") == 3
    assert (tmp_path / "pca_to_vae.png").stat().st_size > 10_000
    again = script.main(["--quick", "--output", str(tmp_path)])  # the runs are finished: the same numbers at once
    assert again["models"][1:] == first["models"][1:]
    capsys.readouterr()


def test_svd_is_the_optimal_linear_code(script, images):
    train, _ = images
    model, components = script.pca_by_svd(train, train, 5)
    flat = train.reshape(40, -1) / 255
    eigenvalues = np.linalg.eigvalsh(np.cov(flat.T, bias=True))
    np.testing.assert_allclose(model.row["squared_error"], eigenvalues[:-5].sum(), rtol=1e-4)
    np.testing.assert_allclose(components @ components.T, np.eye(5), atol=1e-5)


def test_svd_applies_the_same_projection_to_other_images(script, images):
    model, components = script.pca_by_svd(*images, 5)
    flat = [x.reshape(len(x), -1) / 255 for x in images]
    centred = flat[1] - flat[0].mean(axis=0)
    missed = centred - centred @ components.T @ components
    np.testing.assert_allclose(model.row["squared_error"], (missed**2).sum(axis=1).mean(), rtol=1e-4)


def test_nearest_distances_are_the_minimum_over_all_pairs(script):
    x, y = (np.random.default_rng(s).random((n, 7), np.float32) for s, n in ((0, 200), (1, 30)))
    expected = ((x[:, None] - y[None]) ** 2).sum(axis=-1).min(axis=1)
    np.testing.assert_allclose(script.nearest_distances(x, y), expected, rtol=1e-4, atol=1e-5)


def test_fitted_codes_have_the_moments_of_the_codes(script):
    codes = np.random.default_rng(0).normal(size=(1000, 3)) @ [[1, 0.5, 0], [0, 2, 0], [0, 0, 0.1]] + [1, 2, 3]
    model = script.FittedModel("fixed", lambda x: codes, None, {})
    sampled = script.fitted_codes(model, None, np.random.default_rng(1).standard_normal((100_000, 3)))
    np.testing.assert_allclose(sampled.mean(axis=0), codes.mean(axis=0), atol=0.03)
    np.testing.assert_allclose(np.cov(sampled.T), np.cov(codes.T), atol=0.05)


def test_images_are_generated_from_the_prior_and_from_fitted_codes(script):
    codes = np.random.default_rng(0).normal(size=(1000, 2)) * 0.1 + 0.5
    model = script.FittedModel("fixed", lambda x: codes, lambda z: z.reshape(-1, 1, 2, 1), {})
    noise = np.random.default_rng(1).standard_normal((5000, 2)).astype(np.float32)
    generated = script.generate(model, None, noise)
    np.testing.assert_array_equal(generated["prior"], np.clip(noise, 0, 1).reshape(-1, 1, 2, 1))
    np.testing.assert_allclose(generated["fitted"].mean(axis=0).ravel(), 0.5, atol=0.02)


def test_the_seconds_are_the_sum_over_all_processes_that_trained(script, tmp_path):
    config = override(script.config_of("vae", quick=True), train__log_every=10, train__evaluate_every=0)
    call, calls = script.TrainingTimer.__call__, []

    def stop_at_third_call(timer):
        calls.append(call(timer))
        return len(calls) == 3

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(script.TrainingTimer, "__call__", stop_at_third_call)
        first, _ = script.train_model("vae", config, tmp_path / "vae")
    second, _ = script.train_model("vae", config, tmp_path / "vae")
    assert 0 < first.row["seconds"] < second.row["seconds"]
