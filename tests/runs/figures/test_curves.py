"""Curves of metrics and the rate-distortion figure, checked on their axes and PNG files."""

import math

import numpy as np
import pytest
from drawn_figures import record_axes
from PIL import Image

from vae_jax.runs.figures import curves


def read_png(path):
    return np.asarray(Image.open(path))


def metric_rows():
    rows = [
        {
            "step": s,
            "bound": -100 - 50_000 / s,
            "reconstruction": -80.0,
            "kl": 20 + 900 / s,
            "grad_norm": 1e3 / s,
        }
        for s in range(10, 10_001, 10)
    ]
    rows[500]["bound"] = None
    rows[501]["kl"] = math.nan
    rows[502]["bound"] = -1e9
    return [*rows, *({"step": s, "validation_bound": -105.0 - s / 1e4} for s in (5000, 10_000))]


@pytest.fixture
def drawn_axes(monkeypatch):
    """Axes of every figure that is drawn."""
    return record_axes(monkeypatch)


def test_the_limits_of_the_curves_fit_the_end_of_training(tmp_path, drawn_axes):
    curves.save_curves(tmp_path / "figures" / "c.png", metric_rows(), title="run")
    bound, reconstruction, kl, grad_norm = drawn_axes
    assert [axes.get_ylabel() for axes in (bound, reconstruction, kl)] == ["nats per example"] * 3
    assert all(axes.get_xlabel() == "step" for axes in drawn_axes)
    assert [text.get_text() for text in bound.get_legend().get_texts()] == ["training", "validation"]
    training, validation = bound.lines
    assert len(training.get_xdata()) == 999
    assert validation.get_ydata().tolist() == [-105.5, -106.0]
    low, high = bound.get_ylim()
    assert -300 < low < -150 < -105 < high < -80
    assert kl.get_ylim()[1] < 25
    assert grad_norm.get_yscale() == "log"
    assert read_png(tmp_path / "figures" / "c.png").shape[2] == 4


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [{"step": 1, "bound": math.nan, "kl": None}],
        [{"step": 100, "bound": -120.1, "reconstruction": -100.2, "kl": 0.0, "grad_norm": 0.0}],
        [{"step": 5, "validation_bound": -3.0}],
    ],
)
def test_curves_of_few_rows(tmp_path, drawn_axes, rows):
    curves.save_curves(tmp_path / "c.png", rows)
    assert read_png(tmp_path / "c.png").size
    for axes in drawn_axes:
        for line in axes.lines:
            assert line.get_marker() == "o"
            assert axes.get_ylim()[0] < line.get_ydata()[0] < axes.get_ylim()[1]


def test_curves_are_the_same_bytes_twice(tmp_path):
    for name in ("a", "b"):
        curves.save_curves(tmp_path / f"{name}.png", metric_rows())
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_the_rate_distortion_figure_has_a_point_for_each_setting_with_a_kl(tmp_path, drawn_axes):
    def row(beta, **numbers):
        return {"varied": {"objective.beta": beta}} | {n: {"mean": v, "sd": 0.5} for n, v in numbers.items()}

    path = tmp_path / "figure.png"
    curves.save_rate_distortion(path, [row(1.0, kl=20.0, reconstruction=-70.0), row(2.0, elbo=-3.0)])
    with Image.open(path) as image:
        assert image.format == "PNG"
    (axes,) = drawn_axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["beta 1.0"]
    curves.save_rate_distortion(path, [row(2.0, elbo=-3.0)])
