"""Differences between a stored run and the settings or data of its next start: which are refused, which recorded."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import jax

from vae_jax.config import (
    RESUMABLE,
    SCHEDULES_SPANNING_STEPS,
    Config,
    DataConfig,
    differences,
    flatten,
    replace_unvalidated,
    suggestion,
)
from vae_jax.errors import InputError
from vae_jax.runs.checksums import dtype_and_shape, named_leaves, to_json_types
from vae_jax.runs.config_file import CHANGE_FIELDS
from vae_jax.runs.run import Run
from vae_jax.runtime import sharding

# Settings that select the training images. The seed does too where the images are binarized once.
IMAGE_SETTINGS = {"data.name", "data.holdout", "data.binarization"}


def images_changed_message(config: DataConfig, directory: Path) -> str:
    """Return the error for training images that differ from those that a run was trained on."""
    return f"data.name={config.name} no longer contains the images that {directory} was trained on"


def changed_settings(
    description: dict[str, Any],
    config: Config,
    directory: Path,
    allow_change: Sequence[str],
    *,
    ignore: Collection[str] = (),
) -> list[dict[str, Any]]:
    """Return a record for each setting that differs from the stored run, and that the run records.

    The settings in `RESUMABLE` may differ without a record. The exception is train.steps under a learning rate schedule
    that spans all steps: it may differ, and is recorded. Any other setting may differ only if `allow_change` lists it.

    Args:
      description: the stored run, as `read_description` returns it.
      config: the settings of this start.
      directory: the run's directory, for errors.
      allow_change: settings that may differ.
      ignore: settings that are not compared.

    Returns:
      Dictionaries with the keys of `CHANGE_FIELDS`.

    Raises:
      InputError: another setting differs, or `allow_change` contains an unknown setting.
    """
    stored, given = description["config"], to_json_types(flatten(config))
    for path in allow_change:
        if path not in given:
            raise InputError(f"--allow-change={path}: no such setting{suggestion(path, given)}")
    changed = differences(stored, given, ignore=RESUMABLE.union(ignore))
    if config.optimizer.schedule in SCHEDULES_SPANNING_STEPS:
        changed += ["train.steps"] if stored.get("train.steps") != given["train.steps"] else []
    if refused := [path for path in changed if path not in {*allow_change, "train.steps"}]:
        conflicts = ", ".join(
            f"{path}={given.get(path)} differs from {stored.get(path)} in {directory}" for path in refused
        )
        before = replace_unvalidated(config, {path: value for path, value in stored.items() if path in given})
        same = _array_specs(before, description["data"]) == _array_specs(config, description["data"])
        option = f", or allow the change with --allow-change {' '.join(refused)}" if same else ""
        raise InputError(
            f"{conflicts}; choose another --workdir, or pass --workdir alone to keep the run's settings{option}"
        )
    return [dict(zip(CHANGE_FIELDS, (path, stored.get(path), given.get(path)), strict=True)) for path in changed]


def _array_specs(config: Config, data: dict[str, Any]) -> dict[str, str]:
    """Return dtype and shape of each array in the training state of a run with these settings."""
    run = Run(config, data, Path(), sharding.make_mesh())
    return {path: dtype_and_shape(leaf) for path, leaf in named_leaves(jax.eval_shape(run.initial_state, run.key))}


def changed_data(
    stored: dict[str, Any], given: dict[str, Any], directory: Path, config: DataConfig, allow_change: Sequence[str]
) -> list[dict[str, Any]]:
    """Return a record for each field of the data description that differs from the stored run.

    Args:
      stored: the description of the training images that the run was trained on, as `describe_images` returns it.
      given: the description of the training images of this start.
      directory: the run's directory, for errors.
      config: the data settings of this start.
      allow_change: settings that may differ.

    Returns:
      Dictionaries with the keys of `CHANGE_FIELDS`.

    Raises:
      InputError: the image shape differs, or `allow_change` lists no setting that selects the images.
    """
    changed = [field for field in stored if stored[field] != given[field]]
    selecting = IMAGE_SETTINGS | ({"seed"} if config.binarization == "static" else set())
    if "image_shape" in changed or (changed and not selecting.intersection(allow_change)):
        option = "" if "image_shape" in changed else ", or allow the change with --allow-change data.name"
        raise InputError(f"{images_changed_message(config, directory)}; choose another --workdir{option}")
    return [dict(zip(CHANGE_FIELDS, (field, stored[field], given[field]), strict=True)) for field in changed]


def describe_changes(run: Run, step: int) -> list[str]:
    """Return a line for each change that this start of a run makes.

    Args:
      run: the run; changes of earlier starts have a "step" and are skipped.
      step: the first step of this start.

    Returns:
      Lines such as "seed changes from 0 to 1 at step 20, as allowed by --allow-change".
    """

    def reason(setting: str) -> str:
        if setting == "train.steps":
            return f"and with it the learning rate (optimizer.schedule={run.config.optimizer.schedule} spans all steps)"
        return "as allowed by --allow-change"

    new = [(c["setting"], c["from"], c["to"]) for c in run.changes if "step" not in c]
    return [f"{name} changes from {old} to {now} at step {step}, {reason(name)}" for name, old, now in new]
