"""Data sets by name or path: in memory, or streamed. Decoded arrays of prepared datasets are cached on disk."""

import dataclasses
import functools
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from vae_jax.config import DataConfig
from vae_jax.data import cache, files, kinds, splits
from vae_jax.data.catalog import (
    BUILTIN,
    CACHE_FOLDER,
    REGISTERED,
    PreparedDataset,
    find,
    resolve_data_dir,
    silence_tfds,
    unknown_dataset_error,
)
from vae_jax.data.dataset import ArrayDataset, Dataset
from vae_jax.data.preparation import prepare
from vae_jax.data.records import CHUNK_RECORDS, Records, feature_keys, report_damage
from vae_jax.data.source import ArraySource, Source, from_splits
from vae_jax.errors import InputError
from vae_jax.runtime import host

Name = str | os.PathLike


@dataclasses.dataclass(frozen=True)
class ConfiguredSource:
    """The source that `data.name` names.

    Attributes:
      config: The section `data` of a config.
    """

    config: DataConfig

    @property
    def name(self) -> str:
        """The value of `data.name`."""
        return self.config.name

    def split(self, split: str) -> ArrayDataset:
        """Return the examples of a split in memory, in the order of the source.

        Args:
          split: train, validation or test.

        Returns:
          The examples: x, and y and mask if the source has them.

        Raises:
          InputError: If a setting or the data cannot be used, or the data do not fit in memory.
          NoExamplesError: If the split is empty: the source does not have it, and `holdout` leaves nothing for it.
          StorageError: If the data are damaged.
        """
        splits.check(split, self.config.holdout)
        if self._registered is not None:
            return self._registered.split(split)
        if path := self._path:
            dataset = files.load_folder(path) if path.is_dir() else files.load_file(path, self.config.kind)
            self._check_kind(dataset.kind)
            _, indices = splits.select({"train": len(dataset)}, split, self.config.holdout)
            return dataset if indices is None else ArrayDataset(dataset.read(indices), dataset.kind)
        self._check_kind("images")
        if self._is_streamed():  # the training examples need not fit in memory to read another split
            return ArrayDataset(self._open_records(split).read_all(), "images")
        prepared = _prepared(self.config)
        part, indices = splits.select(prepared.splits, split, self.config.holdout)
        arrays = _read_arrays(prepared, part, _cache_dir(prepared, self.config))
        return ArrayDataset(arrays if indices is None else {n: a[indices] for n, a in arrays.items()}, "images")

    def training(self) -> Dataset:
        """Return what training reads: the examples of the train split in memory, or the records that are streamed.

        With `data.streaming=auto` a prepared dataset is streamed if its training examples would fill more than half of
        the available memory.

        Raises:
          InputError: As `split`; or if `data.streaming=always` and the data set is not prepared on disk.
          StorageError: If the data are damaged.
        """
        splits.check("train", self.config.holdout)
        return self._open_records("train") if self._is_streamed() else self.split("train")

    def records(self, split: str) -> Records | None:
        """Return the examples of `split` as records, which are read by position.

        Args:
          split: train, validation or test.

        Returns:
          The records; None if the data set is not prepared on disk, but a path or registered.

        Raises:
          InputError: As `split`, except for errors that are found only when the images are read.
          NoExamplesError: As `split`.
          StorageError: If the metadata are damaged.
        """
        splits.check(split, self.config.holdout)
        if self._registered is not None or self._path:
            return None
        self._check_kind("images")
        return self._open_records(split)

    def _open_records(self, split: str) -> Records:
        prepared = _prepared(self.config)
        part, indices = splits.select(prepared.splits, split, self.config.holdout)
        return Records(prepared, part, indices, _cache_dir(prepared, self.config))

    def _is_streamed(self) -> bool:
        """Return whether training streams its examples from disk; raise InputError if it must and cannot."""
        if self.config.streaming == "never":
            return False
        records = self.records("train")
        if records is None:
            if self.config.streaming == "always":
                raise InputError(
                    f"data.streaming=always does not work with data.name={self.name!r}, which is "
                    f"{'a path' if self._registered is None else 'registered'}; use auto or never, or a dataset "
                    "prepared as array_record"
                )
            return False
        available = host.available_memory()
        large = available is not None and records.nbytes > available // 2
        return self.config.streaming == "always" or large

    def _check_kind(self, kind: str) -> None:
        if self.config.kind not in ("auto", kind):
            raise InputError(f"data.kind={self.config.kind} does not work with data.name={self.name!r}, which contains "
                             f"{kind}; use auto or {kind}")  # fmt: skip

    @functools.cached_property
    def _registered(self) -> ArraySource | None:
        """The arrays of a registered data set; its function is called once for each source."""
        if self.name not in REGISTERED:
            return None
        return from_splits(REGISTERED[self.name](), kind=self.config.kind, holdout=self.config.holdout,
                           name=self.name, where=f"data.name={self.name!r} ")  # fmt: skip

    @functools.cached_property
    def _path(self) -> Path | None:
        return _as_path(self.name, self.config.data_dir)


