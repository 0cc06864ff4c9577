"""Figures of counts, checked on their axes."""

import numpy as np
import pytest
from drawn_figures import assert_png, legend_of, record_axes

from vae_jax.runs.figures import count_plots


@pytest.fixture
def axes(monkeypatch):
    return record_axes(monkeypatch)


def simulated(dimensions=7):
    rng = np.random.default_rng(0)
    mean = np.exp(rng.normal(1, 1, dimensions))
    return {"data": rng.poisson(mean, (400, dimensions)), "samples": rng.poisson(2 * mean, (300, dimensions))}


def test_each_dimension_is_a_point_of_its_mean_and_variance(tmp_path, axes):
    samples = simulated()
    count_plots.save_mean_variance(tmp_path / "a.png", samples)
    assert_png(tmp_path / "a.png")
    (drawn,) = axes
    assert (drawn.get_xscale(), drawn.get_yscale()) == ("log", "log")
    assert (drawn.get_xlabel(), drawn.get_ylabel()) == ("mean, counts", "variance, counts²")
    for points, x in zip(drawn.collections, samples.values(), strict=True):
        np.testing.assert_allclose(points.get_offsets(), np.stack([x.mean(0), x.var(0)], axis=1))
    (poisson,) = drawn.lines
    np.testing.assert_array_equal(poisson.get_xdata(), poisson.get_ydata())
    assert legend_of(drawn) == ["data", "samples", "Poisson: variance = mean"]


def test_constant_dimensions_are_counted_in_the_legend(tmp_path, axes):
    samples = simulated()
    samples["data"][:, :2] = 0
    samples["data"][:, 2] = 5
    count_plots.save_mean_variance(tmp_path / "a.png", samples)
    assert len(axes[0].collections[0].get_offsets()) == 4
    assert legend_of(axes[0])[0] == "data (3 of 7 dimensions constant, not shown)"
    count_plots.save_mean_variance(tmp_path / "b.png", {"data": np.zeros((5, 3)), "samples": np.zeros((5, 3))})
    assert axes[1].get_xscale() == "linear"  # there is nothing to show


def test_fractions_of_zeros_of_the_samples_are_plotted_against_those_of_the_data(tmp_path, axes):
    samples = simulated() | {"more": np.zeros((10, 7))}
    count_plots.save_zero_fractions(tmp_path / "a.png", samples)
    (drawn,) = axes
    in_data = (samples["data"] == 0).mean(axis=0)
    for points, name in zip(drawn.collections, ("samples", "more"), strict=True):
        np.testing.assert_allclose(points.get_offsets(), np.stack([in_data, (samples[name] == 0).mean(0)], axis=1))
    assert legend_of(drawn) == ["samples", "more", "equal fractions"]
    assert "7 dimensions" in drawn.get_title()


def test_a_single_dimension_has_figures(tmp_path, axes):
    count_plots.save_mean_variance(tmp_path / "a.png", simulated(1))
    count_plots.save_zero_fractions(tmp_path / "b.png", simulated(1))
    assert all("the one dimension" in drawn.get_title() for drawn in axes)
