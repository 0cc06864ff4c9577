"""experiments/moon_metrics.py: each metric in cases with a known value."""

import numpy as np
import pytest
from scripts import load

from vae_jax.data.moons import moon_parameters, render_moons


@pytest.fixture(scope="module")
def script():
    return load("moon_metrics")


@pytest.fixture(scope="module")
def metrics(script):
    return script.MoonMetrics((32, 32), pairs=6, library=2000, calibration=100)


def test_the_metrics_of_true_moons_have_no_error(script, metrics):
    found = metrics.measure(metrics.truth[None])
    np.testing.assert_allclose(found["lit"], np.linspace(0.5, 1, script.FRAMES)[None], atol=1e-12)
    for name in ("error", "lit_error", "off_moon"):
        np.testing.assert_allclose(found[name], 0, atol=1e-3)
    assert (found["sharpness"], found["claim"]) == (pytest.approx([1]), pytest.approx([1], abs=0.35))
    number, off = script.match(metrics.truth[script.MIDDLE], metrics.family)
    np.testing.assert_array_equal(script.PHASES[number], 0.75)
    np.testing.assert_allclose(off, 0, atol=1e-3)


def test_the_metrics_distinguish_a_blend_from_a_moon(script, metrics):
    found = metrics.measure(metrics.blend(np.linspace(0, 1, script.FRAMES))[None])
    np.testing.assert_allclose(found["off_blend"], 0, atol=1e-3)
    np.testing.assert_allclose(found["lit"][0, [0, -1]], [0.5, 1])
    assert found["lit"][0, 3] < 0.55  # the truth is 0.65: it jumps
    assert found["lit"][0, 7] > 0.95  # 0.85
    assert found["off_moon"][0, script.MIDDLE] > 10
    assert found["error"][0, script.MIDDLE] >= found["off_moon"][0, script.MIDDLE]
    assert found["sharpness"] < 0.5
    assert found["claim"] == 0
    assert metrics.measure(metrics.truth[None])["off_blend"][0, script.MIDDLE] > 10


def test_the_claim_needs_the_right_phase(script, metrics):
    paths = np.broadcast_to(metrics.full, (1, *metrics.truth.shape))  # moons of another phase
    assert metrics.are_moons(paths[0, 0]).mean() > 0.5
    assert metrics.measure(paths)["claim"] == 0


def test_match_finds_the_nearest_member_in_the_family_of_each_pair(script):
    random = np.random.default_rng(0)
    images, family = random.random((2, 3, 5, 4, 4, 1)), random.random((7, 5, 4, 4, 1))
    number, off = script.match(images, family)
    errors = ((images[:, :, None] - family) ** 2).sum(axis=(-3, -2, -1))  # [2, 3, 7, 5]
    np.testing.assert_array_equal(number, errors.argmin(axis=2))
    np.testing.assert_allclose(off, errors.min(axis=2))
    np.testing.assert_allclose(script.squared_error(images[0, 0], family[0]), errors[0, 0, 0])


def test_sharpness_is_that_of_edges_inside_the_disc(script, metrics):
    truth = metrics.truth[script.MIDDLE]
    np.testing.assert_allclose(script.sharpness(truth, truth, metrics.inside), 1)
    np.testing.assert_allclose(script.sharpness(truth / 2, truth, metrics.inside), 0.25)
    blurred = (np.roll(truth, 1, axis=2) + truth + np.roll(truth, -1, axis=2)) / 3
    assert (script.sharpness(blurred, truth, metrics.inside) < 0.75).all()
    outside = truth + np.where(metrics.inside[..., None], 0, np.random.default_rng(0).random(truth.shape))
    edge = script.sharpness(outside, truth, metrics.inside)
    assert (edge < 4).all()  # only at the boundary of the inside
    pairs = moon_parameters(np.arange(script.UNSEEN, script.UNSEEN + 6))
    np.testing.assert_allclose(metrics.inside.sum(axis=(1, 2)), np.pi * (0.85 * 16 * pairs.radius) ** 2, rtol=0.2)


def test_noise_and_blank_images_do_not_count_as_moons(script, metrics):
    others = render_moons(moon_parameters(np.arange(90_000, 90_400))) / np.float32(255)
    assert 0.88 < metrics.are_moons(others).mean() < 1
    assert metrics.are_moons(metrics.library[:20]).all()
    noise = np.random.default_rng(0).random((20, 32, 32, 1), np.float32)
    two = np.maximum(others[:20], others[:20, :, ::-1])  # each together with its mirror image
    assert not metrics.are_moons(np.concatenate([noise, np.zeros_like(noise), np.ones_like(noise)])).any()
    assert metrics.are_moons(two).mean() < 0.7
    assert metrics.nearest_moon(others[:6].reshape(2, 3, 32, 32, 1))[1].shape == (2, 3)


def test_codes_are_sampled_from_the_gaussian_of_the_codes(script):
    random = np.random.default_rng(0)
    codes = (
        random.standard_normal((2, 40, 3)) @ np.array([[1, 0.5, 0], [0, 0.2, 0], [0, 0, 0]]) + 5
    )  # one dimension is unused
    drawn = script.gaussian_of(codes, random.standard_normal((20_000, 40)))
    for found, given in zip(drawn, codes, strict=True):
        np.testing.assert_allclose(found.mean(0), given.mean(0), atol=0.05)
        np.testing.assert_allclose(np.cov(found.T), np.cov(given.T, bias=True), atol=0.05)
