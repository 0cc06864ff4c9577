"""runs.changes."""

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
from vae_jax.runs.config_file import CHANGE
from vae_jax.runs.run import Run

DECIDE_IMAGES = {"data.name", "data.holdout", "data.binarization"}  # and the seed, where they are binarised once


def images_changed_message(config: DataConfig, directory: Path) -> str:
    return f"data.name: the images of {config.name} are no longer those that {directory} was trained on"


def changed_settings(
    description: dict[str, Any],
    config: Config,
    directory: Path,
    allow_change: Sequence[str],
    *,
    ignore: Collection[str] = (),
) -> list[dict[str, Any]]:
    stored, given = description["config"], to_json_types(flatten(config))
    for path in allow_change:
        if path not in given:
            raise InputError(f"--allow-change: {path} given, no such setting{suggestion(path, given)}")
    changed = differences(stored, given, ignore=RESUMABLE.union(ignore))
    if config.optimizer.schedule in SCHEDULES_SPANNING_STEPS:
        changed += ["train.steps"] if stored.get("train.steps") != given["train.steps"] else []
    if refused := [path for path in changed if path not in {*allow_change, "train.steps"}]:
        told = ", ".join(f"{path}: {stored.get(path)} in {directory}, {given.get(path)} asked" for path in refused)
        before = replace_unvalidated(config, {path: value for path, value in stored.items() if path in given})
        same = _arrays(before, description["data"]) == _arrays(config, description["data"])
        other = f", or allow it by --allow-change {' '.join(refused)}" if same else ""
        raise InputError(f"{told}; choose another --workdir, or give --workdir alone and keep what the run has{other}")
    return [dict(zip(CHANGE, (path, stored.get(path), given.get(path)), strict=True)) for path in changed]


def _arrays(config: Config, data: dict[str, Any]) -> dict[str, str]:
    """Dtype and shape of each array that a run with these settings saves."""
    run = Run(config, data, Path(), mesh=None)
    return {path: dtype_and_shape(leaf) for path, leaf in named_leaves(jax.eval_shape(run.initial_state, run.key))}


def changed_data(
    stored: dict[str, Any], given: dict[str, Any], directory: Path, config: DataConfig, allow_change: Sequence[str]
) -> list[dict[str, Any]]:
    changed = [field for field in stored if stored[field] != given[field]]
    decide = DECIDE_IMAGES | ({"seed"} if config.binarization == "static" else set())
    if "image_shape" in changed or (changed and not decide.intersection(allow_change)):
        allowing = "" if "image_shape" in changed else ", or allow it by --allow-change data.name"
        raise InputError(f"{images_changed_message(config, directory)}; choose another --workdir{allowing}")
    return [dict(zip(CHANGE, (field, stored[field], given[field]), strict=True)) for field in changed]


def describe_changes(run: Run, step: int) -> list[str]:
    """A line for each change that holds from `step` on, where it is one of this start of the run."""

    def why(setting: str) -> str:
        if setting == "train.steps":
            return f"which the schedule {run.config.optimizer.schedule} of the learning rate spans"
        return "as allowed"

    new = [(c["setting"], c["from"], c["to"]) for c in run.changes if "step" not in c]
    return [f"{name}: {old} until step {step}, {now} from then on, {why(name)}" for name, old, now in new]
