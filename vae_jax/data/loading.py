"""Images and labels by name or path. Decoded arrays of prepared datasets are cached on disk."""

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from vae_jax.data import cache, files, splits
from vae_jax.data.catalog import (
    BUILTIN,
    CACHE_FOLDER,
    PreparedDataset,
    find,
    resolve_data_dir,
    silence_tfds,
    unknown_dataset_error,
)
from vae_jax.data.preparation import prepare
from vae_jax.data.records import CHUNK_RECORDS, Records, report_damage
from vae_jax.errors import InputError

Name = str | os.PathLike


def load(name: Name, split: str, *, data_dir: Name | None = None, holdout: float = 0.1) -> np.ndarray:
    """Return the images of one split, in the order of the source.

    Args:
      name: One of: `digits`, `moons`, `moons_gap` or `moons_full_half` (prepared on first use); `mnist`, or another
        TFDS dataset prepared as array_record under `data_dir` (`name`, `name/config`, `name:version`); a .npy or
        .npz file; a folder of image files. A plain name is the name of a dataset if there is one, else of a
        folder; `./name` is always a folder. The array of a .npy file has shape [N, H, W] or [N, H, W, 1 or 3] and
        dtype uint8, bool, or float in [0, 1], which is rounded to multiples of 1/255. Of a .npz file the array is
        `images`, or the only one except `labels`.
      split: train, validation or test.
      data_dir: The folder of prepared datasets; by default $TFDS_DATA_DIR or ~/tensorflow_datasets.
      holdout: The share of the training examples that is held out for a validation or test split that the source
        does not have; the same examples on every machine. The test split is held out first, and the validation
        split from the remaining examples.

    Returns:
      The images, uint8 [N, H, W, C] with C = 1 or 3.

    Raises:
      InputError: If an argument or the images cannot be used.
      NoExamplesError: If the split is empty: the source does not have it, and `holdout` leaves nothing for it.
      StorageError: If the data are damaged.
    """
    return _load("images", name, split, data_dir, holdout)


def load_labels(name: Name, split: str, *, data_dir: Name | None = None, holdout: float = 0.1) -> np.ndarray:
    """Return the labels of the images that `load` returns for the same arguments.

    Args:
      name: As for `load`. A .npz file has labels if it contains an array `labels`.
      split: As for `load`.
      data_dir: As for `load`.
      holdout: As for `load`.

    Returns:
      The labels, int32 [N].

    Raises:
      InputError: As `load`, or if there are no labels.
      NoExamplesError: As `load`.
      StorageError: If the data are damaged.
    """
    return _load("labels", name, split, data_dir, holdout)


def open_records(name: Name, split: str, *, data_dir: Name | None = None, holdout: float = 0.1) -> Records | None:
    """Return the images of `load` for the same arguments as records, which are read by position.

    Args:
      name: As for `load`.
      split: As for `load`.
      data_dir: As for `load`.
      holdout: As for `load`.

    Returns:
      The records; None if `name` is a path.

    Raises:
      InputError: As `load`, except for errors that are found only when the images are read.
      NoExamplesError: As `load`.
      StorageError: If the metadata are damaged.
    """
    splits.check(split, holdout)
    if _as_path(name, data_dir):
        return None
    prepared = _prepared(str(name), data_dir)
    part, indices = splits.select(prepared.splits, split, holdout)
    return Records(prepared, part, indices, _cache_dir(prepared, data_dir))


def resolve_name(name: Name, *, data_dir: Name | None = None) -> str:
    """Return the name of a dataset that is valid in any working directory: an absolute path, or the name of a dataset.

    Args:
      name: As for `load`.
      data_dir: As for `load`.

    Returns:
      The absolute path of a file or folder; the name of a dataset unchanged.

    Raises:
      InputError: If `name` is a path that cannot be used.
    """
    path = _as_path(name, data_dir)
    return str(name) if path is None else os.path.abspath(path)


