"""Open an existing run from its directory, or prepare a new or resumed one for training."""

import dataclasses
import functools
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np

from vae_jax.config import Config, from_flat, validate
from vae_jax.data import Images, Records, describe_images, load_images, resolve_name, training_images
from vae_jax.errors import InputError
from vae_jax.runs.changes import changed_data, changed_settings, images_changed_message
from vae_jax.runs.config_file import CONFIG_FILE, read_description
from vae_jax.runs.run import Run
from vae_jax.runtime import atomic_files, defaults, sharding


def open_run(directory: str | os.PathLike) -> Run:
    """Return the run in a directory.

    The mesh may have fewer devices than in training: the size of its axis fsdp is the greatest common divisor of
    mesh.fsdp and the number of devices.

    Args:
      directory: the run's directory.

    Raises:
      InputError: the directory contains no run.
      StorageError: config.json cannot be read.
      CheckpointError: config.json is not the configuration of a run.
    """
    directory = Path(directory)
    stored = read_description(directory)
    if stored is None:
        raise InputError(
            f"{directory} contains no run ({CONFIG_FILE} is missing); `vae-jax train --workdir DIRECTORY` creates one"
        )
    config = from_flat(stored["config"])
    fsdp = math.gcd(config.mesh.fsdp, jax.device_count())
    return Run(config, stored["data"], directory, sharding.make_mesh(fsdp=fsdp), tuple(stored["changes"]))


def prepare_run(
    config: Config,
    directory: str | os.PathLike,
    *,
    allow_change: Sequence[str] = (),
    log: Callable[[str], None] = lambda line: None,
) -> tuple[Run, Images]:
    """Validate a run and load its training images, without writing to its directory.

    Args:
      config: the settings.
      directory: the run's directory; it may be absent, or contain a run that is to be resumed.
      allow_change: settings that may differ from those of the stored run.
      log: called with a line before work that may take minutes.

    Returns:
      (run, its training images: an array, or `Records` if they are streamed).

    Raises:
      InputError: a setting or the data is invalid, or differs from the stored run without being in `allow_change`.
      StorageError: the directory cannot be written to, or data cannot be read.
      CheckpointError: the stored config.json is not the configuration of a run.
    """
    validate(config)
    directory = Path(directory)
    mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp)
    batch_size = config.train.batch_size
    rows = batch_size // defaults.num_microbatches(config, mesh)
    sharding.check_batch_size(rows, mesh, setting=_batch_setting(config))
    stored = read_description(directory)
    # data.name may differ, because the same images can move. Other differences are refused before images are read.
    compare = functools.partial(changed_settings, directory=directory, allow_change=allow_change)
    changes = compare(stored, config, ignore={"data.name"}) if stored else []
    images = training_images(config)
    name = resolve_name(config.data.name, data_dir=config.data.data_dir)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, name=name))
    if isinstance(images, Records):
        size = f"{len(images):,} images, {images.nbytes / 2**30:.2f} GiB"
        log(f"{config.data.name}: {size}, streamed from disk; the first start with a data set scans all of its images")
    if batch_size > len(images):
        raise InputError(f"train.batch_size={batch_size} must be at most the {len(images)} training images")
    description = describe_images(images)
    if stored and stored["data"] != description:
        changes = compare(stored, config)
        changes += changed_data(stored["data"], description, directory, config.data, allow_change)
    if config.train.patience:
        load_images(config, "validation")  # raises if there are none: training could never stop early
    atomic_files.check_writable(directory)
    changes = (*(stored["changes"] if stored else ()), *changes)
    return Run(config, description, directory, mesh, changes, isinstance(images, Records)), images


def check_images(run: Run) -> None:
    """Check that the data source still contains the images that a run was trained on, by their fingerprint.

    Args:
      run: the run.

    Raises:
      InputError: the source is missing, or contains other images.
    """
    retrain = f"`vae-jax train --workdir {run.directory}"
    try:
        description = describe_images(training_images(run.config))
    except InputError as error:
        raise InputError(
            f"{error}; {run.directory / CONFIG_FILE} contains this name; if the images have moved, pass the new one: "
            f"{retrain} --data.name NAME`"
        ) from None
    if description != run.data:
        raise InputError(
            f"{images_changed_message(run.config.data, run.directory)}; restore them, or continue the training "
            f"with the new images: {retrain} --allow-change data.name`"
        )


def require_in_memory(run: Run, images: Images, what: str) -> np.ndarray:
    """Return the images of a run that is not streamed.

    Args:
      run: the run.
      images: its training images.
      what: what needs all images in memory, for the error.

    Raises:
      InputError: the run is streamed.
    """
    if isinstance(images, Records):
        raise InputError(
            f"data.streaming={run.config.data.streaming} does not work with {what}, which holds all {len(images)} "
            "images in memory; use data.streaming=never on a machine where they fit"
        )
    return images


def _batch_setting(config: Config) -> str:
    return "train.batch_size" + (" / train.microbatches" if config.train.microbatches > 1 else "")
