"""Kinds of data: images, vectors and counts. How each is recognized, checked and stored."""

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from vae_jax.errors import InputError

CHUNK = 1 << 22  # numbers converted at once
HALF_LEVEL = 0.5 / 255  # floats that are out of [0, 1] by less than this are rounded to 0 or 255
TWICE = 1.001 / 255  # the largest float of images that were divided by 255 twice, up to rounding
PLAUSIBLE_SIDE = 8  # axes of at least this size can be sides of an image
# In this folder `where` is the start of an error message, the setting and its value: data.name='x.npz' (images.npy).


class Kind(NamedTuple):
    """What the examples of a data set are.

    Attributes:
      name: the name, a value of `data.kind`.
      noun: one example, in a sentence.
      value_range: the smallest and the largest number of a model input; None if there are no limits.
      dtype: the dtype of the stored examples x.
      shapes: the shapes of arrays that are examples of this kind, in a sentence.
      dtypes: the dtypes of arrays that can be converted, in a sentence.
    """

    name: str
    noun: str
    value_range: tuple[float, float] | None
    dtype: np.dtype
    shapes: str
    dtypes: str


KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("images", "image", (0.0, 1.0), np.dtype(np.uint8), "[N, H, W] or [N, H, W, 1 or 3]",
             "uint8, bool, or floats in [0, 1]"),
        Kind("vectors", "vector", None, np.dtype(np.float32), "[N, D]", "floats, integers or bool"),
        Kind("counts", "count vector", None, np.dtype(np.int32), "[N, D]", "integers of at least 0"),
    )
}  # fmt: skip


def infer_kind(dtype: np.dtype, shape: tuple[int, ...]) -> str:
    """Return the kind of an array of examples: the meaning of `data.kind=auto`.

    Args:
      dtype: the dtype of the array.
      shape: the shape of the array, [N, ...].

    Returns:
      `vectors` for floats and bools [N, D], `counts` for integers [N, D], else `images`.
    """
    if len(shape) != 2:
        return "images"
    return "counts" if dtype.kind in "iu" else "vectors"


def check_shape(shape: tuple[int, ...], kind: str, where: str) -> tuple[int, ...]:
    """Return the shape of stored examples: `shape`, with an axis of channels for images.

    Args:
      shape: the shape of an array of examples, [N, ...].
      kind: a name in `KINDS`.
      where: the array, at the start of an error message.

    Returns:
      [N, H, W, C] for images, [N, D] for vectors and counts.

    Raises:
      InputError: the kind has other shapes, or one of the sizes is 0.
    """
    full = (*shape, 1) if len(shape) == 3 else shape
    valid = len(full) == 4 and full[3] in (1, 3) if kind == "images" else len(shape) == 2
    guess = _guess_axes(shape) if kind == "images" else ""
    if not valid or min(full[1:]) < 1 or (guess and full[0]):
        others = " for images, or [N, D]" if kind == "images" and len(full) != 4 else ""
        raise InputError(f"{where} has shape {list(shape)}{guess}; use {KINDS[kind].shapes}{others}")
    if full[0] < 1:
        raise InputError(f"{where} is empty; use at least one {KINDS[kind].noun}")
    return full if kind == "images" else shape


def _guess_axes(shape: tuple[int, ...]) -> str:
    """Return what an array of images of an implausible shape probably is; an empty string if the shape is plausible."""
    if len(shape) == 3:
        first, second, last = shape
        if last in (1, 3, 4) and min(first, second) >= PLAUSIBLE_SIDE:
            return ", probably one image [H, W, C]: add an axis, x[None]"
        if first == second >= PLAUSIBLE_SIDE and last > first:
            return ", probably [H, W, N]: x.transpose(2, 0, 1)"
    if len(shape) == 4 and shape[3] not in (1, 3):
        if shape[3] == 4:
            return ", probably with transparency: x[..., :3]"
        if shape[1] in (1, 3):
            return ", probably [N, C, H, W]: x.transpose(0, 2, 3, 1)"
        if shape[2] in (1, 3):
            return ", probably [H, W, C, N]: x.transpose(3, 0, 1, 2)"
        if shape[0] in (1, 3):
            return ", probably [C, N, H, W]: x.transpose(1, 2, 3, 0)"
    return ""


