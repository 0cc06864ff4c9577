"""vae_jax/report/charts.py: positions of points and ticks, against the numbers that they show."""

import re

import numpy as np
import pytest

from vae_jax.report import charts


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 10, [0, 2, 4, 6, 8, 10]),
        (-24.4, -22.4, [-24, -23.5, -23, -22.5]),
        (0.0, 0.002, [0, 0.0005, 0.001, 0.0015, 0.002]),
        (3, 3, [3]),
    ],
)
def test_ticks_are_round_numbers_inside_of_the_axis(low, high, expected):
    assert charts.ticks(low, high) == pytest.approx(expected)


def points_of(svg, index=0):
    """Return the points of curve `index`, [N, 2]."""
    text = re.search(rf'<polyline points="([^"]*)" class="curve line-{index}"/>', svg)[1]
    return np.array([pair.split(",") for pair in text.split()], float)


def test_a_point_is_where_its_number_is():
    svg = charts.line_chart({"a": np.array([[0, 0.0], [50, 1.0], [100, 4.0]])}, title="T", unit="nats", limits=(0, 4))
    left, right = charts.LEFT, charts.WIDTH - charts.RIGHT
    top, bottom = charts.TOP, charts.HEIGHT - charts.BOTTOM
    expected = [[left, bottom], [(left + right) / 2, bottom - (bottom - top) / 4], [right, top]]
    np.testing.assert_allclose(points_of(svg), expected, atol=0.06)
    texts = re.findall(r">([^<]+)</text>", svg)
    assert texts == ["0", "1", "2", "3", "4", "0", "20", "40", "60", "80", "100"]
    assert "<b>4</b>" in svg  # the last value, in the legend


def test_a_logarithmic_axis():
    svg = charts.line_chart({"a": np.array([[1, 0.1], [2, 10.0], [3, 1000.0]])}, title="T", unit="", log=True)
    heights = points_of(svg)[:, 1]
    assert heights[0] - heights[1] == pytest.approx(heights[1] - heights[2], abs=0.11)
    assert re.findall(r">([^<]+)</text>", svg)[:5] == ["0.1", "1", "10", "100", "1,000"]
    near = charts.line_chart({"a": np.array([[1, 5.0], [2, 6.0]])}, title="T", unit="", log=True)
    assert re.findall(r">([^<]+)</text>", near)[:3] == ["5", "5.5", "6"]


def test_values_outside_of_the_limits_stay_inside_of_the_chart():
    svg = charts.line_chart({"a": np.array([[0, -50.0], [1, 2.0]])}, title="T", unit="", limits=(0, 4))
    assert points_of(svg)[0, 1] == charts.HEIGHT - charts.BOTTOM


@pytest.mark.parametrize("points", [[[7, 3.0]], [[0, 3.0], [1, 3.0]], [[0, 0.0], [1, 0.0]]])
def test_one_point_and_constant_values_have_a_chart(points):
    svg = charts.line_chart({"a": np.array(points)}, title="T", unit="")
    assert np.isfinite(points_of(svg)).all()
    assert svg.count("<circle") == len(points)


def test_many_points_are_thinned_out_and_the_ends_stay():
    points = np.column_stack([np.arange(5000.0), np.arange(5000.0)])
    thin = charts.thin_out(points)
    assert len(thin) == charts.MAX_POINTS
    assert thin[[0, -1]].tolist() == points[[0, -1]].tolist()
    svg = charts.line_chart({"a": points, "<b>": points}, title="T<", unit="", limits=None)
    assert "<b></b>" not in svg
    assert "&lt;b&gt;" in svg
    assert "T&lt;" in svg
    assert len(points_of(svg, 1)) == charts.MAX_POINTS
    assert "<circle" not in svg
