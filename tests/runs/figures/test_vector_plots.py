"""Figures of vectors, checked on their axes."""

import numpy as np
import pytest
from drawn_figures import assert_png, legend_of, record_axes

from vae_jax.runs.figures import vector_plots


@pytest.fixture
def axes(monkeypatch):
    return record_axes(monkeypatch)


def simulated(dimensions):
    rng = np.random.default_rng(0)
    return {"data": rng.normal(size=(500, dimensions)), "samples": 1 + rng.normal(size=(400, dimensions))}


@pytest.mark.parametrize(("dimensions", "panels", "title"), [
    (1, 1, "the one dimension"), (5, 5, "the 5 dimensions"), (50, 12, "the first 12 of 50 dimensions"),
])  # fmt: skip
def test_marginals_are_densities_of_the_first_dimensions(tmp_path, axes, dimensions, panels, title):
    samples = simulated(dimensions)
    vector_plots.save_marginals(tmp_path / "a.png", samples)
    assert_png(tmp_path / "a.png")
    assert len(axes) == panels
    assert axes[0].figure.get_suptitle() == f"Marginal distributions of {title}"
    assert legend_of(axes[0].figure) == ["data", "samples"]
    for dimension, drawn in enumerate(axes):
        assert drawn.get_xlabel() == f"x{dimension + 1}"
        for patch, x in zip(drawn.patches, samples.values(), strict=True):
            density, edges, _ = patch.get_data()
            share = (density * np.diff(edges)).sum()
            inside = (x[:, dimension] >= edges[0]) & (x[:, dimension] <= edges[-1])
            assert share == pytest.approx(inside.mean())
            assert share > 0.98


def test_integers_have_a_bin_each(tmp_path, axes):
    x = np.array([[0.0], [1], [1], [3]])
    vector_plots.save_marginals(tmp_path / "a.png", {"data": x, "samples": x})
    density, edges, _ = axes[0].patches[0].get_data()
    np.testing.assert_allclose(edges, [-0.5, 0.5, 1.5, 2.5, 3.5])
    np.testing.assert_allclose(density, [0.25, 0.5, 0, 0.25])
    vector_plots.save_marginals(tmp_path / "b.png", {"data": 1000 * x, "samples": x})
    assert len(axes[1].patches[0].get_data()[0]) == 10


def test_numbers_that_are_constant_or_not_finite_have_a_figure(tmp_path, axes):
    constant = np.full((20, 2), 0.25)
    broken = np.full((20, 2), np.nan)
    vector_plots.save_marginals(tmp_path / "a.png", {"data": constant, "samples": broken})
    vector_plots.save_pairs(tmp_path / "b.png", {"data": constant, "samples": broken})
    low, high = axes[0].get_xlim()
    assert low < 0.25 < high


def test_a_row_of_pairs_for_each_set_of_examples_with_equal_limits(tmp_path, axes):
    samples = simulated(4)
    vector_plots.save_pairs(tmp_path / "a.png", samples)
    assert len(axes) == 6  # three pairs of the first three dimensions
    assert axes[0].figure.get_suptitle() == "Pairs of the first 3 of 4 dimensions"
    labels = [(drawn.get_xlabel(), drawn.get_ylabel()) for drawn in axes]
    assert labels == [("x1", "x2"), ("x1", "x3"), ("x2", "x3")] * 2
    assert [drawn.get_title() for drawn in axes] == ["data (500)"] * 3 + ["samples (400)"] * 3
    np.testing.assert_allclose(axes[4].collections[0].get_offsets(), samples["samples"][:, [0, 2]])
    for above, below in zip(axes[:3], axes[3:], strict=True):
        assert (above.get_xlim(), above.get_ylim()) == (below.get_xlim(), below.get_ylim())


def test_pairs_of_integers_are_spread(tmp_path, axes):
    x = np.random.default_rng(0).integers(0, 4, (50, 2))
    vector_plots.save_pairs(tmp_path / "a.png", {"data": x, "samples": x})
    assert len(axes) == 2  # side by side
    points = np.asarray(axes[0].collections[0].get_offsets())
    np.testing.assert_array_equal(np.rint(points), x)
    assert np.abs(points - x).max() > 0.1
    assert "spread by up to ±0.3" in axes[0].figure.get_suptitle()
