"""The command that trains a run again, from its stored settings."""

import shlex
from collections.abc import Mapping
from typing import Any

from vae_jax.config import PRESETS, SECTIONS, flatten, selected_settings


def changed_settings(settings: Mapping[str, Any], preset: str) -> dict[str, Any]:
    """Return the settings that differ from a preset after its choices are replaced by those of the settings.

    A setting that the old and the new choice of a section share keeps its value, and another has its default.

    Args:
      settings: the flat settings of a run, {"train.steps": 6000, ...}.
      preset: the name of the preset.

    Returns:
      {"section.field": value}, in the order of the settings.
    """
    base = {path: _plain(value) for path, value in flatten(PRESETS[preset]).items()}
    defaults = {path: _plain(setting.default) for path, setting in selected_settings(settings).items()}
    return {
        path: value for path, value in settings.items() if _plain(value) != base.get(path, defaults.get(path))
    }  # fmt: skip


def nearest_preset(settings: Mapping[str, Any]) -> str:
    """Return the preset from which the fewest settings differ; of several the first one."""
    return min(PRESETS, key=lambda name: len(changed_settings(settings, name)))


def training_command(settings: Mapping[str, Any], directory: str) -> str:
    """Return the command that trains a model with some settings in a directory.

    Args:
      settings: the flat settings of a run, {"train.steps": 6000, ...}.
      directory: the directory of the new run.

    Returns:
      One line for a shell: `vae-jax train --preset NAME --workdir DIRECTORY`, and a flag for each other setting.
    """
    preset = nearest_preset(settings)
    changed = changed_settings(settings, preset)
    choices_first = sorted(changed, key=lambda path: path not in SECTIONS)
    words = ["vae-jax", "train", "--preset", preset, "--workdir", shlex.quote(directory)]
    return " ".join([*words, *(_flag(path, changed[path]) for path in choices_first)])


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _flag(path: str, value: Any) -> str:
    section, dot, field = path.replace("_", "-").rpartition(".")
    if isinstance(value, bool):
        return f"--{section}{dot}{'' if value else 'no-'}{field}"
    values = value if isinstance(value, list | tuple) else [value]
    return " ".join([f"--{section}{dot}{field}", *(shlex.quote(str(v)) for v in values)])