def _load(kind: str, name: Name, split: str, data_dir: Name | None, holdout: float) -> np.ndarray:
    splits.check(split, holdout)
    if path := _as_path(name, data_dir):
        if kind == "labels":
            array = files.load_array_labels(path)
        else:
            array = files.load_folder(path) if path.is_dir() else files.load_array(path)
        _, indices = splits.select({"train": len(array)}, split, holdout)
    else:
        prepared = _prepared(str(name), data_dir)
        part, indices = splits.select(prepared.splits, split, holdout)
        feature = prepared.label_feature() if kind == "labels" else prepared.image_feature()[0]
        if feature is None:
            raise InputError(
                f"data.name={str(name)!r} has no labels among its features {', '.join(sorted(prepared.features))}; "
                "use a dataset with a feature 'label'"
            )
        array = _read_feature(prepared, part, feature, data_dir)
    return array if indices is None else array[indices]


def _as_path(name: Name, data_dir: Name | None) -> Path | None:
    """Return the path if `name` is one; None if it is the name of a dataset, known or unknown."""
    text, path = os.fspath(name), Path(name).expanduser()
    if path.suffix.lower() in (".npy", ".npz"):
        return path
    if os.path.isabs(path) or text.startswith(".") or not isinstance(name, str):
        if not path.is_dir():
            raise InputError(f"data.name={text!r} is not a folder; use an existing folder, or a .npy or .npz file")
        return path
    known = text in BUILTIN or find(text, resolve_data_dir(data_dir)) is not None
    return path if text and not known and path.is_dir() else None


def _prepared(name: str, data_dir: Name | None) -> PreparedDataset:
    root = resolve_data_dir(data_dir)
    if (prepared := find(name, root)) is None and name in BUILTIN and not BUILTIN[name].archives:
        prepare(name, data_dir=root)
        prepared = find(name, root)
    if prepared is None:
        raise unknown_dataset_error(name, root)
    return prepared


def _cache_dir(prepared: PreparedDataset, data_dir: Name | None) -> Path:
    return resolve_data_dir(data_dir) / CACHE_FOLDER / prepared.full_name / prepared.version


def _read_feature(prepared: PreparedDataset, part: str, feature: str, data_dir: Name | None) -> np.ndarray:
    """Return one feature of one split of the source from the cache; if it is not there, decode and cache it."""
    folder = _cache_dir(prepared, data_dir)
    source = cache.file_stats(prepared.directory)

    def entry(key: str) -> Path:
        return folder / f"{quote(part, safe='')}-{quote(key, safe='')}.npy"

    if (array := cache.read(entry(feature), source)) is not None:
        return array
    decoded = _decode(prepared, part)
    for key, array in decoded.items():
        cache.write(entry(key), array, source)
    return decoded[feature]


def _decode(prepared: PreparedDataset, part: str) -> dict[str, np.ndarray]:
    """Return {feature: array} of one split: images, uint8 [N, H, W, C], and labels, int32 [N], if there are any."""
    image, label, size = prepared.image_feature()[0], prepared.label_feature(), prepared.splits[part]
    where = f"data.name={prepared.full_name!r}"
    if not size:
        raise InputError(f"{where} has no examples in its split {part}; use a dataset with at least one image")
    shape, images = (), np.empty(0, np.uint8)
    labels = np.empty(size if label else 0, np.int32)
    with report_damage(prepared, part), silence_tfds():
        for i, record in zip(range(size), _iterate(prepared, part), strict=True):
            pixels = record[image]
            if not shape:
                shape = files.check_images((size, *pixels.shape), where)
                files.check_memory(math.prod(shape), where)
                images = np.empty(shape, np.uint8)
            if pixels.shape != shape[1:]:
                raise InputError(
                    f"{where} has images of different shapes (image {i} is {pixels.shape}, image 0 is {shape[1:]}); "
                    "resize them to one shape"
                )
            images[i] = pixels
            if label:
                labels[i] = record[label]
    return {image: images} | ({label: labels} if label else {})


def _iterate(prepared: PreparedDataset, part: str) -> Iterator[dict[str, Any]]:
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(prepared.directory)
    source = builder.as_data_source(part)  # pyright: ignore[reportCallIssue]  # a decorator of TFDS hides its parameters
    for start in range(0, len(source), CHUNK_RECORDS):
        yield from source.__getitems__(range(start, min(start + CHUNK_RECORDS, len(source))))
