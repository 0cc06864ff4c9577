"""PNG figures of counts: what the data and the samples of a model have in common, one point for each dimension."""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from vae_jax.runs.figures.figure_files import new_figure, write_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Samples = Mapping[str, np.ndarray]  # name -> examples [N, D]; the first are the data


def save_mean_variance(path: str | os.PathLike, samples: Samples) -> None:
    """Save the variance of each dimension against its mean, on logarithmic axes.

    A Poisson distribution has the variance of the mean; counts with more variance are overdispersed. Dimensions that
    are the same number in all examples have no variance to show; the legend counts them.

    Args:
      path: the PNG file to write.
      samples: {name: counts [N, D]}, the data first.

    Raises:
      StorageError: the file cannot be written.
    """
    figure = new_figure(6.4, 5.2)
    axes = figure.add_subplot()
    shown = []
    for index, (name, x) in enumerate(samples.items()):
        mean, variance = x.mean(axis=0, dtype=np.float64), x.var(axis=0, dtype=np.float64)
        varies = (mean > 0) & (variance > 0)
        hidden = int((~varies).sum())
        label = name + (f" ({hidden} of {len(mean)} dimensions constant, not shown)" if hidden else "")
        axes.scatter(mean[varies], variance[varies], label=label, **_style(index, len(mean)))
        shown.append(mean[varies])
    means = np.concatenate(shown)
    axes.set(title=_title("Mean and variance", samples), xlabel="mean, counts", ylabel="variance, counts²")
    if means.size:
        axes.set_xscale("log")
        axes.set_yscale("log")
        ends = means.min(), means.max()
        axes.plot(ends, ends, "--", color="0.4", linewidth=1, label="Poisson: variance = mean")
    _finish(axes)
    write_figure(path, figure)


def save_zero_fractions(path: str | os.PathLike, samples: Samples) -> None:
    """Save the fraction of zeros of each dimension in the samples of a model against that in the data.

    Args:
      path: the PNG file to write.
      samples: {name: counts [N, D]}, the data first.

    Raises:
      StorageError: the file cannot be written.
    """
    figure = new_figure(5.8, 5.2)
    axes = figure.add_subplot()
    (_, data), *others = samples.items()
    in_data = (data == 0).mean(axis=0)
    for index, (name, x) in enumerate(others, start=1):
        axes.scatter(in_data, (x == 0).mean(axis=0), label=name, **_style(index, len(in_data)))
    axes.plot([0, 1], [0, 1], "--", color="0.4", linewidth=1, label="equal fractions")
    axes.set(
        title=_title("Fraction of zeros", samples),
        xlabel="fraction of zeros in the data",
        ylabel="fraction of zeros in the samples",
        xlim=(-0.03, 1.03),
        ylim=(-0.03, 1.03),
        aspect="equal",
    )
    _finish(axes)
    write_figure(path, figure)


def _title(subject: str, samples: Samples) -> str:
    dimensions = next(iter(samples.values())).shape[1]
    return f"{subject} of {'the one dimension' if dimensions == 1 else f'each of {dimensions} dimensions'}"


def _style(index: int, count: int) -> dict[str, Any]:
    """Return the appearance of the points of one set of examples: grey for the data, which come first."""
    size = min(max(4000 / count, 5), 30)
    return {"s": size, "color": f"C{index - 1}" if index else "0.55", "alpha": 0.6, "linewidths": 0}


def _finish(axes: "Axes") -> None:
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
