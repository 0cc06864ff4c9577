"""Matplotlib figures as PNG files; no window system is used, and matplotlib is imported when the first is made."""

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING

from vae_jax.runtime import atomic_files

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
