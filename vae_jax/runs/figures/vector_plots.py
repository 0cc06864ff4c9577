"""PNG figures of vectors: marginal histograms and pairs of dimensions, of the data and of the samples of a model."""

import itertools
import math
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from vae_jax.runs.figures.figure_files import axis_limits, new_figure, write_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_MARGINALS = 12  # dimensions with a histogram
MAX_PAIRED = 3  # dimensions whose pairs are shown
_MAX_INTEGERS = 60  # integers in a smaller range have a bin each

Samples = Mapping[str, np.ndarray]  # name -> examples [N, D]; the first are the data


def save_marginals(path: str | os.PathLike, samples: Samples) -> None:
    """Save a histogram of each of the first `MAX_MARGINALS` dimensions, on an axis that covers 99 % of the numbers.

    Integers in a small range have a bin each.

    Args:
      path: the PNG file to write.
      samples: {name: examples [N, D]}, the data first.

    Raises:
      StorageError: the file cannot be written.
    """
    dimensions = next(iter(samples.values())).shape[1]
    count = min(dimensions, MAX_MARGINALS)
    columns = min(count, 4)
    rows = math.ceil(count / columns)
    figure = new_figure(max(3.1 * columns, 5), 2.6 * rows + 0.9)
    figure.suptitle(f"Marginal distributions of {_which(count, dimensions)}")
    for dimension in range(count):
        axes = figure.add_subplot(rows, columns, dimension + 1)
        _draw_histogram(axes, {label: x[:, dimension] for label, x in samples.items()})
        axes.set(xlabel=f"x{dimension + 1}", ylabel="density" if dimension % columns == 0 else "")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=9)
    write_figure(path, figure)


def save_pairs(path: str | os.PathLike, samples: Samples) -> None:
    """Save scatter plots of the pairs of the first `MAX_PAIRED` dimensions: a row for each set of examples.

    Points of integers are spread by up to ±0.3, because they would hide each other.

    Args:
      path: the PNG file to write.
      samples: {name: examples [N, D]} with D of at least 2, the data first.

    Raises:
      StorageError: the file cannot be written.
    """
    dimensions = next(iter(samples.values())).shape[1]
    count = min(dimensions, MAX_PAIRED)
    pairs = list(itertools.combinations(range(count), 2))
    rows, columns = (1, len(samples)) if len(pairs) == 1 else (len(samples), len(pairs))
    figure = new_figure(3.2 * columns + 0.3, 3.1 * rows + 0.5)
    integers = _are_integers(next(iter(samples.values()))[:, :count])
    note = " (integers, spread by up to ±0.3)" if integers else ""
    figure.suptitle(f"Pairs of {_which(count, dimensions)}{note}")
    rng = np.random.default_rng(0)
    limits = [axis_limits([x[:, d] for x in samples.values()]) for d in range(count)]
    for index, ((label, x), (i, j)) in enumerate(itertools.product(samples.items(), pairs)):
        axes = figure.add_subplot(rows, columns, index + 1)
        size = min(max(6000 / len(x), 2), 20)
        row = index // len(pairs)
        color = f"C{row - 1}" if row else "0.45"
        points = x[:, [i, j]] + (rng.uniform(-0.3, 0.3, (len(x), 2)) if integers else 0)
        axes.scatter(*points.T, s=size, color=color, alpha=0.6, linewidths=0)
        axes.set(title=f"{label} ({len(x)})", xlabel=f"x{i + 1}", ylabel=f"x{j + 1}")
        axes.set(xlim=limits[i], ylim=limits[j])
        axes.grid(alpha=0.3)
    write_figure(path, figure)


def _which(count: int, dimensions: int) -> str:
    if count < dimensions:
        return f"the first {count} of {dimensions} dimensions"
    return "the one dimension" if count == 1 else f"the {count} dimensions"


def _are_integers(x: np.ndarray) -> bool:
    return bool((x == np.rint(x)).all())


def _draw_histogram(axes: "Axes", columns: dict[str, np.ndarray]) -> None:
    low, high = axis_limits(list(columns.values()))
    data = next(iter(columns.values()))
    if high - low < _MAX_INTEGERS and _are_integers(data):
        bins = np.arange(math.ceil(low), math.floor(high) + 2) - 0.5
    else:
        bins = np.linspace(low, high, min(max(int(2 * math.sqrt(len(data))), 10), 40) + 1)
    for index, (label, column) in enumerate(columns.items()):
        inside, _ = np.histogram(column[np.isfinite(column)], bins)
        density = inside / (len(column) * np.diff(bins))
        style: dict[str, Any] = {"color": f"C{index - 1}", "linewidth": 1.5} if index else {"color": "0.8"}
        axes.stairs(density, bins, label=label, fill=index == 0, **style)
    axes.set_xlim(bins[0], bins[-1])
    axes.grid(alpha=0.3)