def open_source(config: DataConfig) -> Source:
    """Return the source that a config names. Nothing is read before it is used.

    Args:
      config: The section `data` of a config.

    Returns:
      The source.
    """
    return ConfiguredSource(config)


def load(
    name: Name, split: str, *, data_dir: Name | None = None, holdout: float = 0.1, kind: str = "auto"
) -> np.ndarray:
    """Return the examples x of one split, in the order of the source.

    Args:
      name: One of: `digits`, `moons`, `moons_gap` or `moons_full_half` (prepared on first use); `mnist`, or another
        TFDS dataset prepared as array_record under `data_dir` (`name`, `name/config`, `name:version`); a name of
        `register_dataset`; a .npy or .npz file (see `load_file`); a folder of image files, or of one folder of image
        files for each class. A plain name is the name of a dataset if there is one, else of a folder; `./name` is
        always a folder.
      split: train, validation or test.
      data_dir: The folder of prepared datasets; by default $TFDS_DATA_DIR or ~/tensorflow_datasets.
      holdout: The share of the training examples that is held out for a validation or test split that the source
        does not have; the same examples on every machine. The test split is held out first, and the validation
        split from the remaining examples.
      kind: images, vectors or counts; auto infers it from the array.

    Returns:
      Images uint8 [N, H, W, C] with C = 1 or 3, from floats in [0, 1] rounded to multiples of 1/255; vectors float32
      [N, D]; counts int32 [N, D].

    Raises:
      InputError: If an argument or the examples cannot be used.
      NoExamplesError: If the split is empty: the source does not have it, and `holdout` leaves nothing for it.
      StorageError: If the data are damaged.
    """
    return _source(name, data_dir, holdout, kind).split(split).arrays["x"]


def load_labels(
    name: Name, split: str, *, data_dir: Name | None = None, holdout: float = 0.1, kind: str = "auto"
) -> np.ndarray:
    """Return the labels of the examples that `load` returns for the same arguments.

    Args:
      name: As for `load`.
      split: As for `load`.
      data_dir: As for `load`.
      holdout: As for `load`.
      kind: As for `load`.

    Returns:
      The labels, int32 [N].

    Raises:
      InputError: As `load`, or if there are no labels.
      NoExamplesError: As `load`.
      StorageError: If the data are damaged.
    """
    arrays = _source(name, data_dir, holdout, kind).split(split).arrays
    if "y" not in arrays:
        raise InputError(
            f"data.name={os.fspath(name)!r} has no labels; use a TFDS dataset with a feature 'label', a .npz file with "
            "an array 'y' or 'labels', or a folder with a folder of images for each class"
        )
    return arrays["y"]


def open_records(name: Name, split: str, *, data_dir: Name | None = None, holdout: float = 0.1) -> Records | None:
    """Return the examples of `load` for the same arguments as records, which are read by position.

    Args:
      name: As for `load`.
      split: As for `load`.
      data_dir: As for `load`.
      holdout: As for `load`.

    Returns:
      The records; None if the data set is not prepared on disk, but a path or registered.

    Raises:
      InputError: As `load`, except for errors that are found only when the images are read.
      NoExamplesError: As `load`.
      StorageError: If the metadata are damaged.
    """
    return _source(name, data_dir, holdout, "auto").records(split)


