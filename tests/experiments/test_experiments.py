"""experiments/: each runs in quick form, through the same code, and its measures measure what they say."""

import json
import subprocess
import sys

import numpy as np
import pytest
from scripts import EXPERIMENTS, load

from vae_jax.config.building import override
from vae_jax.errors import InputError


@pytest.fixture(autouse=True)
def _digits_are_made_here(data_dir, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", data_dir)


class TestPcaToVae:
    @pytest.fixture
    def script(self):
        return load("pca_to_vae")

    @pytest.fixture
    def images(self):
        rng = np.random.default_rng(0)
        return rng.integers(0, 256, (40, 4, 3, 1), np.uint8), rng.integers(0, 256, (15, 4, 3, 1), np.uint8)

    def test_the_quick_form(self, script, tmp_path, capsys):
        first = script.main(["--quick", "--output", str(tmp_path)])
        rows = {row["rung"]: row for row in first["rungs"]}
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
        again = script.main(["--quick", "--output", str(tmp_path)])  # all is trained: the same numbers, at once
        assert again["rungs"][1:] == first["rungs"][1:]
        capsys.readouterr()

    def test_svd_is_the_best_linear_code(self, script, images):
        train, _ = images
        rung, components = script.pca_by_svd(train, train, 5)
        flat = train.reshape(40, -1) / 255
        eigenvalues = np.linalg.eigvalsh(np.cov(flat.T, bias=True))
        np.testing.assert_allclose(rung.row["squared_error"], eigenvalues[:-5].sum(), rtol=1e-4)
        np.testing.assert_allclose(components @ components.T, np.eye(5), atol=1e-5)

    def test_svd_on_other_images_is_the_same_projection(self, script, images):
        rung, components = script.pca_by_svd(*images, 5)
        flat = [x.reshape(len(x), -1) / 255 for x in images]
        centred = flat[1] - flat[0].mean(axis=0)
        missed = centred - centred @ components.T @ components
        np.testing.assert_allclose(rung.row["squared_error"], (missed**2).sum(axis=1).mean(), rtol=1e-4)

    def test_nearest_distances_are_the_least_of_all_pairs(self, script):
        x, y = (np.random.default_rng(s).random((n, 7), np.float32) for s, n in ((0, 200), (1, 30)))
        expected = ((x[:, None] - y[None]) ** 2).sum(axis=-1).min(axis=1)
        np.testing.assert_allclose(script.nearest_distances(x, y), expected, rtol=1e-4, atol=1e-5)

    def test_fitted_codes_have_the_moments_of_the_codes(self, script):
        codes = np.random.default_rng(0).normal(size=(1000, 3)) @ [[1, 0.5, 0], [0, 2, 0], [0, 0, 0.1]] + [1, 2, 3]
        rung = script.Rung("fixed", lambda x: codes, None, {})
        drawn = script.fitted_codes(rung, None, np.random.default_rng(1).standard_normal((100_000, 3)))
        np.testing.assert_allclose(drawn.mean(axis=0), codes.mean(axis=0), atol=0.03)
        np.testing.assert_allclose(np.cov(drawn.T), np.cov(codes.T), atol=0.05)

    def test_what_is_generated_of_the_prior_and_of_fitted_codes_are_pictures(self, script):
        codes = np.random.default_rng(0).normal(size=(1000, 2)) * 0.1 + 0.5
        rung = script.Rung("fixed", lambda x: codes, lambda z: z.reshape(-1, 1, 2, 1), {})
        noise = np.random.default_rng(1).standard_normal((5000, 2)).astype(np.float32)
        made = script.generate(rung, None, noise)
        np.testing.assert_array_equal(made["prior"], np.clip(noise, 0, 1).reshape(-1, 1, 2, 1))
        np.testing.assert_allclose(made["fitted"].mean(axis=0).ravel(), 0.5, atol=0.02)

    def test_the_seconds_are_those_of_all_processes_that_trained(self, script, tmp_path):
        config = override(script._config("vae", quick=True), train__log_every=10, train__evaluate_every=0)
        read, asked = script.Clock.__call__, []

        def third(clock):
            asked.append(read(clock))
            return len(asked) == 3

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(script.Clock, "__call__", third)
            first, _ = script.train_rung("vae", config, tmp_path / "vae")
        second, _ = script.train_rung("vae", config, tmp_path / "vae")
        assert 0 < first.row["seconds"] < second.row["seconds"]


class TestPenalty:
    def test_without_the_penalty_the_noise_dies(self, tmp_path, capsys):
        result = load("penalty").main(["--quick", "--epochs", "10", "--output", str(tmp_path)])
        capsys.readouterr()
        ratio = {row["penalty"]: row["ratio"] for row in result["at_end"]}
        each_epoch = json.loads((tmp_path / "penalty.json").read_text())["noise_and_spread"]
        for name, values in each_epoch.items():
            noise, spread = np.moveaxis(np.asarray(values), 1, 0)  # each [epochs + 1, D]
            np.testing.assert_allclose(noise[0], 1)  # s starts at 0
            assert ratio[name] == pytest.approx(np.median(noise[-1] / spread[-1]))
        assert 2 * ratio["no penalty"] < ratio["KL"] < ratio["twice the KL"]
        assert {path.name for path in tmp_path.iterdir()} == {"penalty.png", "penalty.md", "penalty.json"}


@pytest.mark.parametrize("name", ["pca_to_vae", "gan_comparison", "moon_phases", "gradient_snr", "penalty"])
def test_an_output_that_cannot_be_written_is_refused_before_anything_is_trained(name, tmp_path):
    (tmp_path / "file").write_text("mine")
    argv = [sys.executable, EXPERIMENTS / f"{name}.py", "--quick", "--output", tmp_path / "file" / "below"]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "cannot be made or written to (Not a directory)" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_the_quick_form_does_not_replace_what_the_full_one_has_made(monkeypatch):
    script, asked = load("gan_comparison"), []

    def compare(settings, output):
        asked.append(str(output))
        raise InputError("enough")

    monkeypatch.setattr(script, "compare", compare)
    for argv in ([], ["--quick"], ["--quick", "--output", "here"]):
        with pytest.raises(SystemExit, match="enough"):
            script.main(argv)
    assert asked == ["runs/gan_comparison", "runs/gan_comparison-quick", "here"]
