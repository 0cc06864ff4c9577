"""experiments/moon_phases.py: the decoded paths, and a complete run with --quick."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scripts import load

from vae_jax.distributions.deterministic import Deterministic
from vae_jax.distributions.normal import Normal


@pytest.fixture(scope="module")
def script():
    return load("moon_phases")


@pytest.fixture(scope="module")
def metrics(script):
    return script.MoonMetrics((32, 32), pairs=6, library=2000, calibration=100)


def test_the_standard_deviation_is_that_over_seeds(script, metrics):
    """That of the error along a path is the deviation of the means over the path of each seed."""
    paths = np.stack([metrics.truth, np.broadcast_to(metrics.full, metrics.truth.shape)])
    found = metrics.measure(paths)["lit_error"]
    np.testing.assert_allclose(found, [0, 0.25], atol=1e-3)  # a full moon everywhere instead of 0.5 to 1
    assert script.summary(found) == {"mean": pytest.approx(0.125, abs=1e-3), "sd": pytest.approx(0.177, abs=1e-3)}
    assert script.summary(found[:1])["sd"] == 0


class Copying:
    """A model whose code is the image, so that its straight paths are blends of pixels."""

    def apply(self, variables, *arguments, method):
        return getattr(self, method)(variables["params"], *arguments)

    def encode(self, scale, batch):
        return Deterministic(scale * batch["x"].reshape(batch["x"].shape[0], -1))

    def decode(self, scale, draw, evidence, batch):
        latent = draw("z", None)
        mean = (latent.z / scale).reshape(*latent.z.shape[:-1], 32, 32, 1)
        return Normal(mean, jnp.zeros_like(mean), event_ndims=3), (latent,)


def test_the_path_of_a_model_that_copies_pixels_is_a_blend(script, metrics):
    test = np.rint(255 * metrics.library[:50]).astype(np.uint8)
    paths, shares = script.decode_paths(Copying(), jnp.array([1.0, 2.0]), metrics, test, num_codes=20)
    assert paths.shape == (2, *metrics.truth.shape)
    for path in paths:
        np.testing.assert_allclose(path, metrics.blend(np.linspace(0, 1, script.FRAMES)), atol=1e-5)
    np.testing.assert_array_equal(shares["moons_reconstructed"], 1)
    np.testing.assert_array_equal(shares["moons_prior"], 0)  # noise
    assert (shares["moons_fitted"] < 0.2).all()


@pytest.mark.thorough
def test_quick_run(script, tmp_path, data_dir, capsys, monkeypatch):
    methods = {name: script.METHODS[name] for name in list(script.METHODS)[-1:]}  # each is compiled for both settings
    monkeypatch.setattr(script, "METHODS", methods)
    script.main(["--quick", "--data-dir", data_dir, "--output", str(tmp_path)])
    results = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert results == json.loads((tmp_path / "results.json").read_text())
    assert list(results["settings"]) == list(script.SETTINGS)
    rows = [script.BLEND, *script.METHODS]
    written = (tmp_path / "table.md").read_text()
    for setting in results["settings"].values():
        assert list(setting) == rows
        for measured in setting.values():
            assert all(np.isfinite(measured[name][part]).all() for name in measured if name != "seconds"
                       for part in ("mean", "sd"))  # fmt: skip
            assert len(measured["error"]["mean"]) == script.FRAMES
            assert all(0 <= lit <= 1 for lit in measured["lit"]["mean"])
        for method in script.METHODS:
            assert min(setting[method]["error"]["sd"]) > 0, "all seeds are equal"
            assert 0 <= setting[method]["moons_prior"]["mean"] <= 1
            assert setting[method]["error"]["mean"][0] < 60  # an untrained decoder has twice this error
    assert all(written.count(f"| {row} |") == 2 for row in rows)
    for figure in ("paths.png", "curves.png"):
        with Image.open(tmp_path / figure) as image:
            assert min(image.size) > 300
