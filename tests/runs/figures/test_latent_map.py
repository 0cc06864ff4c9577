"""The map of a latent space, checked on its axes."""

import numpy as np
import pytest
from drawn_figures import assert_png, legend_of, record_axes

from vae_jax.runs.figures import latent_map


@pytest.fixture
def axes(monkeypatch):
    return record_axes(monkeypatch)


def codes_of(count, dimensions, seed=0):
    return np.random.default_rng(seed).normal(size=(count, dimensions)).astype(np.float32)


def test_principal_components_are_those_of_the_singular_values():
    codes = codes_of(200, 5) * np.array([3, 1, 2, 0.5, 0.1]) + 7
    found, shares = latent_map.principal_components(codes)
    centered = codes - codes.mean(axis=0)
    _, values, directions = np.linalg.svd(centered, full_matrices=False)
    np.testing.assert_allclose(np.abs(found), np.abs(centered @ directions[:2].T), atol=1e-4)
    np.testing.assert_allclose(shares, values[:2] ** 2 / (values**2).sum(), rtol=1e-5)
    weights = np.linalg.lstsq(centered, found, rcond=None)[0]
    assert (weights[np.abs(weights).argmax(axis=0), [0, 1]] > 0).all()


def test_equal_codes_have_no_variance(tmp_path, axes):
    found, shares = latent_map.principal_components(np.ones((4, 3)))
    np.testing.assert_array_equal(found, np.zeros((4, 2)))
    np.testing.assert_array_equal(shares, [0, 0])
    latent_map.save_latent_map(tmp_path / "a.png", np.ones((4, 3)), np.arange(4))
    latent_map.save_latent_map(tmp_path / "b.png", np.ones((4, 1)))
    assert "0%" in axes[0].get_xlabel()


def test_two_latents_are_shown_directly_in_the_order_of_the_examples(tmp_path, axes):
    codes, labels = codes_of(90, 2), np.arange(90) % 3 * 5
    latent_map.save_latent_map(tmp_path / "a.png", codes, labels)
    assert_png(tmp_path / "a.png")
    (drawn,) = axes
    points = drawn.collections[0]
    np.testing.assert_allclose(points.get_offsets(), codes)
    colors = points.get_facecolors()
    assert len(np.unique(colors, axis=0)) == 3
    np.testing.assert_array_equal(colors[0], colors[3])
    assert (drawn.get_xlabel(), drawn.get_ylabel()) == ("z₁", "z₂")
    assert legend_of(drawn.figure) == ["0", "5", "10"]
    medians = {text.get_text(): text.get_position() for text in drawn.texts}
    np.testing.assert_allclose(medians["5"], np.median(codes[labels == 5], axis=0), rtol=1e-5)
    assert drawn.get_title() == "Posterior means of 90 examples"


def test_examples_without_a_label_are_grey(tmp_path, axes):
    codes, known = codes_of(30, 2), np.arange(30) < 20
    latent_map.save_latent_map(tmp_path / "a.png", codes, np.arange(30) % 2, known=known)
    grey, others = axes[0].collections[:2]
    np.testing.assert_allclose(grey.get_offsets(), codes[20:])
    np.testing.assert_allclose(others.get_offsets(), codes[:20])
    assert set(legend_of(axes[0].figure)) == {"no label", "0", "1"}
    latent_map.save_latent_map(tmp_path / "b.png", codes, np.arange(30) % 2, known=np.zeros(30, bool))
    assert not axes[1].figure.legends


@pytest.mark.parametrize("dimensions", [1, 2, 50])
@pytest.mark.parametrize("classes", [None, 2, 15, 30, 100])
def test_any_number_of_latents_and_classes_has_a_map(tmp_path, axes, dimensions, classes):
    labels = None if classes is None else np.arange(300) % classes
    latent_map.save_latent_map(tmp_path / "a.png", codes_of(300, dimensions), labels)
    names = {1: "z₁", 2: "z₁", 50: "principal component 1"}
    assert axes[0].get_xlabel().startswith(names[dimensions])
    in_legend = classes if classes is not None and classes <= latent_map.MAX_CLASSES else 0
    assert len(legend_of(axes[0].figure)) == in_legend if in_legend else not axes[0].figure.legends
    if classes == 100:  # numbers: a colour bar, or an axis
        assert "label" in {axes[-1].get_ylabel(), axes[0].get_ylabel()}
    if in_legend and dimensions > 1:
        assert len(np.unique(axes[0].collections[0].get_facecolors(), axis=0)) == classes


def test_the_histogram_of_one_latent_has_a_part_for_each_label(tmp_path, axes):
    z, labels = codes_of(100, 1), np.arange(100) % 3
    latent_map.save_latent_map(tmp_path / "a.png", z, labels, known=labels != 2)
    parts = [sum(patch.get_height() for patch in part) for part in axes[0].containers]
    assert [round(height) for height in parts] == [34, 33, 33]
    assert legend_of(axes[0].figure) == ["0", "1", "no label"]


def test_codes_that_are_not_finite_are_skipped(tmp_path, axes):
    codes = codes_of(10, 3)
    codes[0] = np.nan
    latent_map.save_latent_map(tmp_path / "a.png", codes, np.arange(10))
    assert axes[0].get_title() == "Posterior means of 9 examples"
    latent_map.save_latent_map(tmp_path / "b.png", np.full((3, 2), np.inf), np.arange(3))
    assert axes[1].get_title() == "Posterior means of 0 examples"
