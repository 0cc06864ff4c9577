"""PNG files with grids of images, and labels for their rows and columns.

Images are `[..., H, W, C]` with C = 1 or 3: uint8, or floats in [0, 1]. Values outside are clipped; NaN is black.
"""

import io
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vae_jax.runtime import atomic_files

_BACKGROUND = 255
_MIN_CELL, _MAX_CELL = 48, 512  # pixels: of the shorter side, if the longer one permits it; of the longer side
_MAX_SHEET = 8000  # pixels of a side that the cells of a figure may need
_LINE, _GAP, _MARGIN = 4, 16, 12  # pixels: between cells, between groups of cells, around text


class _Tiles(NamedTuple):
    pixels: np.ndarray  # [H', W', 3]
    tops: list[int]  # of each row of cells
    lefts: list[int]  # of each column of cells
    cell: tuple[int, int]  # height, width


def _to_uint8(images: np.ndarray, ndim: int) -> np.ndarray:
    """Check `[..., H, W, C]`, and return it as uint8 with C = 3."""
    images = np.asarray(images)
    if images.ndim != ndim or images.shape[-1] not in (1, 3) or 0 in images.shape:
        raise ValueError(
            f"images has shape {list(images.shape)}; pass {ndim} non-empty axes, the last of length 1 or 3"
        )
    if images.dtype != np.uint8:
        if images.dtype.kind in "iuc":
            raise ValueError(f"images has dtype {images.dtype}; pass uint8, or floats in [0, 1]")
        images = np.nan_to_num(images.astype(np.float32))
        images = np.round(255 * np.clip(images, 0, 1)).astype(np.uint8)
    return np.broadcast_to(images, (*images.shape[:-1], 3))


def _table(images: np.ndarray, columns: int) -> np.ndarray:
    """Return `[N, H, W, 3]` as `[rows, columns, H, W, 3]`; empty cells are background."""
    if columns < 1:
        raise ValueError(f"columns={columns} must be at least 1")
    rows = math.ceil(len(images) / columns)
    table = np.full((rows * columns, *images.shape[1:]), _BACKGROUND, np.uint8)
    table[: len(images)] = images
    return table.reshape(rows, columns, *images.shape[1:])


