"""Data sets by name or path, in one call."""

import os
import warnings
from typing import Any

import numpy as np

from vae_jax.config import DataConfig
from vae_jax.data import kinds
from vae_jax.data.configured import ConfiguredSource, Name, as_path
from vae_jax.data.dataset import Arrays
from vae_jax.data.records import Records
from vae_jax.errors import InputError


def load(
    name: Name, split: str, *, data_dir: Name | None = None, holdout: float = 0.1, kind: str = "auto",
    resize: int | None = None,
) -> np.ndarray:  # fmt: skip
    """Return the examples x of one split, in the order of the source.

    Args:
      name: One of: `digits`, `sprites`, `moons`, `moons_gap` or `moons_full_half` (prepared on first use); `mnist`, or
        another TFDS dataset prepared as array_record under `data_dir` (`name`, `name/config`, `name:version`); a name
        of `register_dataset`; a .npy or .npz file (see `load_file`); a folder of image files (see `load_folder`); a
        folder of IDX archives, or the archive of the training images (see `load_archives`). A plain name is the name of
        a dataset if there is one, else of a folder; `./name` is always a folder.
      split: train, validation or test.
      data_dir: The folder of prepared datasets; by default $TFDS_DATA_DIR or ~/tensorflow_datasets.
      holdout: The share of the training examples that is held out for a validation or test split that the source
        does not have; the same examples on every machine. The test split is held out first, and the validation
        split from the remaining examples.
      kind: images, vectors or counts; auto infers it from the array.
      resize: For a folder of images or a prepared dataset: the shorter side is scaled to so many pixels, and the centre
        is cropped.

    Returns:
      Images uint8 [N, H, W, C] with C = 1 or 3, from floats in [0, 1] rounded to multiples of 1/255; vectors float32
      [N, D]; counts int32 [N, D].

    Raises:
      InputError: If an argument or the examples cannot be used.
      NoExamplesError: If the split is empty: the source does not have it, and `holdout` leaves nothing for it.
      StorageError: If the data are damaged.

    Warns:
      UserWarning: Files or arrays are left out, or examples are in two splits.
    """
    return _load(_source(name, data_dir, holdout, kind, resize), split)["x"]


def load_labels(
    name: Name, split: str, *, data_dir: Name | None = None, holdout: float = 0.1, kind: str = "auto",
    resize: int | None = None,
) -> np.ndarray:  # fmt: skip
    """Return the labels of the examples that `load` returns for the same arguments.

    Args:
      name: As for `load`.
      split: As for `load`.
      data_dir: As for `load`.
      holdout: As for `load`.
      kind: As for `load`.
      resize: As for `load`.

    Returns:
      The labels, int32 [N].

    Raises:
      InputError: As `load`, or if there are no labels.
      NoExamplesError: As `load`.
      StorageError: If the data are damaged.

    Warns:
      UserWarning: As `load`.
    """
    arrays = _load(_source(name, data_dir, holdout, kind, resize), split)
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


def _load(source: ConfiguredSource, split: str) -> Arrays:
    arrays = source.split(split).arrays
    for note in source.notes():
        warnings.warn(note, stacklevel=3)
    return arrays


def _source(
    name: Name, data_dir: Name | None, holdout: float, kind: Any, resize: int | None = None
) -> ConfiguredSource:
    if kind not in ("auto", *kinds.KINDS):
        raise InputError(f"data.kind={kind!r} must be one of auto, {', '.join(kinds.KINDS)}")
    if resize is not None and (type(resize) is not int or resize < 1):
        raise InputError(f"data.resize={resize!r} must be an integer of at least 1")
    text = name if isinstance(name, str) else os.path.join(".", name)  # a path object is never the name of a dataset
    folder = None if data_dir is None else os.fspath(data_dir)
    return ConfiguredSource(
        DataConfig(name=text, kind=kind, data_dir=folder, holdout=holdout, resize=resize, streaming="never")
    )


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
    path = as_path(name, data_dir)
    return name if path is None else os.path.abspath(path)