def check_inferred(stored: np.ndarray, dtype: np.dtype, where: str) -> None:
    """Raise InputError if an array [N, D] whose kind is inferred is probably images, or one image.

    Args:
      stored: the array as it is stored.
      dtype: the dtype that it had.
      where: the array, at the start of an error message.
    """
    if stored.ndim != 2:
        return
    shape, low, high = stored.shape, stored.min(), stored.max()
    square = shape[0] == shape[1] >= PLAUSIBLE_SIDE
    if dtype == np.uint8 and high > 127:
        kind, guess = "counts", "intensities of flattened images, or of one image"
    elif square and dtype.kind == "f" and low >= -HALF_LEVEL and HALF_LEVEL < high <= 1 + HALF_LEVEL:
        kind, guess = "vectors", "one image"
    elif square and dtype.kind in "iu" and 127 < high <= 255:
        kind, guess = "counts", "one image"
    else:
        return
    raise InputError(
        f"{where} has {dtype} values from {low:g} to {high:g} and shape {list(shape)}, probably {guess}; use an array "
        f"[N, H, W], or data.kind={kind}"
    )


def check_dtype(dtype: np.dtype, kind: str, where: str) -> None:
    """Raise InputError if an array of this dtype cannot be converted to stored examples of the kind."""
    valid = dtype == np.uint8 or dtype.kind in "fb" if kind == "images" else dtype.kind in "fiub"
    if not valid:
        raise InputError(f"{where} has dtype {dtype}; use {KINDS[kind].dtypes}")


def check_examples(array: np.ndarray, kind: str, where: str) -> np.ndarray:
    """Return an array of examples as it is stored.

    Args:
      array: numbers [N, ...].
      kind: a name in `KINDS`.
      where: the array, at the start of an error message.

    Returns:
      Images uint8 [N, H, W, C], from floats in [0, 1] rounded to multiples of 1/255; vectors float32 [N, D]; counts
      int32 [N, D]. The array itself if it has this form.

    Raises:
      InputError: the array has another shape or dtype, or numbers that the kind does not have.
    """
    shape = check_shape(array.shape, kind, where)
    check_dtype(array.dtype, kind, where)
    if array.dtype == KINDS[kind].dtype:
        with np.errstate(invalid="ignore"):  # a NaN propagates and is refused
            _check_range(array.dtype, array.min(), array.max(), kind, where)
        return np.ascontiguousarray(array).reshape(shape)
    flat = array.reshape(-1)
    chunks = (flat[start : start + CHUNK] for start in range(0, flat.size, CHUNK))
    return convert(chunks, array.dtype, flat.size, kind, where).reshape(shape)


def convert(chunks: Iterable[np.ndarray], dtype: np.dtype, size: int, kind: str, where: str) -> np.ndarray:
    """Return numbers as they are stored; chunk by chunk, to save memory.

    Args:
      chunks: the numbers, arrays [n] of the dtype.
      dtype: a dtype that `check_dtype` permits.
      size: the number of all numbers.
      kind: a name in `KINDS`.
      where: the array, at the start of an error message.

    Returns:
      The numbers, [size], of the dtype of the kind.

    Raises:
      InputError: a number that the kind does not have.
    """
    stored = np.empty(size, KINDS[kind].dtype)
    start, low, high, fractional = 0, math.inf, -math.inf, False
    for chunk in chunks:
        with np.errstate(invalid="ignore", over="ignore"):  # what is not finite propagates and is refused below
            low, high = np.minimum(low, chunk.min()), np.maximum(high, chunk.max())
            if kind == "counts" and dtype.kind == "f":
                fractional |= bool((chunk != np.rint(chunk)).any())
            stored[start : start + len(chunk)] = _converted(chunk, kind)
        start += len(chunk)
    _check_range(dtype, low, high, kind, where)
    if fractional:
        raise InputError(f"{where} has numbers that are no integers; use data.kind=vectors, or integers")
    return stored


def _converted(chunk: np.ndarray, kind: str) -> np.ndarray:
    """Return a chunk as a dtype that is assigned to the stored array; of values out of range any number."""
    if kind == "images" and chunk.dtype.kind == "f":
        inside = (chunk >= -HALF_LEVEL) & (chunk <= 1 + HALF_LEVEL)
        return np.rint(np.clip(np.where(inside, chunk, 0).astype(np.float64), 0, 1) * 255)
    if kind == "images" and chunk.dtype.kind == "b":
        return np.uint8(255) * (chunk.view(np.uint8) != 0)
    return chunk.astype(KINDS[kind].dtype, copy=False)