def _source(name: Name, data_dir: Name | None, holdout: float, kind: Any) -> ConfiguredSource:
    if kind not in ("auto", *kinds.KINDS):
        raise InputError(f"data.kind={kind!r} must be one of auto, {', '.join(kinds.KINDS)}")
    text = name if isinstance(name, str) else os.path.join(".", name)  # a path object is never the name of a dataset
    folder = None if data_dir is None else os.fspath(data_dir)
    return ConfiguredSource(DataConfig(name=text, kind=kind, data_dir=folder, holdout=holdout, streaming="never"))


def resolve_name(name: str, *, data_dir: Name | None = None) -> str:
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
    return name if path is None else os.path.abspath(path)


def _as_path(name: str, data_dir: Name | None) -> Path | None:
    """Return the path if `name` is one; None if it is the name of a dataset, known or unknown."""
    path = host.expand_home(name, "data.name")
    if path.suffix.lower() in (".npy", ".npz"):
        return path
    if os.path.isabs(path) or name.startswith("."):
        if not path.is_dir():
            raise InputError(f"data.name={name!r} is not a folder; use an existing folder, or a .npy or .npz file")
        return path
    known = name in REGISTERED or name in BUILTIN or find(name, resolve_data_dir(data_dir)) is not None
    return path if name and not known and path.is_dir() else None


def _prepared(config: DataConfig) -> PreparedDataset:
    name, root = config.name, resolve_data_dir(config.data_dir)
    if (prepared := find(name, root)) is None and name in BUILTIN and not BUILTIN[name].archives:
        prepare(name, data_dir=root)
        prepared = find(name, root)
    if prepared is None:
        raise unknown_dataset_error(name, root)
    return prepared


def _cache_dir(prepared: PreparedDataset, config: DataConfig) -> Path:
    return resolve_data_dir(config.data_dir) / CACHE_FOLDER / prepared.full_name / prepared.version


def _read_arrays(prepared: PreparedDataset, part: str, folder: Path) -> dict[str, np.ndarray]:
    """Return images and labels of one split of the source from the cache in `folder`; else decode and cache them."""
    source = cache.file_stats(prepared.directory)
    paths = {
        name: folder / f"{quote(part, safe='')}-{quote(key, safe='')}.npy"
        for name, key in feature_keys(prepared).items()
    }
    arrays = {}
    for name, path in paths.items():
        if (array := cache.read(path, source)) is None:
            arrays = _decode(prepared, part)
            for decoded, values in arrays.items():
                cache.write(paths[decoded], values, source)
            break
        arrays[name] = array
    return arrays


def _decode(prepared: PreparedDataset, part: str) -> dict[str, np.ndarray]:
    """Return the arrays of one split: x, uint8 [N, H, W, C], and y, int32 [N], if there are labels."""
    keys, size = feature_keys(prepared), prepared.splits[part]
    where = f"data.name={prepared.full_name!r}"
    if not size:
        raise InputError(f"{where} has no examples in its split {part}; use a dataset with at least one image")
    shape, images = (), np.empty(0, np.uint8)
    labels = np.empty(size if "y" in keys else 0, np.int32)
    with report_damage(prepared, part), silence_tfds():
        for i, record in zip(range(size), _iterate(prepared, part), strict=True):
            pixels = record[keys["x"]]
            if not shape:
                shape = kinds.check_shape((size, *pixels.shape), "images", where)
                files.check_memory(math.prod(shape), where)
                images = np.empty(shape, np.uint8)
            if pixels.shape != shape[1:]:
                raise InputError(
                    f"{where} has images of different shapes (image {i} is {pixels.shape}, image 0 is {shape[1:]}); "
                    "resize them to one shape"
                )
            images[i] = pixels
            if "y" in keys:
                labels[i] = record[keys["y"]]
    return {"x": images} | ({"y": labels} if "y" in keys else {})


def _iterate(prepared: PreparedDataset, part: str) -> Iterator[dict[str, Any]]:
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(prepared.directory)
    source = builder.as_data_source(part)  # pyright: ignore[reportCallIssue]  # a decorator of TFDS hides its parameters
    for start in range(0, len(source), CHUNK_RECORDS):
        yield from source.__getitems__(range(start, min(start + CHUNK_RECORDS, len(source))))
