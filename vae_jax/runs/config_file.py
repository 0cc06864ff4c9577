"""The file config.json of a run: its settings, the description of its training data, and recorded changes."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from vae_jax.config import from_flat, resumable_settings, selected_settings
from vae_jax.errors import CheckpointError, InputError, StorageError
from vae_jax.runs.experiment.experiment import Experiment
from vae_jax.runs.storage.checksums import to_json_types
from vae_jax.runs.storage.directory import RunDirectory
from vae_jax.runtime import atomic_files

FORMAT = 2  # of config.json; files of the first format have no field "format"
MAX_NUMBERS = 1 << 30  # in one example; a config.json with a larger example is damaged or malicious
CHANGE_FIELDS = ("setting", "from", "to")


class StoredRun(NamedTuple):
    """The content of a config.json.

    Attributes:
      settings: the flat settings, {"train.steps": 6000, ...}.
      has_config: whether they are those of a config, from which the experiment can be built again.
      data: the description of the training examples, as `Experiment.data` returns it.
      changes: dictionaries with "step" and the keys of `CHANGE_FIELDS`.
      held_out: the description of the validation and test examples, as `Experiment.held_out` returns it; empty if the
        file contains none.
    """

    settings: dict[str, Any]
    has_config: bool
    data: dict[str, Any]
    changes: list[dict[str, Any]]
    held_out: dict[str, Any] = {}  # noqa: RUF012  # never changed


def read_stored_run(directory: RunDirectory) -> StoredRun | None:
    """Read the config.json of a run.

    A setting that the file lacks gets its default if a run may change it when it resumes.

    Args:
      directory: the run's directory.

    Returns:
      Its content; None if the directory contains no config.json.

    Raises:
      StorageError: the file cannot be read.
      InputError: the file has the format of an earlier version.
      CheckpointError: the file is not the configuration of a run.
    """
    path = directory.config
    try:
        stored = atomic_files.read_json(path)
        if "format" not in stored and "config" in stored:
            raise _earlier_format_error(directory, stored["config"])
        if stored["format"] != FORMAT:
            raise ValueError(f"format {stored['format']} of another version")
        changes = [{name: change[name] for name in ("step", *CHANGE_FIELDS)} for change in stored.get("changes", ())]
        settings, has_config = dict(stored["settings"]), bool(stored["has_config"])
        if has_config:
            settings = _resumable_defaults(settings) | settings
            from_flat(settings)
        held_out = {split: {"num_examples": int(found["num_examples"]), "sha256": str(found["sha256"])}
                    for split, found in stored.get("held_out", {}).items()}  # fmt: skip
        return StoredRun(settings, has_config, _checked_data(stored["data"]), changes, held_out)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from None
    except InputError as error:  # a setting or a choice of another version, or of a module that is not imported
        if isinstance(error, _EarlierFormat):
            raise
        raise CheckpointError(f"{path} is not the configuration of a run ({error})") from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path} is not the configuration of a run ({error})") from None


class _EarlierFormat(InputError):
    """A run directory of an earlier version."""


def _earlier_format_error(directory: RunDirectory, config: Any) -> InputError:
    """Return the error for a run of the first edition, with a command that trains it again."""
    data = config.get("data", {}) if isinstance(config, dict) else {}
    given = {"data.name": data.get("name"), "train.steps": config.get("train", {}).get("steps"),
             "model.latent_dim": config.get("model", {}).get("latent_dim"), "seed": config.get("seed")}  # fmt: skip
    flags = " ".join(f"--{path} {value}" for path, value in given.items() if value is not None)
    return _EarlierFormat(
        f"{directory.config} was written by an earlier version of vae_jax, whose settings have other names; train the "
        f"model again in another directory: `vae-jax train --workdir NEW {flags}`"
    )


def _resumable_defaults(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the defaults of the settings that do not affect what a run has computed."""
    may_change = resumable_settings()
    known = selected_settings(settings)
    return to_json_types({path: s.default for path, s in known.items() if path in may_change})


def _checked_data(data: dict[str, Any]) -> dict[str, Any]:
    """Return the description of the data; raise an error if it cannot be one."""
    arrays = {
        name: {"shape": [int(n) for n in a["shape"]], "dtype": str(a["dtype"]), "sha256": str(a["sha256"])}
        for name, a in data["arrays"].items()
    }
    for name, array in arrays.items():
        if min(array["shape"], default=1) < 1 or math.prod(array["shape"]) > MAX_NUMBERS:
            raise ValueError(f"array {name} of shape {array['shape']}")
    if "x" not in arrays:
        raise ValueError("no array x")
    return {"kind": str(data["kind"]), "num_examples": int(data["num_examples"]), "arrays": arrays}


def write_config(
    directory: RunDirectory, experiment: Experiment, changes: Sequence[dict[str, Any]], *, first_step: int = 0
) -> None:
    """Write the config.json of a run, and create its directory.

    Args:
      directory: the run's directory.
      experiment: what is trained.
      changes: the changes of this and of earlier starts. Those that this start makes are recorded with `first_step`. A
        recorded change of a later step gets it too, since the steps after it are computed again.
      first_step: the first step of this start.

    Raises:
      StorageError: the file cannot be written.
    """
    recorded = [change | {"step": min(first_step, change.get("step", first_step))} for change in changes]
    content = {
        "format": FORMAT,
        "has_config": experiment.config is not None,
        "settings": experiment.description(),
        "data": experiment.data,
        "held_out": experiment.held_out,
    }
    atomic_files.write_json(directory.config, content | ({"changes": recorded} if recorded else {}))
