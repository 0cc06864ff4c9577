"""Images and labels by name or path: `load`, `load_labels`, `open_records`. What `load` decodes is then cached."""

import math
import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import numpy as np

from vae_jax.data import cache, files, splits
from vae_jax.data.catalog import BUILTIN, HIDDEN, PreparedDataset, find, quiet, resolve_data_dir, unknown_dataset_error
from vae_jax.data.preparation import prepare
from vae_jax.data.records import RECORDS, Records, report_damage
from vae_jax.errors import InputError

Name = str | os.PathLike


def load(name: Name, split: str, *, data_dir: Name | None = None, holdout: float = 0.1) -> np.ndarray:
    """The images of one split, uint8 [N, H, W, C] with C = 1 or 3, in the order of the source.

    `name`: `digits` or `moons` (made on first use), `mnist`, any other TFDS data set prepared as array_record under
    `data_dir` (`name`, `name/config`, `name:version`), a .npy or .npz file, or a folder of pictures. A bare
    name means a data set before it means a folder; `./name` is always the folder. An array is [N, H, W] or
    [N, H, W, 1 or 3] of uint8, bool, or floats in [0, 1], which become multiples of 1/255; of a .npz it is `images`, or
    the only one beside `labels`. `split`: train, validation or test; where the source lacks one of the last two, the
    share `holdout` of its training examples is held out, the same ones on every machine: first for test, and
    of the rest for validation. Raises InputError for input that cannot be used, StorageError for damaged data.
    """
    return _load("images", name, split, data_dir, holdout)


def load_labels(name: Name, split: str, *, data_dir: Name | None = None, holdout: float = 0.1) -> np.ndarray:
    """The labels int32 [N] of the images that `load` gives for the same arguments; InputError if none."""
    return _load("labels", name, split, data_dir, holdout)


def open_records(name: Name, split: str, *, data_dir: Name | None = None, holdout: float = 0.1) -> Records | None:
    """The images of `load` for the same arguments, to be read a few at a time; None where `name` is a path.

    Raises as `load` does, but for what is found only by reading the images.
    """
    splits.check(split, holdout)
    if _as_file(name, data_dir):
        return None
    prepared = _prepared(str(name), data_dir)
    part, indices = splits.select(prepared.splits, split, holdout)
    return Records(prepared, part, indices, _cache_dir(prepared, data_dir))


def resolve_name(name: Name, *, data_dir: Name | None = None) -> str:
    """The name by which a run remembers its images: a path is made absolute, to hold wherever it is opened from."""
    path = _as_file(name, data_dir)
    return str(name) if path is None else os.path.abspath(path)


def _load(what: str, name: Name, split: str, data_dir: Name | None, holdout: float) -> np.ndarray:
    splits.check(split, holdout)
    if path := _as_file(name, data_dir):
        if what == "labels":
            array = files.load_array_labels(path)
        else:
            array = files.load_folder(path) if path.is_dir() else files.load_array(path)
        _, indices = splits.select({"train": len(array)}, split, holdout)
    else:
        prepared = _prepared(str(name), data_dir)
        part, indices = splits.select(prepared.splits, split, holdout)
        feature = prepared.label_feature() if what == "labels" else prepared.image_feature()[0]
        if feature is None:
            raise InputError(f"data.name={str(name)!r}: has no labels among {', '.join(sorted(prepared.features))}")
        array = _read(prepared, part, feature, data_dir)
    return array if indices is None else array[indices]


def _as_file(name: Name, data_dir: Name | None) -> Path | None:
    """The path, if `name` is one; None if it is the name of a data set, known or not."""
    text, path = os.fspath(name), Path(name).expanduser()
    if path.suffix.lower() in (".npy", ".npz"):
        return path
    if os.path.isabs(path) or text.startswith(".") or not isinstance(name, str):
        if not path.is_dir():
            raise InputError(f"data.name={text!r}: no such folder, and neither a .npy nor a .npz file")
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
    return resolve_data_dir(data_dir) / HIDDEN / prepared.full_name / prepared.version


def _read(prepared: PreparedDataset, part: str, feature: str, data_dir: Name | None) -> np.ndarray:
    """One feature of one split of the source: from the cache, else decoded and cached."""
    folder = _cache_dir(prepared, data_dir)
    source = cache.stamp(prepared.directory)

    def place(key: str) -> Path:
        return folder / f"{quote(part, safe='')}-{quote(key, safe='')}.npy"

    if (array := cache.read(place(feature), source)) is not None:
        return array
    decoded = _decode(prepared, part)
    for key, array in decoded.items():
        cache.write(place(key), array, source)
    return decoded[feature]


def _decode(prepared: PreparedDataset, part: str) -> dict[str, np.ndarray]:
    """Images, uint8 [N, H, W, C], and labels, int32 [N], if there are any, of one split: {feature: array}."""
    image, label, size = prepared.image_feature()[0], prepared.label_feature(), prepared.splits[part]
    where = f"data.name={prepared.full_name!r}"
    if not size:
        raise InputError(f"{where}: the split {part} is empty; at least one image is needed")
    images, labels = None, np.empty(size if label else 0, np.int32)
    with report_damage(prepared, part), quiet():
        for i, record in zip(range(size), _records(prepared, part), strict=True):
            picture = record[image]
            if images is None:
                shape = files.check_images((size, *picture.shape), where)
                files.check_memory(math.prod(shape), where)
                images = np.empty(shape, np.uint8)
            if picture.shape != shape[1:]:
                raise InputError(f"{where}: image {i} is {picture.shape}, image 0 is {shape[1:]}; all must agree")
            images[i] = picture
            if label:
                labels[i] = record[label]
    return {image: images} | ({label: labels} if label else {})


def _records(prepared: PreparedDataset, part: str) -> Iterator[dict]:
    import tensorflow_datasets as tfds

    source = tfds.builder_from_directory(prepared.directory).as_data_source(part)
    for start in range(0, len(source), RECORDS):
        yield from source.__getitems__(range(start, min(start + RECORDS, len(source))))