def _check_range(dtype: np.dtype, low: float, high: float, kind: str, where: str) -> None:
    """Raise InputError if numbers from `low` to `high` (NaN if there is a NaN) are not of the kind."""
    if kind == "images":
        if dtype.kind == "f" and (not (low >= -HALF_LEVEL and high <= 1 + HALF_LEVEL) or 0 < high <= TWICE):
            guess = _guess_scale(low, high)
            raise InputError(f"{where} has float values from {low:g} to {high:g}{guess}; scale them to [0, 1]")
        if dtype == np.uint8 and high == 1:
            raise InputError(f"{where} has uint8 values of only 0 and 1, but white is 255; multiply them by 255")
    elif kind == "vectors":
        largest = float(np.finfo(np.float32).max)
        if not (low >= -largest and high <= largest):
            raise InputError(
                f"{where} has values from {low:g} to {high:g}; remove or replace those that are not finite in float32"
            )
    elif not (low >= 0 and high < 2**31):
        raise InputError(f"{where} has values from {low:g} to {high:g}; use counts of at least 0 and less than 2^31")


def _guess_scale(low: float, high: float) -> str:
    """Return how floats that are no intensities in [0, 1] were probably scaled; an empty string if it is unknown."""
    if low >= -HALF_LEVEL and high <= TWICE:
        return ", probably divided by 255 twice: x * 255"
    if -1 - HALF_LEVEL <= low < 0 < high <= 1 + HALF_LEVEL and low < -0.5:
        return ", probably scaled to [-1, 1]: (x + 1) / 2"
    if low >= 0 and 16 < high <= 255:
        return ", probably of 0 to 255: x / 255"
    return ""


def check_labels(labels: np.ndarray, num_examples: int, where: str) -> np.ndarray:
    """Return labels as they are stored, int32 [N].

    Args:
      labels: integers [N].
      num_examples: N.
      where: the labels, at the start of an error message.

    Raises:
      InputError: the labels are not one integer for each example, or do not fit in int32.
    """
    if labels.shape != (num_examples,) or labels.dtype.kind not in "iu":
        raise InputError(
            f"{where} has shape {list(labels.shape)} and dtype {labels.dtype}; use one integer for each of the "
            f"{num_examples} examples"
        )
    if not -(2**31) <= labels.min() <= labels.max() < 2**31:
        raise InputError(f"{where} has values from {labels.min()} to {labels.max()}; use labels that fit in int32")
    return labels.astype(np.int32, copy=False)


def check_conditions(conditions: np.ndarray, num_examples: int, where: str) -> np.ndarray:
    """Return conditions as they are stored, float32 [N, C].

    Args:
      conditions: finite numbers, [N] or [N, C].
      num_examples: N.
      where: the conditions, at the start of an error message.

    Raises:
      InputError: the conditions are not a vector of finite numbers for each example.
    """
    shape, is_real = conditions.shape, conditions.dtype.kind in "biuf"
    if not is_real or len(shape) not in (1, 2) or shape[0] != num_examples or conditions.size == 0:
        raise InputError(
            f"{where} has shape {list(shape)} and dtype {conditions.dtype}; use numbers [{num_examples}, C]"
        )
    with np.errstate(over="ignore"):
        stored = conditions.astype(np.float32, copy=False).reshape(num_examples, -1)
    if not np.isfinite(stored).all():
        raise InputError(f"{where} has numbers that are not finite in float32; use a mask for unknown conditions")
    return stored


def check_mask(mask: np.ndarray, shape: tuple[int, ...], where: str) -> np.ndarray:
    """Return a mask as it is stored, bool [N] (of the labels) or bool of the shape of the stored examples.

    Args:
      mask: bools, or numbers 0 and 1; [N], or the shape of the examples with or without the axis of channels.
      shape: the shape of the stored examples, [N, ...].
      where: the mask, at the start of an error message.

    Raises:
      InputError: the mask has another shape or other values.
    """
    if mask.shape not in (shape, shape[:1], shape[:-1] if shape[-1] == 1 else shape):
        raise InputError(f"{where} has shape {list(mask.shape)}; use {list(shape[:1])} or {list(shape)}")
    if mask.dtype.kind not in "biuf" or not np.isin(mask, (0, 1)).all():
        raise InputError(f"{where} has dtype {mask.dtype} and values other than 0 and 1; use bool")
    mask = mask.astype(bool, copy=False)
    return mask if mask.ndim == 1 else mask.reshape(shape)
