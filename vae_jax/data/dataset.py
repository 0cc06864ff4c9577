"""The images that a config names: complete in memory, or as records that training streams from disk."""

from typing import Any

import jax
import numpy as np

from vae_jax import random
from vae_jax.config import Config
from vae_jax.data import loading
from vae_jax.data.cache import fingerprint
from vae_jax.data.preprocess import binarize_once
from vae_jax.data.records import Records
from vae_jax.data.splits import SPLITS
from vae_jax.errors import InputError
from vae_jax.runtime import host

Images = np.ndarray | Records  # in memory, or streamed


def load_images(config: Config, split: str) -> np.ndarray:
    """Return the images of a split in memory, as a run with this config reads them.

    With `data.binarization=static` the images are already binarized by `binarize_once`, with a key that depends on
    `seed` and on the split.

    Args:
      config: The config of the run.
      split: train, validation or test.

    Returns:
      The images, uint8 [N, H, W, C].

    Raises:
      InputError: If the dataset or the split cannot be used, or the images do not fit in memory.
      StorageError: If the dataset is damaged.
    """
    records = _records(config, split) if _is_streamed(config) else None
    return _load(config, split) if records is None else records.read_all()


def training_images(config: Config) -> Images:
    """Return what training reads: the images of the train split, or the records that they are streamed from.

    With `data.streaming=auto` a prepared dataset is streamed if its training images would fill more than half of the
    available memory.

    Args:
      config: The config of the run.

    Returns:
      The array of `load_images`, or a `Records`.

    Raises:
      InputError: As `load_images`; or if `data.streaming=always` and `data.name` is a path.
      StorageError: If the dataset is damaged.
    """
    records = _records(config, "train") if _is_streamed(config) else None
    return _load(config, "train") if records is None else records


def _load(config: Config, split: str) -> np.ndarray:
    images = loading.load(config.data.name, split, data_dir=config.data.data_dir, holdout=config.data.holdout)
    if config.data.binarization != "static":
        return images
    key = jax.random.fold_in(jax.random.key(config.seed), random.BINARIZATION_STREAM)
    return np.asarray(jax.jit(binarize_once)(jax.random.fold_in(key, SPLITS.index(split)), images))


def _records(config: Config, split: str) -> Records | None:
    return loading.open_records(config.data.name, split, data_dir=config.data.data_dir, holdout=config.data.holdout)


def _is_streamed(config: Config) -> bool:
    """Return whether training streams its images from disk; raise InputError if it must and cannot."""
    if config.data.streaming == "never" or config.data.binarization == "static":
        return False
    records = _records(config, "train")
    if config.data.streaming == "always":
        if records is None:
            raise InputError(
                f"data.streaming=always does not work with data.name={config.data.name!r}, which is a path; use auto "
                "or never, or a dataset prepared as array_record"
            )
        return True
    available = host.available_memory()
    return records is not None and available is not None and records.nbytes > available // 2


def describe_images(images: Images) -> dict[str, Any]:
    """Return the description of the training images that a run stores; a resumed run refuses different images.

    Args:
      images: The array or the records of `training_images`.

    Returns:
      `fingerprint` (the SHA-256 of `fingerprint`), `num_examples` and `image_shape` ([H, W, C]).

    Raises:
      StorageError: If the records are damaged.
    """
    return {
        "fingerprint": images.summary.fingerprint if isinstance(images, Records) else fingerprint(images),
        "num_examples": len(images),
        "image_shape": list(images.shape[1:]),
    }
