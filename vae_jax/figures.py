"""Pictures of a run as PNG files: grids of images with labels, and curves of its metrics.

Images are `[..., H, W, C]`, C = 1 or 3: uint8, or floats in [0, 1]; others are clipped, NaN is black.
"""

import io
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vae_jax.storage import write_whole

_BACKGROUND = 255
_MIN_CELL = 48  # pixels
_LINE, _GAP, _MARGIN = 4, 16, 12  # pixels: between cells, between groups of cells, around text


class _Tiles(NamedTuple):
    pixels: np.ndarray  # [H', W', 3]
    tops: list[int]  # of each row of cells
    lefts: list[int]  # of each column of cells
    cell: tuple[int, int]  # height, width


def _to_uint8(images: np.ndarray, ndim: int) -> np.ndarray:
    """Checks `[..., H, W, C]` and returns it as uint8 with C = 3."""
    images = np.asarray(images)
    if images.ndim != ndim or images.shape[-1] not in (1, 3) or 0 in images.shape:
        raise ValueError(f"images must have {ndim} axes, none empty, the last 1 or 3; got {images.shape}")
    if images.dtype != np.uint8:
        if images.dtype.kind in "iuc":
            raise ValueError(f"images must be uint8 or floats in [0, 1], got {images.dtype}")
        images = np.nan_to_num(images.astype(np.float32))
        images = np.round(255 * np.clip(images, 0, 1)).astype(np.uint8)
    return np.broadcast_to(images, (*images.shape[:-1], 3))


def _table(images: np.ndarray, columns: int) -> np.ndarray:
    """`[N, H, W, 3]` as `[rows, columns, H, W, 3]`; cells left over are background."""
    if columns < 1:
        raise ValueError(f"columns must be at least 1, got {columns}")
    rows = math.ceil(len(images) / columns)
    table = np.full((rows * columns, *images.shape[1:]), _BACKGROUND, np.uint8)
    table[: len(images)] = images
    return table.reshape(rows, columns, *images.shape[1:])


def _tile(
    cells: np.ndarray, scale: int | None = None, row_gaps: Iterable[int] = (), column_gaps: Iterable[int] = ()
) -> _Tiles:
    """Puts cells `[R, T, H, W, 3]` side by side, with a wider gap before the rows and columns named."""
    rows, columns, height, width, _ = cells.shape
    scale = scale or max(1, math.ceil(_MIN_CELL / min(height, width)))
    height, width = scale * height, scale * width
    tops = [i * (height + _LINE) + sum(g <= i for g in row_gaps) * _GAP for i in range(rows)]
    lefts = [j * (width + _LINE) + sum(g <= j for g in column_gaps) * _GAP for j in range(columns)]
    pixels = np.full((tops[-1] + height, lefts[-1] + width, 3), _BACKGROUND, np.uint8)
    for top, row in zip(tops, cells, strict=True):
        for left, image in zip(lefts, row, strict=True):
            pixels[top : top + height, left : left + width] = image.repeat(scale, 0).repeat(scale, 1)
    return _Tiles(pixels, tops, lefts, (height, width))


def image_grid(images: np.ndarray, columns: int, *, scale: int | None = None) -> np.ndarray:
    """Images `[N, H, W, C]` row by row in a grid, uint8 `[H', W', 3]`.

    Each is enlarged `scale` times, by default until its shorter side has 48 pixels.
    """
    return _tile(_table(_to_uint8(images, 4), columns), scale).pixels


def save_png(path: str | os.PathLike, array: np.ndarray) -> None:
    """Writes uint8 `[H, W]`, `[H, W, 1]` or `[H, W, 3]` whole or not at all, and creates the folder.

    Raises `StorageError` where the file cannot be written.
    """
    from PIL import Image

    array = array[:, :, 0] if array.ndim == 3 and array.shape[-1] == 1 else array
    png = io.BytesIO()
    Image.fromarray(array).save(png, "png")
    write_whole(Path(path), lambda file: file.write(png.getvalue()))


