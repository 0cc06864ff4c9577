"""Datasets prepared by TFDS in memory. Decoded arrays are cached on disk."""

from pathlib import Path

import numpy as np

from vae_jax.config import DataConfig
from vae_jax.data import cache
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
from vae_jax.data.records import Records, feature_keys
from vae_jax.errors import InputError


def find_prepared(config: DataConfig) -> PreparedDataset:
    """Return the prepared dataset that a config names; a built-in one without archives is prepared on first use.

    Raises:
      InputError: If there is none, or it cannot be read.
      StorageError: If its metadata are damaged.
    """
    name, root = config.name, resolve_data_dir(config.data_dir)
    if (prepared := find(name, root)) is None and name in BUILTIN and not BUILTIN[name].archives:
        prepare(name, data_dir=root)
        prepared = find(name, root)
    if prepared is None:
        raise unknown_dataset_error(name, root)
    return prepared


def open_part(prepared: PreparedDataset, config: DataConfig, part: str, indices: np.ndarray | None = None) -> Records:
    """Return examples of one split of a prepared dataset as records: those at the sorted indices, or all."""
    return Records(prepared, part, indices, _cache_dir(prepared, config), config.resize)


def read_part(prepared: PreparedDataset, config: DataConfig, part: str) -> dict[str, np.ndarray]:
    """Return images and labels of one split of a prepared dataset from the cache; else decode and cache them.

    Args:
      prepared: The dataset.
      config: The section `data` of a config, for the folder of the cache and the size of the images.
      part: A split of the dataset.

    Returns:
      x, uint8 [N, H, W, C], and y, int32 [N], if there are labels.

    Raises:
      InputError: If the split is empty, its images have different shapes, or they do not fit in memory.
      StorageError: If the data are damaged.
    """
    source, records = cache.file_stats(prepared.directory), open_part(prepared, config, part)
    paths = {name: records.cache_path(name) for name in feature_keys(prepared)}
    arrays = {}
    for name, path in paths.items():
        if (array := cache.read(path, source)) is None:
            arrays = _decode(records)
            for decoded, values in arrays.items():
                cache.write(paths[decoded], values, source)
            break
        arrays[name] = array
    return arrays


def _decode(records: Records) -> dict[str, np.ndarray]:
    if not len(records):
        raise InputError(
            f"data.name={records.prepared.full_name!r} has no examples in its split {records.part}; use a dataset with "
            "at least one image"
        )
    with silence_tfds():
        return records.read_all()


def _cache_dir(prepared: PreparedDataset, config: DataConfig) -> Path:
    return resolve_data_dir(config.data_dir) / CACHE_FOLDER / prepared.full_name / prepared.version
