"""experiments/moon_phases.py: what it measures is what it says, and its quick form runs through."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scripts import load

from vae_jax.data.moons import moon_parameters, render_moons
from vae_jax.distributions.deterministic import Deterministic
from vae_jax.distributions.normal import Normal


@pytest.fixture(scope="module")
def script():
    return load("moon_phases")


@pytest.fixture(scope="module")
def ruler(script):
    scale = script.Scale(seeds=2, pairs=6, library=2000, calibration=100)
    return script.Ruler(scale, (32, 32))


def test_a_true_moon_measures_what_it_is(script, ruler):
    found = ruler.measure(ruler.truth[None])
    np.testing.assert_allclose(found["lit"], np.linspace(0.5, 1, script.FRAMES)[None], atol=1e-12)
    for name in ("error", "lit_error", "off_moon"):
        np.testing.assert_allclose(found[name], 0, atol=1e-3)
    assert (found["sharpness"], found["claim"]) == (pytest.approx([1]), pytest.approx([1], abs=0.35))
    number, off = script.match(ruler.truth[script.MIDDLE], ruler.family)
    np.testing.assert_array_equal(script.PHASES[number], 0.75)
    np.testing.assert_allclose(off, 0, atol=1e-3)


def test_a_blend_is_told_from_a_moon(script, ruler):
    found = ruler.measure(ruler.between(np.linspace(0, 1, script.FRAMES))[None])
    np.testing.assert_allclose(found["off_blend"], 0, atol=1e-3)
    np.testing.assert_allclose(found["lit"][0, [0, -1]], [0.5, 1])
    assert found["lit"][0, 3] < 0.55  # 0.65 in truth: it jumps
    assert found["lit"][0, 7] > 0.95  # 0.85
    assert found["off_moon"][0, script.MIDDLE] > 10
    assert found["error"][0, script.MIDDLE] >= found["off_moon"][0, script.MIDDLE]
    assert found["sharpness"] < 0.5
    assert found["claim"] == 0
    assert ruler.measure(ruler.truth[None])["off_blend"][0, script.MIDDLE] > 10


def test_the_spread_is_that_of_the_seeds(script, ruler):
    """Of the error along a whole path it is that of each seed's mean over the path."""
    paths = np.stack([ruler.truth, np.broadcast_to(ruler.full, ruler.truth.shape)])
    found = ruler.measure(paths)["lit_error"]
    np.testing.assert_allclose(found, [0, 0.25], atol=1e-3)  # full all along, against 0.5 to 1
    assert script.summary(found) == {"mean": pytest.approx(0.125, abs=1e-3), "sd": pytest.approx(0.177, abs=1e-3)}
    assert script.summary(found[:1])["sd"] == 0


def test_the_claim_needs_the_right_phase(script, ruler):
    paths = np.broadcast_to(ruler.full, (1, *ruler.truth.shape))  # moons, but not of three quarters
    assert ruler.are_moons(paths[0, 0]).mean() > 0.5
    assert ruler.measure(paths)["claim"] == 0


def test_match_finds_the_nearest_of_each_pair_s_own_family(script):
    random = np.random.default_rng(0)
    images, family = random.random((2, 3, 5, 4, 4, 1)), random.random((7, 5, 4, 4, 1))
    number, off = script.match(images, family)
    errors = ((images[:, :, None] - family) ** 2).sum(axis=(-3, -2, -1))  # [2, 3, 7, 5]
    np.testing.assert_array_equal(number, errors.argmin(axis=2))
    np.testing.assert_allclose(off, errors.min(axis=2))
    np.testing.assert_allclose(script.squared_error(images[0, 0], family[0]), errors[0, 0, 0])


def test_sharpness_is_that_of_the_edge_inside_the_disc(script, ruler):
    truth = ruler.truth[script.MIDDLE]
    np.testing.assert_allclose(script.sharpness(truth, truth, ruler.inside), 1)
    np.testing.assert_allclose(script.sharpness(truth / 2, truth, ruler.inside), 0.25)
    blurred = (np.roll(truth, 1, axis=2) + truth + np.roll(truth, -1, axis=2)) / 3
    assert (script.sharpness(blurred, truth, ruler.inside) < 0.75).all()
    outside = truth + np.where(ruler.inside[..., None], 0, np.random.default_rng(0).random(truth.shape))
    edge = script.sharpness(outside, truth, ruler.inside)
    assert (edge < 4).all()  # only where the inside meets it
    pairs = moon_parameters(np.arange(script.UNSEEN, script.UNSEEN + 6))
    np.testing.assert_allclose(ruler.inside.sum(axis=(1, 2)), np.pi * (0.85 * 16 * pairs.radius) ** 2, rtol=0.2)


