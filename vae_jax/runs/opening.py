"""runs.opening."""

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
    """The run in a directory, from that directory alone; raises InputError where there is none."""
    directory = Path(directory)
    stored = read_description(directory)
    if stored is None:
        raise InputError(f"{directory}: no run here ({CONFIG_FILE} is missing); `vae-jax train --workdir` makes one")
    config = from_flat(stored["config"])
    # Whoever looks at a run may do so with fewer devices than it was trained on.
    fsdp = math.gcd(config.mesh.fsdp, jax.device_count())
    return Run(config, stored["data"], directory, sharding.make_mesh(fsdp=fsdp), tuple(stored["changes"]))


def prepare_run(
    config: Config,
    directory: str | os.PathLike,
    *,
    allow_change: Sequence[str] = (),
    log: Callable[[str], None] = lambda line: None,
) -> tuple[Run, Images]:
    """(run, its `training_images`) for training in `directory`, which nothing is written to yet.

    `say` is told of what may take minutes.
    Raises InputError if a setting or the data cannot be used, or if the directory holds a run with other settings than
    `allow_change` names or with other data; StorageError if the directory cannot be written to.
    """
    validate(config)
    directory = Path(directory)
    mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp)
    rows = config.train.batch_size // defaults.num_microbatches(config, mesh)
    sharding.check_batch_size(rows, mesh, setting=_per_dispatch(config))
    stored = read_description(directory)
    # Where the same images lie may change, and what else is wrong is told before they are read.
    differing = functools.partial(changed_settings, directory=directory, allow_change=allow_change)
    changes = differing(stored, config, ignore={"data.name"}) if stored else []
    images = training_images(config)
    name = resolve_name(config.data.name, data_dir=config.data.data_dir)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, name=name))
    if isinstance(images, Records):
        size = f"{len(images):,} images, {images.nbytes / 2**30:.2f} GiB"
        log(f"{config.data.name}: {size}, are streamed; a data set's first start looks through all of them once")
    if config.train.batch_size > len(images):
        raise InputError(
            f"train.batch_size={config.train.batch_size} must be at most the {len(images)} training images"
        )
    description = describe_images(images)
    if stored and stored["data"] != description:
        changes = differing(stored, config)
        changes += changed_data(stored["data"], description, directory, config.data, allow_change)
    if config.train.patience:
        load_images(config, "validation")  # refused if there are none: without them training would never stop early
    atomic_files.check_writable(directory)
    changes = (*(stored["changes"] if stored else ()), *changes)
    return Run(config, description, directory, mesh, changes, isinstance(images, Records)), images


def check_images(run: Run) -> None:
    """Refuses images that are no longer those of the run, by the fingerprint of its training images; InputError."""
    try:
        found = describe_images(training_images(run.config))
    except InputError as error:
        raise InputError(
            f"{error}; it is {run.directory / CONFIG_FILE} that names it: `vae-jax train --workdir {run.directory} "
            "--data.name NAME` says where the same images are now"
        ) from None
    if found != run.data:
        raise InputError(images_changed_message(run.config.data, run.directory) + f", or train {run.directory} on with them: `vae-jax "
                         f"train --workdir {run.directory} --allow-change data.name`")  # fmt: skip


def require_in_memory(run: Run, images: Images, what: str) -> np.ndarray:
    """Return the images of a run that is not streamed.

    Raises:
      InputError: the run is streamed, and `what` needs all images in memory.
    """
    if isinstance(images, Records):
        raise InputError(
            f"data.streaming={run.config.data.streaming} does not work with {what}, which holds all {len(images)} "
            "images in memory; use data.streaming=never on a machine where they fit"
        )
    return images


def _per_dispatch(config: Config) -> str:
    return "train.batch_size" + (" / train.microbatches" if config.train.microbatches > 1 else "")