def _tile(
    cells: np.ndarray, scale: int | None = None, row_gaps: Iterable[int] = (), column_gaps: Iterable[int] = ()
) -> _Tiles:
    """Arrange cells `[R, T, H, W, 3]` in a grid, with a wider gap before the rows and columns in `*_gaps`.

    Without a scale, images are enlarged or reduced, so that a cell and the figure have a legible and limited size.
    """
    rows, columns, height, width, _ = cells.shape
    largest = max(1, min(_MAX_CELL, _MAX_SHEET // max(rows, columns)))
    if scale is None and max(height, width) > largest:
        cells, scale = _shrink(cells, largest), 1
        height, width = cells.shape[2:4]
    scale = scale or max(1, min(math.ceil(_MIN_CELL / min(height, width)), largest // max(height, width)))
    height, width = scale * height, scale * width
    tops = [i * (height + _LINE) + sum(g <= i for g in row_gaps) * _GAP for i in range(rows)]
    lefts = [j * (width + _LINE) + sum(g <= j for g in column_gaps) * _GAP for j in range(columns)]
    pixels = np.full((tops[-1] + height, lefts[-1] + width, 3), _BACKGROUND, np.uint8)
    for top, row in zip(tops, cells, strict=True):
        for left, image in zip(lefts, row, strict=True):
            pixels[top : top + height, left : left + width] = image.repeat(scale, 0).repeat(scale, 1)
    return _Tiles(pixels, tops, lefts, (height, width))


def _shrink(cells: np.ndarray, largest: int) -> np.ndarray:
    """Return cells `[R, T, H, W, 3]` whose longer side has `largest` pixels, which are means of the original ones."""
    from PIL import Image

    height, width = cells.shape[2:4]
    factor = largest / max(height, width)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    flat = [np.asarray(Image.fromarray(cell).resize(size, Image.Resampling.BOX)) for row in cells for cell in row]
    return np.stack(flat).reshape(*cells.shape[:2], *flat[0].shape)


def image_grid(images: np.ndarray, columns: int, *, scale: int | None = None) -> np.ndarray:
    """Return images `[N, H, W, C]` as one image, uint8 `[H', W', 3]`: a grid that is filled row by row.

    Each image is enlarged `scale` times. By default the shorter side gets at least 48 pixels and the longer one at most
    512, fewer in a large grid.
    """
    return _tile(_table(_to_uint8(images, 4), columns), scale).pixels


def save_png(path: str | os.PathLike, array: np.ndarray) -> None:
    """Write uint8 `[H, W]`, `[H, W, 1]` or `[H, W, 3]` to a file atomically, and create its folder.

    Raises:
      StorageError: the file cannot be written.
    """
    from PIL import Image

    array = array[:, :, 0] if array.ndim == 3 and array.shape[-1] == 1 else array
    png = io.BytesIO()
    Image.fromarray(array).save(png, "png")
    atomic_files.write_file_locally(Path(path), lambda file: file.write(png.getvalue()))


def _save_sheet(
    path: str | os.PathLike,
    tiles: _Tiles,
    *,
    title: str,
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    corner: str = "",
) -> None:
    """Save tiles with a title, labels to the left of rows, and as many labels above columns as do not overlap."""
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont

    height, width = tiles.cell
    fonts = Path(matplotlib.get_data_path(), "fonts", "ttf")
    size = min(max(height // 4, 14), 24)
    font = ImageFont.truetype(str(fonts / "DejaVuSans.ttf"), size)
    bold = ImageFont.truetype(str(fonts / "DejaVuSans-Bold.ttf"), size + 2)
    margin_left = _MARGIN
    if row_labels or corner:
        margin_left += math.ceil(max(map(font.getlength, [*row_labels, corner]))) + _MARGIN
    title_height = 2 * (size + 2)
    margin_top = _MARGIN + title_height + (2 * size if column_labels else 0)
    right = max(margin_left + tiles.pixels.shape[1], _MARGIN + math.ceil(bold.getlength(title))) + _MARGIN
    sheet = Image.new("RGB", (right, margin_top + tiles.pixels.shape[0] + _MARGIN), (_BACKGROUND,) * 3)
    sheet.paste(Image.fromarray(tiles.pixels), (margin_left, margin_top))

    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN, _MARGIN), title, "black", bold)
    for top, label in zip(tiles.tops, row_labels, strict=bool(row_labels)):
        draw.text((margin_left - _MARGIN, margin_top + top + height // 2), label, "black", font, anchor="rm")
    baseline = margin_top - size // 2
    draw.text((margin_left - _MARGIN, baseline), corner, "black", font, anchor="rs")
    widest = max(map(font.getlength, column_labels), default=0)
    every = math.ceil((widest + size / 2) / (width + _LINE))
    for index, (left, label) in enumerate(zip(tiles.lefts, column_labels, strict=bool(column_labels))):
        if index % every == 0:
            draw.text((margin_left + left + width // 2, baseline), label, "black", font, anchor="ms")
    save_png(path, np.asarray(sheet))


def save_samples(
    path: str | os.PathLike, images: np.ndarray, *, columns: int | None = None, title: str = "Prior samples"
) -> None:
    """Save images `[N, H, W, C]` as a grid; without `columns` the grid is about square."""
    images = _to_uint8(images, 4)
    _save_sheet(path, _tile(_table(images, columns or math.ceil(math.sqrt(len(images))))), title=title)


def save_samples_by_class(path: str | os.PathLike, images: np.ndarray, labels: np.ndarray) -> None:
    """Save images `[N, H, W, C]` with ascending labels `[N]` in a row for each class, which its label precedes."""
    classes, sizes = np.unique(labels, return_counts=True)
    groups = np.split(_to_uint8(images, 4), np.cumsum(sizes)[:-1])
    cells = np.concatenate([_table(group, sizes.max()) for group in groups])
    _save_sheet(path, _tile(cells), title="Prior samples of each class", row_labels=[str(label) for label in classes])


def save_styles(path: str | os.PathLike, originals: np.ndarray, decoded: np.ndarray) -> None:
    """Save P rows: `originals` `[P, H, W, C]`, and their codes under each class, `decoded` `[P, classes, H, W, C]`."""
    cells = np.concatenate([_to_uint8(originals, 4)[:, None], _to_uint8(decoded, 5)], axis=1)
    columns = ["x", *map(str, range(cells.shape[1] - 1))]
    _save_sheet(path, _tile(cells, column_gaps=(1,)), title="Codes of images under each class", column_labels=columns)


def save_reconstructions(
    path: str | os.PathLike,
    originals: np.ndarray,
    reconstructed: np.ndarray,
    *,
    columns: int = 10,
    title: str = "Reconstructions",
    below: str = "reconstruction",
) -> None:
    """Save originals `[N, H, W, C]`, each above its reconstruction, in rows of at most `columns` pairs.

    The label of the rows of originals is "original", that of the other rows is `below`.
    """
    if np.shape(originals) != np.shape(reconstructed):
        raise ValueError(
            f"originals has shape {list(np.shape(originals))} and reconstructed {list(np.shape(reconstructed))}; "
            "pass the same shape"
        )
    columns = min(columns, len(originals))
    upper, lower = (_table(_to_uint8(images, 4), columns) for images in (originals, reconstructed))
    cells = np.stack([upper, lower], axis=1).reshape(-1, *upper.shape[1:])
    tiles = _tile(cells, row_gaps=range(2, len(cells), 2))
    _save_sheet(path, tiles, title=title, row_labels=["original", below] * len(upper))


def save_interpolations(
    path: str | os.PathLike,
    left: np.ndarray,
    frames: np.ndarray,
    right: np.ndarray,
    *,
    title: str = "Interpolations in the latent space",
) -> None:
    """Save P rows: `left` `[P, H, W, C]`, T equal steps `frames` `[P, T, H, W, C]`, and `right` `[P, H, W, C]`."""
    cells = np.concatenate([_to_uint8(left, 4)[:, None], _to_uint8(frames, 5), _to_uint8(right, 4)[:, None]], axis=1)
    last = cells.shape[1] - 1
    tiles = _tile(cells, column_gaps=(1, last))
    steps = [f"{t:.0%}" for t in np.linspace(0, 1, last - 1)]
    _save_sheet(path, tiles, title=title, column_labels=["A", *steps, "B"])


def save_comparison(path: str | os.PathLike, groups: Sequence[Mapping[str, np.ndarray]], *, title: str) -> None:
    """Save groups of labelled rows with a gap between groups.

    Each row is images `[T, H, W, C]` with the same T.
    """
    cells = np.stack([_to_uint8(images, 4) for group in groups for images in group.values()])
    starts = np.cumsum([len(group) for group in groups])[:-1]
    labels = [label for group in groups for label in group]
    _save_sheet(path, _tile(cells, row_gaps=starts.tolist()), title=title, row_labels=labels)


def save_top_layers(path: str | os.PathLike, rows: Mapping[str, np.ndarray]) -> None:
    """Save labelled rows of images `[T, H, W, C]`, the first of them the originals."""
    cells = np.stack([_to_uint8(images, 4) for images in rows.values()])
    title = "Images decoded from their top layers; the prior draws the others"
    _save_sheet(path, _tile(cells, row_gaps=(1,)), title=title, row_labels=list(rows))


def save_draws(path: str | os.PathLike, originals: np.ndarray, draws: np.ndarray, *, title: str) -> None:
    """Save P rows: `originals` `[P, H, W, C]`, and images drawn for each of them, `[P, S, H, W, C]`."""
    cells = np.concatenate([_to_uint8(originals, 4)[:, None], _to_uint8(draws, 5)], axis=1)
    columns = ["x", *(str(number) for number in range(1, cells.shape[1]))]
    _save_sheet(path, _tile(cells, column_gaps=(1,)), title=title, column_labels=columns)


def save_traversals(
    path: str | os.PathLike,
    frames: np.ndarray,
    labels: Sequence[str],
    values: Iterable[float],
    *,
    title: str = "Latent traversals",
) -> None:
    """Save `frames` `[D, T, H, W, C]`: a row for each latent with its label, a column for each of T values."""
    tiles = _tile(_to_uint8(frames, 5))
    columns = [f"{v:.1f}" for v in values]
    _save_sheet(path, tiles, title=title, row_labels=labels, column_labels=columns, corner="z =")


def save_manifold(
    path: str | os.PathLike, grid: np.ndarray, values: np.ndarray, *, title: str = "Latent manifold"
) -> None:
    """Save `grid` `[S, S, H, W, C]`; [i, j] is decoded at z₁ = values[0, j], z₂ = values[1, i]; z₂ points upwards."""
    tiles = _tile(_to_uint8(grid, 5)[::-1])
    columns, rows = ([f"{v:.2f}" for v in axis] for axis in values)
    _save_sheet(path, tiles, title=title, row_labels=rows[::-1], column_labels=columns, corner="z₂ ↑  z₁ →")
