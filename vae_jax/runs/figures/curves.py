"""PNG figures of numbers: the metrics of a run against the step, and the rate-distortion plane of a sweep."""

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vae_jax.runs.figures.figure_files import new_figure, plain_text, write_figure

_PANELS = {  # metric: (title, unit, scale of the y axis)
    "bound": ("Bound on log p(x)", "nats per example", "robust"),
    "reconstruction": ("Reconstruction, E log p(x|z)", "nats per example", "robust"),
    "kl": ("KL(q(z|x) ‖ p(z))", "nats per example", "robust"),
    "grad_norm": ("Norm of the gradient", "norm", "log"),
    "learning_rate": ("Learning rate", "learning rate", "linear"),
}


class Panel(NamedTuple):
    """The curves of one metric.

    Attributes:
      name: the metric, such as "bound".
      title: for people.
      unit: of the values.
      scale: "robust": `limits` ignore rare values; "log"; or "linear".
      series: {"training" or "validation": [N, 2]}, the step and the value, in order of the steps.
      limits: of the y axis with the scale "robust"; None for all values.
    """

    name: str
    title: str
    unit: str
    scale: str
    series: dict[str, np.ndarray]
    limits: tuple[float, float] | None


def metric_panels(rows: Iterable[Mapping[str, Any]]) -> list[Panel]:
    """Return the curves of the metrics of a run; values that are missing, None or not finite are skipped.

    A metric `validation_NAME` is a curve in the panel of NAME.

    Args:
      rows: the rows of `metrics.jsonl`.

    Returns:
      The panels of the metrics that the rows contain.
    """
    rows, panels = list(rows), []
    for name, (title, unit, scale) in _PANELS.items():
        found = {"training": _series(rows, name), "validation": _series(rows, f"validation_{name}")}
        series = {label: points for label, points in found.items() if len(points)}
        if scale == "log" and any(points[:, 1].min() <= 0 for points in series.values()):
            scale = "linear"  # zero has no logarithm
        if series:
            limits = _limits(list(series.values())) if scale == "robust" else None
            panels.append(Panel(name, title, unit, scale, series, limits))
    return panels


def _series(rows: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    """Return the finite values of one metric in order of their steps, `[N, 2]`: step, value."""
    points = [(row["step"], row[name]) for row in rows if isinstance(row.get(name), int | float)]
    points = sorted(point for point in points if math.isfinite(point[1]))
    return np.array(points, float).reshape(-1, 2)


def _limits(curves: Sequence[np.ndarray]) -> tuple[float, float]:
    """Return limits of the y axis that ignore the first twentieth of the steps and rare spikes."""
    points = np.concatenate(curves)
    first, last = points[:, 0].min(), points[:, 0].max()
    settled = points[points[:, 0] >= first + 0.05 * (last - first), 1]
    low, high = np.quantile(settled, [0.01, 0.99])
    margin = 0.15 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin


def save_curves(path: str | os.PathLike, rows: Iterable[Mapping[str, Any]], *, title: str = "") -> None:
    """Plot the metrics of a run against its steps, one of the `metric_panels` for each metric in `rows`.

    Args:
      path: the PNG file to write.
      rows: the rows of `metrics.jsonl`.
      title: title of the figure.

    Raises:
      StorageError: the file cannot be written.
    """
    from matplotlib.ticker import MaxNLocator

    panels = metric_panels(rows) or [Panel("bound", *_PANELS["bound"], series={}, limits=None)]
    num_columns = 1 if len(panels) == 1 else 2
    num_rows = math.ceil(len(panels) / num_columns)
    figure = new_figure(6 * num_columns, 3.6 * num_rows)
    if title:
        figure.suptitle(plain_text(title))
    for index, panel in enumerate(panels):
        axes = figure.add_subplot(num_rows, num_columns, index + 1)
        for label, points in panel.series.items():
            marker = "o" if len(points) < 30 else ""
            color = "C0" if label == "training" else "C1"
            axes.plot(*points.T, marker=marker, markersize=4, linewidth=1.3, label=label, color=color)
        axes.set(title=panel.title, xlabel="step", ylabel=panel.unit)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.grid(alpha=0.3)
        if panel.limits is not None:
            axes.legend()
            axes.set_ylim(panel.limits)
        elif panel.series and panel.scale == "log":
            axes.set_yscale("log")
    write_figure(path, figure)


def save_rate_distortion(path: str | os.PathLike, summary: Sequence[Mapping[str, Any]]) -> None:
    """Plot a sweep as rate (KL) against distortion (-E log p(x|z)), one point for each setting.

    Along each dashed line -ELBO, the sum of the two, is constant. Settings without a KL are skipped. See Alemi et al.,
    "Fixing a Broken ELBO", arXiv 1711.00464.

    Args:
      path: the PNG file to write.
      summary: the summary of `summarize`: means in nats, and standard deviations where a setting has several seeds.

    Raises:
      StorageError: the file cannot be written.
    """
    figure = new_figure(6.4, 4.8)
    axes = figure.add_subplot()
    rows = [row for row in summary if "kl" in row and "reconstruction" in row]
    points = np.array([(row["kl"]["mean"], -row["reconstruction"]["mean"]) for row in rows]).reshape(-1, 2)
    for row, (rate, distortion) in zip(rows, points, strict=True):
        label = ", ".join(f"{path.rpartition('.')[2]} {value}" for path, value in row["varied"].items()) or "all"
        errors = {"xerr": row["kl"]["sd"], "yerr": row["reconstruction"]["sd"]}
        axes.errorbar(
            rate, distortion, **errors, marker="o", markersize=5, capsize=3, linestyle="", label=plain_text(label)
        )
    if len(points):
        order = points[np.argsort(points[:, 0])]
        axes.plot(*order.T, color="0.8", zorder=0)
        axes.margins(0.15)
        (left, right), limits = axes.get_xlim(), axes.get_ylim()
        for total in np.linspace(points.sum(axis=1).min(), points.sum(axis=1).max(), 4):
            axes.plot([left, right], [total - left, total - right], "--", color="0.7", linewidth=0.8, zorder=0)
        axes.set_xlim(left, right)
        axes.set_ylim(limits)
        axes.legend(fontsize=8)
    axes.set(title="Rate and distortion", xlabel="KL(q(z|x) ‖ p(z)), nats", ylabel="-E log p(x|z), nats")
    axes.grid(alpha=0.3)
    write_figure(path, figure)
