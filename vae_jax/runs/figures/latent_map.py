"""The map of a latent space as a PNG figure: the codes of examples in two dimensions, coloured by label."""

import math
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from vae_jax.runs.figures.figure_files import new_figure, write_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_CLASSES = 40  # labels with more values are numbers, with a colour bar instead of a legend
_ROWS = 20  # of the legend
_PALETTES = ((10, "tab10"), (20, "tab20"), (MAX_CLASSES, "turbo"))
_UNKNOWN = "0.75"  # the colour of examples without a label


def principal_components(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return codes in the two directions of their largest variance.

    The sign of each direction is that for which its largest entry is positive.

    Args:
      codes: [N, D] with D of at least 2.

    Returns:
      The projected codes [N, 2], with mean 0, and their shares of the variance [2], 0 if all codes are equal.
    """
    centered = codes.astype(np.float64) - codes.mean(axis=0, dtype=np.float64)
    variances, directions = np.linalg.eigh(centered.T @ centered / len(codes))  # in ascending order
    first_two = directions[:, ::-1][:, :2]
    largest = np.abs(first_two).argmax(axis=0)
    first_two = first_two * np.where(np.take_along_axis(first_two, largest[None], axis=0) < 0, -1, 1)
    total = variances.sum()
    return centered @ first_two, np.clip(variances[::-1][:2], 0, None) / total if total > 0 else np.zeros(2)


def save_latent_map(
    path: str | os.PathLike,
    codes: np.ndarray,
    labels: np.ndarray | None = None,
    *,
    known: np.ndarray | None = None,
    title: str = "Posterior means",
) -> None:
    """Save codes as a map: a histogram of one latent, two latents directly, more by their principal components.

    Up to `MAX_CLASSES` labels are classes, whose numbers stand at the medians of their codes. More are numbers on a
    colour scale. Codes that are not finite are skipped.

    Args:
      path: the PNG file to write.
      codes: [N, D].
      labels: integers [N]; None if there are none.
      known: bool [N], which examples have a label; None if all have. The others are grey.
      title: title of the figure.

    Raises:
      StorageError: the file cannot be written.
    """
    codes, labels, known = _finite(codes, labels, known)
    figure = new_figure(7.5, 6)
    axes = figure.add_subplot()
    axes.set_title(f"{title} of {len(codes)} examples")
    classes = _classes(labels, known)
    if codes.shape[1] == 1:
        _draw_one_latent(axes, codes[:, 0], labels, known, classes)
    elif len(codes):
        _draw_two_dimensions(axes, codes, labels, known, classes)
    _add_legend(figure, axes, len(classes))
    write_figure(path, figure)


def draw_codes(
    axes: "Axes", codes: np.ndarray, labels: np.ndarray | None = None, *, known: np.ndarray | None = None
) -> None:
    """Draw codes of two numbers as points, coloured by label as in `save_latent_map`.

    Args:
      axes: where to draw.
      codes: [N, 2]; those that are not finite are skipped.
      labels: integers [N]; None if there are none.
      known: bool [N], which examples have a label; None if all have.
    """
    codes, labels, known = _finite(codes, labels, known)
    _draw_points(axes, codes, labels, known, _classes(labels, known))


def _finite(
    codes: np.ndarray, labels: np.ndarray | None, known: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Return the finite codes, their labels, and which of them are known; the last two are None if no label is."""
    finite = np.asarray(np.isfinite(codes).all(axis=1))
    mask = finite[finite] if known is None else known[finite]
    if labels is None or not mask.any():
        return codes[finite], None, None
    return codes[finite], labels[finite], mask


def _classes(labels: np.ndarray | None, known: np.ndarray | None) -> np.ndarray:
    return np.empty(0, int) if labels is None or known is None else np.unique(labels[known])


def _colors(classes: np.ndarray) -> np.ndarray:
    """Return a colour for each class, [C, 4]."""
    import matplotlib

    name = next(name for most, name in _PALETTES if len(classes) <= most)
    colors = matplotlib.colormaps[name]
    if name == "turbo":
        return colors(np.linspace(0.02, 0.98, len(classes)))
    return colors(np.arange(len(classes)))


def _draw_one_latent(
    axes: "Axes", z: np.ndarray, labels: np.ndarray | None, known: np.ndarray | None, classes: np.ndarray
) -> None:
    axes.set(xlabel="z₁", ylabel="number of examples")
    bins = min(max(int(1.5 * math.sqrt(len(z))), 10), 60)
    if labels is None or known is None:
        axes.hist(z, bins=bins, color="C0")
    elif len(classes) > MAX_CLASSES:
        axes.scatter(z[known], labels[known], s=point_size(len(z)), alpha=0.7, linewidths=0)
        axes.set_ylabel("label")
    else:
        parts = {f"{value}": z[known & (labels == value)] for value in classes} | {"no label": z[~known]}
        parts = {name: part for name, part in parts.items() if len(part)}
        colors = [*_colors(classes), _UNKNOWN][: len(parts)]
        axes.hist(list(parts.values()), bins=bins, stacked=True, color=colors, label=list(parts))


def point_size(count: int) -> float:
    """Return the area of a point in a scatter plot of `count` points, in square points."""
    return min(max(20_000 / max(count, 1), 4), 30)


def _draw_two_dimensions(
    axes: "Axes", codes: np.ndarray, labels: np.ndarray | None, known: np.ndarray | None, classes: np.ndarray
) -> None:
    names = ["z₁", "z₂"]
    if codes.shape[1] > 2:
        codes, shares = principal_components(codes)
        names = [f"principal component {i} ({share:.0%} of the variance)" for i, share in enumerate(shares, start=1)]
    axes.set(xlabel=names[0], ylabel=names[1])
    axes.set_aspect("equal", adjustable="datalim")
    axes.grid(alpha=0.3)
    _draw_points(axes, codes, labels, known, classes)


def _draw_points(
    axes: "Axes", codes: np.ndarray, labels: np.ndarray | None, known: np.ndarray | None, classes: np.ndarray
) -> None:
    style: dict[str, Any] = {"s": point_size(len(codes)), "alpha": 0.7, "linewidths": 0}
    if labels is None or known is None:
        axes.scatter(*codes.T, color="C0", **style)
        return
    if not known.all():
        axes.scatter(*codes[~known].T, color=_UNKNOWN, label="no label", **style)
    codes, labels = codes[known], labels[known]
    if len(classes) > MAX_CLASSES:
        points = axes.scatter(*codes.T, c=labels, cmap="viridis", **style)
        axes.figure.colorbar(points, ax=axes, label="label")
        return
    colors = _colors(classes)
    axes.scatter(*codes.T, c=colors[np.searchsorted(classes, labels)], **style)  # in the order of the examples
    for value, color in zip(classes, colors, strict=True):
        axes.scatter([], [], color=color, label=str(value), s=30)
        _write_at(axes, np.median(codes[labels == value], axis=0), str(value))


def _write_at(axes: "Axes", point: np.ndarray, text: str) -> None:
    """Write a text in black with a white outline."""
    from matplotlib.patheffects import withStroke

    style: dict[str, Any] = {"fontsize": 10, "weight": "bold", "ha": "center", "va": "center"}
    outline = [withStroke(linewidth=2.5, foreground="white")]
    axes.text(float(point[0]), float(point[1]), text, path_effects=outline, **style)


def _add_legend(figure: Any, axes: "Axes", num_classes: int) -> None:
    handles, names = axes.get_legend_handles_labels()
    if handles:
        columns = math.ceil(len(names) / _ROWS)
        title = "label" if num_classes <= MAX_CLASSES else None
        figure.legend(handles, names, title=title, loc="outside right upper", ncols=columns, fontsize=9)
