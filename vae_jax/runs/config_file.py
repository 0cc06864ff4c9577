"""runs.config_file."""

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
MAX_PIXELS = 1 << 28  # in an image; a config.json that says more is damaged, or a trap
CHANGE = ("setting", "from", "to")
_DEFAULTS = to_json_types(flatten(Config()))
# What an older config.json does not have of these changes nothing that its run computed.
_RESUMABLE_DEFAULTS = {path: value for path, value in _DEFAULTS.items() if path in RESUMABLE}


def read_description(directory: Path) -> dict[str, Any] | None:
    """{"config": flat settings, "data": ..., "changes": ...} of the run in `directory`; None where there is none.

    A setting that nothing reads, which older versions took at any value, is at its default; so is one that they did not
    have, if it may differ between the parts of a run.
    Raises StorageError if the path cannot be looked at, CheckpointError if the file is there and makes no sense.
    """
    path = directory / CONFIG_FILE
    try:
        stored = json.loads(path.read_text())
        data = {name: stored["data"][name] for name in ("fingerprint", "num_examples", "image_shape")}
        data["image_shape"] = height, width, channels = [int(length) for length in data["image_shape"]]
        if min(height, width, channels) < 1 or height * width * channels > MAX_PIXELS:
            raise ValueError(f"images of {height}x{width}x{channels}")
        changes = [{name: change[name] for name in ("step", *CHANGE)} for change in stored.get("changes", ())]
        config = _RESUMABLE_DEFAULTS | flatten_mapping(stored["config"])
        config |= {path: _DEFAULTS[path] for path in unused_settings(config)}
        return {"config": config, "data": data, "changes": changes}
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise StorageError(f"{directory}: cannot be read as a run ({error.strerror})") from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path}: not readable as the config of a run ({error})") from None


def write_config(run: Run, *, first_step: int = 0) -> None:
    """Writes the run's config.json, creating its directory; what may change does so at `first_step`, or has before."""
    changes = [change | {"step": min(first_step, change.get("step", first_step))} for change in run.changes]
    content = {"config": dataclasses.asdict(run.config), "data": run.data}
    atomic_files.write_json(run.directory / CONFIG_FILE, content | ({"changes": changes} if changes else {}))
