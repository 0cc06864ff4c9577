"""The file config.json of a run: its settings, the description of its training images, and recorded changes."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from vae_jax.config import RESUMABLE, Config, flatten, flatten_mapping, unused_settings
from vae_jax.errors import CheckpointError, StorageError
from vae_jax.runs.checksums import to_json_types
from vae_jax.runs.run import Run
from vae_jax.runtime import atomic_files

CONFIG_FILE = "config.json"
MAX_PIXELS = 1 << 28  # in one image; a config.json with a larger image is damaged or malicious
CHANGE_FIELDS = ("setting", "from", "to")
_DEFAULTS = to_json_types(flatten(Config()))
# Defaults for settings that an older config.json lacks. They do not affect what the run has computed.
_RESUMABLE_DEFAULTS = {path: value for path, value in _DEFAULTS.items() if path in RESUMABLE}


def read_description(directory: Path) -> dict[str, Any] | None:
    """Read the config.json of a run.

    A setting that the other settings make unused gets its default, because older versions accepted any value for it. A
    setting that the file lacks gets its default if a run may change it when it resumes.

    Args:
      directory: the run's directory.

    Returns:
      {"config": flat settings, "data": fingerprint, num_examples and image_shape of the training images, "changes":
      list of dictionaries with "step" and the keys of `CHANGE_FIELDS`}; None if the directory contains no config.json.

    Raises:
      StorageError: the file cannot be read.
      CheckpointError: the file is not the configuration of a run.
    """
    path = directory / CONFIG_FILE
    try:
        stored = json.loads(path.read_text())
        data = {name: stored["data"][name] for name in ("fingerprint", "num_examples", "image_shape")}
        data["image_shape"] = height, width, channels = [int(length) for length in data["image_shape"]]
        if min(height, width, channels) < 1 or height * width * channels > MAX_PIXELS:
            raise ValueError(f"images of {height}x{width}x{channels}")
        changes = [{name: change[name] for name in ("step", *CHANGE_FIELDS)} for change in stored.get("changes", ())]
        config = _RESUMABLE_DEFAULTS | flatten_mapping(stored["config"])
        config |= {path: _DEFAULTS[path] for path in unused_settings(config)}
        return {"config": config, "data": data, "changes": changes}
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path} is not the configuration of a run ({error})") from None


def write_config(run: Run, *, first_step: int = 0) -> None:
    """Write the run's config.json, and create its directory.

    Args:
      run: the run.
      first_step: the first step of this start. Changes that this start makes are recorded with it. A recorded change of
        a later step gets it too, since the steps after it are computed again.

    Raises:
      StorageError: the file cannot be written.
    """
    changes = [change | {"step": min(first_step, change.get("step", first_step))} for change in run.changes]
    content = {"config": dataclasses.asdict(run.config), "data": run.data}
    atomic_files.write_json(run.directory / CONFIG_FILE, content | ({"changes": changes} if changes else {}))
