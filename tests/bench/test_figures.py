"""The figure of a benchmark."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from vae_jax.bench import figures


@pytest.mark.parametrize(
    ("positions", "expected"),
    [
        ([0.5, 0.2, 0.8], [0.5, 0.2, 0.8]),
        ([0.5, 0.5, 0.5], [0.4, 0.5, 0.6]),
        ([0.99, 1.0, 0.1], [0.9, 1.0, 0.1]),
        ([0.02, 0.0, 0.01], [0.2, 0.0, 0.1]),
    ],
)
def test_labels_do_not_overlap(positions, expected):
    np.testing.assert_allclose(figures.spread_labels(np.array(positions), spacing=0.1), expected, atol=1e-12)


def test_a_row_of_several_devices_is_drawn_for_one_device():
    """Eight devices, each at six tenths of its rate and with separate traffic, are one point under the roof of one."""
    rates = {"float32": 1e12, "bfloat16": 2e12, "bandwidth": 1e10}
    row = {
        "row": "devices-8", "flops": 8e9, "traffic_bytes": 1e7, "effective_devices": 8,
        "seconds_per_step": {"median": 1e9 / (0.6 * 1e12)},
    }  # fmt: skip
    axes = Figure().add_subplot()
    figures._draw_roofline(axes, [row], rates)
    (points,) = [line for line in axes.lines if line.get_marker() == "o"]
    np.testing.assert_allclose(points.get_xdata(), 100)
    np.testing.assert_allclose(points.get_ydata(), 600)
