"""bench.figures."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vae_jax.runtime import atomic_files


def draw_benchmark(path: Path, report: Mapping[str, Any]) -> None:
    """A PNG of a benchmark: each row's time per image against the baseline's, and the rows under the roofline."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = report["rows"]
    figure = Figure(figsize=(12, max(3.6, 1.2 + 0.28 * len(rows))), dpi=110, layout="constrained")
    _draw_ratios(figure.add_subplot(1, 2, 1), rows, report["baseline"])
    _draw_roofline(figure.add_subplot(1, 2, 2), rows, report["machine"]["rates"])
    png = io.BytesIO()
    FigureCanvasAgg(figure).print_png(png)
    atomic_files.write_file(path, lambda file: file.write(png.getvalue()))


def _draw_ratios(axes: Any, rows: Sequence[Mapping[str, Any]], baseline: str) -> None:
    for place, row in enumerate(rows):
        found = row["ratio_per_image"]
        axes.barh(place, found["median"], color="C1" if row["row"] == baseline else "C0", height=0.7)
        if found["low"] is not None:
            axes.plot([found["low"], found["high"]], [place, place], color="black", linewidth=1.5)
        expected = row["work_ratio"] * rows[0]["batch_size"] / row["batch_size"]
        axes.plot(expected, place, "D", color="white", markeredgecolor="black", markersize=4)
    axes.axvline(1, color="0.4", linewidth=0.8)
    if max(row["ratio_per_image"]["median"] for row in rows) > 10:
        axes.set_xscale("log")
    axes.set_yticks(range(len(rows)), [row["row"] for row in rows])
    axes.invert_yaxis()
    axes.set(
        title="Time for an image", xlabel=f"of {baseline}; lines: 95 % intervals; diamonds: by its matrix products"
    )


def _draw_roofline(axes: Any, rows: Sequence[Mapping[str, Any]], rates: Mapping[str, float]) -> None:
    """Work per byte of unavoidable traffic, and work per second, under what the machine was measured to do."""
    flops = np.array([row["flops"] / row["devices_that_add_up"] for row in rows])  # of one device, as its roof is
    intensity = flops / [row["traffic_bytes"] for row in rows]
    reached = flops / [row["seconds_per_step"]["median"] for row in rows]
    ridges = [rates[name] / rates["bandwidth"] for name in ("float32", "bfloat16")]
    x = np.geomspace(min(*intensity, *ridges) / 4, max(*intensity, *ridges) * 4, 200)
    for name, color in (("float32", "C0"), ("bfloat16", "C2")):
        axes.loglog(x, np.minimum(rates[name], rates["bandwidth"] * x) / 1e9, color=color, label=f"roof, {name}")
    axes.loglog(intensity, reached / 1e9, "o", color="C3", markersize=4)
    _name_points(axes, [row["row"] for row in rows], intensity, reached / 1e9)
    axes.set(title="Roofline", xlabel="FLOP for each byte of least traffic", ylabel="GFLOP/s of a device")
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)


def _name_points(axes: Any, names: Sequence[str], x: np.ndarray, y: np.ndarray) -> None:
    """The names in a column beside the axes, in the order of height, each with a line to its point."""
    low, high = np.log(axes.get_ylim())
    line = 9 / 72 / (axes.figure.get_figheight() - 1)  # 9 points, in heights of the axes
    places = spread_labels((np.log(y) - low) / (high - low), least=min(line, 1 / len(names)))
    for name, across, height, place in zip(names, x, y, places, strict=True):
        axes.annotate(
            name, (across, height), xytext=(1.03, place), textcoords="axes fraction", va="center", fontsize=7,
            arrowprops={"arrowstyle": "-", "color": "0.6", "linewidth": 0.5, "shrinkA": 0, "shrinkB": 2},
        )  # fmt: skip


def spread_labels(places: np.ndarray, *, least: float) -> np.ndarray:
    """The places in [0, 1] that are nearest to `places`, by squares, among those in their order and `least` apart."""
    from sklearn.isotonic import isotonic_regression

    order = np.argsort(places, kind="stable")
    steps = least * np.arange(len(places))  # without these, to be apart is to rise
    found = np.empty(len(places))
    found[order] = steps + isotonic_regression(np.asarray(places, float)[order] - steps, y_min=0, y_max=1 - steps[-1])
    return found
