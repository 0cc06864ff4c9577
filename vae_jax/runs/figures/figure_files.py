"""Figures as PNG files of a run, and those of matplotlib, which is imported when the first is made, without windows."""

import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vae_jax.runs.storage.directory import RunDirectory
from vae_jax.runtime import atomic_files, multihost

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Directory = str | os.PathLike | RunDirectory
_TAIL = 0.005  # share of the examples beyond each end of an axis


def new_figure(width: float, height: float) -> "Figure":
    """Return an empty figure whose parts do not overlap.

    Args:
      width: in inches, of 110 pixels.
      height: in inches.
    """
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=110, layout="constrained")


def plain_text(text: str) -> str:
    """Return a text that matplotlib shows as it is: no part between two `$` is a formula, and all of it is UTF-8."""
    return text.encode(errors="backslashreplace").decode().replace("$", r"\$")


def axis_limits(columns: Sequence[np.ndarray]) -> tuple[float, float]:
    """Return limits of an axis that contains 99 % of the numbers of each column, with a margin.

    Args:
      columns: arrays [N] of any length; numbers that are not finite are skipped.
    """
    finite = [column[np.isfinite(column)] for column in columns]
    ends = np.array([np.quantile(column, [_TAIL, 1 - _TAIL]) for column in finite if column.size] or [[0, 1]])
    low, high = float(ends[:, 0].min()), float(ends[:, 1].max())
    margin = 0.1 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin


def write_figure(path: str | os.PathLike, figure: "Figure") -> None:
    """Write a figure to a PNG file atomically, and create its folder.

    Args:
      path: the file to write.
      figure: the figure.

    Raises:
      StorageError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    png = io.BytesIO()
    FigureCanvasAgg(figure).print_png(png)
    atomic_files.write_file_locally(Path(path), lambda file: file.write(png.getvalue()))


def save_figure(directory: Directory, name: str, save: Callable[[Path], None]) -> Path:
    """Let the primary process save a figure of a run; all processes have computed its content.

    Args:
      directory: the run's directory.
      name: of the file figures/NAME.png.
      save: path -> None, writes the file.

    Returns:
      The path of the figure.
    """
    path = RunDirectory(directory).figure(name)
    multihost.run_on_primary(lambda: save(path))
    return path
