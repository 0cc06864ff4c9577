"""The images that a config names, as its run reads them: all at once, or as records that training streams."""

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
    """The images of a split as a run reads them: uint8 [N, H, W, C], binarised already if that is once and for all."""
    if _streams(config):
        return _open_records(config, split).read_all()
    images = loading.load(config.data.name, split, data_dir=config.data.data_dir, holdout=config.data.holdout)
    if config.data.binarization != "static":
        return images
    key = jax.random.fold_in(jax.random.key(config.seed), random.BINARIZATION_STREAM)
    return np.asarray(jax.jit(binarize_once)(jax.random.fold_in(key, SPLITS.index(split)), images))


def training_images(config: Config) -> np.ndarray | Records:
    """What training reads: `load_images` of the split train, or the records that it is streamed from."""
    return _open_records(config, "train") if _streams(config) else load_images(config, "train")


def _open_records(config: Config, split: str) -> Records | None:
    return loading.open_records(config.data.name, split, data_dir=config.data.data_dir, holdout=config.data.holdout)


def _streams(config: Config) -> bool:
    """Whether training reads its images from disk as it goes; InputError where it is asked to and cannot."""
    if config.data.streaming == "never" or config.data.binarization == "static":
        return False
    records = _open_records(config, "train")
    if config.data.streaming == "always":
        if records is None:
            raise InputError(
                f"data.streaming=always must be auto or never where data.name is a path ({config.data.name}); "
                "a data set prepared as array_record can be streamed"
            )
        return True
    room = host.available_memory()
    return records is not None and room is not None and records.nbytes > room // 2


def describe_images(images: np.ndarray | Records) -> dict[str, Any]:
    """What a run remembers of its training images, to refuse others when it goes on."""
    streamed = isinstance(images, Records)
    return {
        "fingerprint": images.summary.fingerprint if streamed else fingerprint(images),
        "num_examples": len(images),
        "image_shape": list(images.shape[1:]),
    }