def test_what_counts_as_a_moon(script, ruler):
    others = render_moons(moon_parameters(np.arange(90_000, 90_400))) / np.float32(255)
    assert 0.88 < ruler.are_moons(others).mean() < 1
    assert ruler.are_moons(ruler.library[:20]).all()
    noise = np.random.default_rng(0).random((20, 32, 32, 1), np.float32)
    two = np.maximum(others[:20], others[:20, :, ::-1])  # each with its mirror image
    assert not ruler.are_moons(np.concatenate([noise, np.zeros_like(noise), np.ones_like(noise)])).any()
    assert ruler.are_moons(two).mean() < 0.7
    assert ruler.nearest_moon(others[:6].reshape(2, 3, 32, 32, 1))[1].shape == (2, 3)


def test_codes_are_drawn_from_the_gaussian_of_the_codes(script):
    random = np.random.default_rng(0)
    codes = random.standard_normal((2, 40, 3)) @ np.array([[1, 0.5, 0], [0, 0.2, 0], [0, 0, 0]]) + 5  # one is unused
    drawn = script.gaussian_of(codes, random.standard_normal((20_000, 40)))
    for found, given in zip(drawn, codes, strict=True):
        np.testing.assert_allclose(found.mean(0), given.mean(0), atol=0.05)
        np.testing.assert_allclose(np.cov(found.T), np.cov(given.T, bias=True), atol=0.05)


class Copying:
    """A model whose code is the image itself: its straight paths are blends of pixels."""

    def apply(self, variables, x, method):
        scale = variables["params"]
        if method == "encode":
            return Deterministic(scale * x.reshape(x.shape[0], -1))
        mean = (z := x / scale).reshape(*z.shape[:-1], 32, 32, 1)
        return Normal(mean, jnp.zeros_like(mean), event_ndims=3)


def test_a_model_that_copies_has_blends_between_its_codes(script, ruler):
    test = np.rint(255 * ruler.library[:50]).astype(np.uint8)
    paths, shares = script.explore(Copying(), jnp.array([1.0, 2.0]), ruler, test, num_codes=20)
    assert paths.shape == (2, *ruler.truth.shape)
    for path in paths:
        np.testing.assert_allclose(path, ruler.between(np.linspace(0, 1, script.FRAMES)), atol=1e-5)
    np.testing.assert_array_equal(shares["moons_reconstructed"], 1)
    np.testing.assert_array_equal(shares["moons_prior"], 0)  # noise
    assert (shares["moons_fitted"] < 0.2).all()


def test_the_quick_form(script, tmp_path, data_dir, capsys):
    script.main(["--quick", "--data-dir", data_dir, "--output", str(tmp_path)])
    results = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert results == json.loads((tmp_path / "results.json").read_text())
    assert list(results["settings"]) == list(script.SETTINGS)
    rows = [script.BLEND, *script.METHODS]
    written = (tmp_path / "table.md").read_text()
    for found in results["settings"].values():
        assert list(found) == rows
        for measured in found.values():
            assert all(np.isfinite(measured[name][part]).all() for name in measured if name != "seconds"
                       for part in ("mean", "sd"))  # fmt: skip
            assert len(measured["error"]["mean"]) == script.FRAMES
            assert all(0 <= lit <= 1 for lit in measured["lit"]["mean"])
        for method in script.METHODS:
            assert min(found[method]["error"]["sd"]) > 0, "the seeds are all alike"
            assert 0 <= found[method]["moons_prior"]["mean"] <= 1
            assert found[method]["error"]["mean"][0] < 60  # an untrained decoder is twice as far off
    assert all(written.count(f"| {row} |") == 2 for row in rows)
    for picture in ("paths.png", "curves.png"):
        with Image.open(tmp_path / picture) as image:
            assert min(image.size) > 300
