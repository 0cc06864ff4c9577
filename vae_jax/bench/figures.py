"""The figure of a benchmark: time of each row, and the roofline."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vae_jax.runtime import atomic_files

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_benchmark(path: Path, report: Mapping[str, Any]) -> None:
    """Draw a benchmark as PNG: the time per example of each row relative to the baseline, and a roofline plot.

    Args:
      path: The file to write.
      report: The report of `run_benchmark`.

    Raises:
      StorageError: If the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = report["rows"]
    figure = Figure(figsize=(12, max(3.6, 1.2 + 0.28 * len(rows))), dpi=110, layout="constrained")
    _draw_ratios(figure.add_subplot(1, 2, 1), rows, report["baseline"])
    _draw_roofline(figure.add_subplot(1, 2, 2), rows, report["machine"]["rates"])
    png = io.BytesIO()
    FigureCanvasAgg(figure).print_png(png)
    atomic_files.write_file(path, lambda file: file.write(png.getvalue()))


def _draw_ratios(axes: "Axes", rows: Sequence[Mapping[str, Any]], baseline: str) -> None:
    for y, row in enumerate(rows):
        ratio = row["ratio_per_example"]
        axes.barh(y, ratio["median"], color="C1" if row["row"] == baseline else "C0", height=0.7)
        if ratio["low"] is not None:
            axes.plot([ratio["low"], ratio["high"]], [y, y], color="black", linewidth=1.5)
        expected = row["work_ratio"] * rows[0]["batch_size"] / row["batch_size"]
        axes.plot(expected, y, "D", color="white", markeredgecolor="black", markersize=4)
    axes.axvline(1, color="0.4", linewidth=0.8)
    if max(row["ratio_per_example"]["median"] for row in rows) > 10:
        axes.set_xscale("log")
    axes.set_yticks(range(len(rows)), [row["row"] for row in rows])
    axes.invert_yaxis()
    label = f"relative to {baseline}; lines: 95 % intervals; diamonds: ratio of the FLOPs in matrix products"
    axes.set(title="Time per example", xlabel=label)


def _draw_roofline(axes: "Axes", rows: Sequence[Mapping[str, Any]], rates: Mapping[str, float]) -> None:
    """Draw FLOP/s against arithmetic intensity, under the roofs of the machine's measured rates.

    The intensity is the FLOPs for each byte of the lower bound on memory traffic. All numbers are for one device.
    """
    flops = np.array([row["flops"] / row["effective_devices"] for row in rows])
    intensity = flops / [row["traffic_bytes"] for row in rows]
    reached = flops / [row["seconds_per_step"]["median"] for row in rows]
    ridges = [rates[name] / rates["bandwidth"] for name in ("float32", "bfloat16")]
    x = np.geomspace(min(*intensity, *ridges) / 4, max(*intensity, *ridges) * 4, 200)
    for name, color in (("float32", "C0"), ("bfloat16", "C2")):
        axes.loglog(x, np.minimum(rates[name], rates["bandwidth"] * x) / 1e9, color=color, label=f"roof, {name}")
    axes.loglog(intensity, reached / 1e9, "o", color="C3", markersize=4)
    _label_points(axes, [row["row"] for row in rows], intensity, reached / 1e9)
    axes.set(title="Roofline", xlabel="arithmetic intensity, FLOP/byte", ylabel="GFLOP/s per device")
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)


def _label_points(axes: "Axes", names: Sequence[str], x: np.ndarray, y: np.ndarray) -> None:
    """Write the names in a column to the right of the axes, sorted by height, each with a line to its point."""
    low, high = np.log(axes.get_ylim())
    inches = axes.figure.bbox.height / axes.figure.dpi
    line_height = 9 / 72 / (inches - 1)  # 9 points, as a fraction of the axes
    heights = spread_labels((np.log(y) - low) / (high - low), spacing=min(line_height, 1 / len(names)))
    for name, point_x, point_y, height in zip(names, x, y, heights, strict=True):
        axes.annotate(
            name, (point_x, point_y), xytext=(1.03, height), textcoords="axes fraction", va="center", fontsize=7,
            arrowprops={"arrowstyle": "-", "color": "0.6", "linewidth": 0.5, "shrinkA": 0, "shrinkB": 2},
        )  # fmt: skip


def spread_labels(positions: np.ndarray, *, spacing: float) -> np.ndarray:
    """Return the positions in [0, 1] nearest to the given ones, in the same order and at least `spacing` apart.

    Args:
      positions: The preferred positions, [n].
      spacing: The minimum distance, at most 1 / (n - 1).

    Returns:
      The positions that minimize the sum of squared distances, [n], by isotonic regression.
    """
    from sklearn.isotonic import isotonic_regression

    order = np.argsort(positions, kind="stable")
    offsets = spacing * np.arange(len(positions))  # After subtraction of these, the constraint is monotonicity.
    result = np.empty(len(positions))
    preferred = np.asarray(positions, float)[order] - offsets
    result[order] = offsets + isotonic_regression(preferred, y_min=0, y_max=1 - offsets[-1])
    return result