def _sheet(
    path: str | os.PathLike,
    tiles: _Tiles,
    *,
    title: str,
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    corner: str = "",
) -> None:
    """Saves tiles with a title, labels left of rows and above columns; fewer where they would touch."""
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont

    height, width = tiles.cell
    fonts = Path(matplotlib.get_data_path(), "fonts", "ttf")
    font = ImageFont.truetype(str(fonts / "DejaVuSans.ttf"), min(max(height // 4, 14), 24))
    bold = ImageFont.truetype(str(fonts / "DejaVuSans-Bold.ttf"), font.size + 2)
    margin_left = _MARGIN
    if row_labels or corner:
        margin_left += math.ceil(max(map(font.getlength, [*row_labels, corner]))) + _MARGIN
    title_height = 2 * bold.size
    margin_top = _MARGIN + title_height + (2 * font.size if column_labels else 0)
    right = max(margin_left + tiles.pixels.shape[1], _MARGIN + math.ceil(bold.getlength(title))) + _MARGIN
    sheet = Image.new("RGB", (right, margin_top + tiles.pixels.shape[0] + _MARGIN), (_BACKGROUND,) * 3)
    sheet.paste(Image.fromarray(tiles.pixels), (margin_left, margin_top))

    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN, _MARGIN), title, "black", bold)
    for top, label in zip(tiles.tops, row_labels, strict=bool(row_labels)):
        draw.text((margin_left - _MARGIN, margin_top + top + height // 2), label, "black", font, anchor="rm")
    baseline = margin_top - font.size // 2
    draw.text((margin_left - _MARGIN, baseline), corner, "black", font, anchor="rs")
    widest = max(map(font.getlength, column_labels), default=0)
    every = math.ceil((widest + font.size / 2) / (width + _LINE))
    for index, (left, label) in enumerate(zip(tiles.lefts, column_labels, strict=bool(column_labels))):
        if index % every == 0:
            draw.text((margin_left + left + width // 2, baseline), label, "black", font, anchor="ms")
    save_png(path, np.asarray(sheet))


def samples(
    path: str | os.PathLike, images: np.ndarray, *, columns: int | None = None, title: str = "Prior samples"
) -> None:
    """Draws images `[N, H, W, C]` as a grid, about square unless `columns` is given."""
    images = _to_uint8(images, 4)
    _sheet(path, _tile(_table(images, columns or math.ceil(math.sqrt(len(images))))), title=title)


def reconstructions(
    path: str | os.PathLike,
    originals: np.ndarray,
    reconstructed: np.ndarray,
    *,
    columns: int = 10,
    title: str = "Reconstructions",
) -> None:
    """Draws originals `[N, H, W, C]` each above its reconstruction, in as many pairs of rows as it takes."""
    if np.shape(originals) != np.shape(reconstructed):
        raise ValueError(f"shapes differ: {np.shape(originals)} and {np.shape(reconstructed)}")
    columns = min(columns, len(originals))
    above, below = (_table(_to_uint8(images, 4), columns) for images in (originals, reconstructed))
    cells = np.stack([above, below], axis=1).reshape(-1, *above.shape[1:])
    tiles = _tile(cells, row_gaps=range(2, len(cells), 2))
    _sheet(path, tiles, title=title, row_labels=["original", "reconstruction"] * len(above))


def interpolations(
    path: str | os.PathLike,
    left: np.ndarray,
    frames: np.ndarray,
    right: np.ndarray,
    *,
    title: str = "Interpolations in the latent space",
) -> None:
    """Draws P rows: `left` `[P, H, W, C]`, equal steps on the path `frames` `[P, T, H, W, C]`, `right`."""
    cells = np.concatenate([_to_uint8(left, 4)[:, None], _to_uint8(frames, 5), _to_uint8(right, 4)[:, None]], axis=1)
    last = cells.shape[1] - 1
    tiles = _tile(cells, column_gaps=(1, last))
    steps = [f"{t:.0%}" for t in np.linspace(0, 1, last - 1)]
    _sheet(path, tiles, title=title, column_labels=["A", *steps, "B"])


def comparison(path: str | os.PathLike, groups: Sequence[Mapping[str, np.ndarray]], *, title: str) -> None:
    """Draws groups of labelled rows, a gap between groups; each row is images `[T, H, W, C]`, T the same for all."""
    cells = np.stack([_to_uint8(images, 4) for group in groups for images in group.values()])
    starts = np.cumsum([len(group) for group in groups])[:-1]
    labels = [label for group in groups for label in group]
    _sheet(path, _tile(cells, row_gaps=starts.tolist()), title=title, row_labels=labels)


def traversals(
    path: str | os.PathLike,
    frames: np.ndarray,
    labels: Sequence[str],
    values: Sequence[float],
    *,
    title: str = "Latent traversals",
) -> None:
    """Draws `frames` `[D, T, H, W, C]`: a row for each latent and its label, a column for each value."""
    tiles = _tile(_to_uint8(frames, 5))
    columns = [f"{v:.1f}" for v in values]
    _sheet(path, tiles, title=title, row_labels=labels, column_labels=columns, corner="z =")


def manifold(
    path: str | os.PathLike, grid: np.ndarray, values: Sequence[float], *, title: str = "Latent manifold"
) -> None:
    """Draws `grid` `[S, S, H, W, C]`, [i, j] decoded at z₁ = values[j], z₂ = values[i]; z₂ points upwards."""
    tiles = _tile(_to_uint8(grid, 5)[::-1])
    labels = [f"{v:.2f}" for v in values]
    _sheet(path, tiles, title=title, row_labels=labels[::-1], column_labels=labels, corner="z₂ ↑  z₁ →")


_PANELS = {  # metric: (title, unit, scale of the y axis)
    "bound": ("Bound on log p(x)", "nats per example", "robust"),
    "reconstruction": ("Reconstruction, E log p(x|z)", "nats per example", "robust"),
    "kl": ("KL(q(z|x) ‖ p(z))", "nats per example", "robust"),
    "grad_norm": ("Norm of the gradient", "norm", "log"),
    "learning_rate": ("Learning rate", "learning rate", "linear"),
}


def _series(rows: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    """The finite values of one metric in order of their steps, `[N, 2]`: step, value."""
    points = [(row["step"], row[name]) for row in rows if isinstance(row.get(name), int | float)]
    points = sorted(point for point in points if math.isfinite(point[1]))
    return np.array(points, float).reshape(-1, 2)


def _limits(curves: Sequence[np.ndarray]) -> tuple[float, float]:
    """Limits of the y axis without the first twentieth of the steps and without rare spikes."""
    points = np.concatenate(curves)
    first, last = points[:, 0].min(), points[:, 0].max()
    settled = points[points[:, 0] >= first + 0.05 * (last - first), 1]
    low, high = np.quantile(settled, [0.01, 0.99])
    margin = 0.15 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin


def curves(path: str | os.PathLike, rows: Iterable[Mapping[str, Any]], *, title: str = "") -> None:
    """Draws the metrics of a run against its steps, one panel for each metric that `rows` hold.

    `rows` are those of `metrics.jsonl`; a metric `validation_NAME` is drawn in the panel of NAME. Values that
    are missing, None or not finite are left out.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    rows = list(rows)
    found = {
        panel: {name: points for name in (panel, f"validation_{panel}") if len(points := _series(rows, name))}
        for panel in _PANELS
    }
    panels = [panel for panel, series in found.items() if series] or ["bound"]
    columns = 1 if len(panels) == 1 else 2
    lines = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(6 * columns, 3.6 * lines), dpi=110, layout="constrained")
    if title:
        figure.suptitle(title)
    for index, panel in enumerate(panels):
        axes = figure.add_subplot(lines, columns, index + 1)
        heading, unit, scale = _PANELS[panel]
        for name, points in found[panel].items():
            marker = "o" if len(points) < 30 else ""
            label, color = ("training", "C0") if name == panel else ("validation", "C1")
            axes.plot(*points.T, marker=marker, markersize=4, linewidth=1.3, label=label, color=color)
        axes.set(title=heading, xlabel="step", ylabel=unit)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.grid(alpha=0.3)
        if found[panel] and scale == "robust":
            axes.legend()
            axes.set_ylim(_limits(list(found[panel].values())))
        elif scale == "log" and all(points[:, 1].min() > 0 for points in found[panel].values()):
            axes.set_yscale("log")
    png = io.BytesIO()
    FigureCanvasAgg(figure).print_png(png)
    write_whole(Path(path), lambda file: file.write(png.getvalue()))


def rate_distortion(path: str | os.PathLike, summary: Sequence[Mapping[str, Any]]) -> None:
    """Draws a sweep: what the code costs (KL) against what it misses (-E log p(x|z)), a point for each setting.

    `summary` is that of `sweeping.summarise`: means, and standard deviations over seeds where there are several. On
    the dashed lines -ELBO, the sum of the two, is the same. Settings without a KL are left out.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.8), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    rows = [row for row in summary if "kl" in row and "reconstruction" in row]
    points = np.array([(row["kl"]["mean"], -row["reconstruction"]["mean"]) for row in rows]).reshape(-1, 2)
    for row, (rate, distortion) in zip(rows, points, strict=True):
        label = ", ".join(f"{path.rpartition('.')[2]} {value}" for path, value in row["varied"].items()) or "all"
        errors = {"xerr": row["kl"]["sd"], "yerr": row["reconstruction"]["sd"]}
        axes.errorbar(rate, distortion, **errors, marker="o", markersize=5, capsize=3, linestyle="", label=label)
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
    png = io.BytesIO()
    FigureCanvasAgg(figure).print_png(png)
    write_whole(Path(path), lambda file: file.write(png.getvalue()))
