"""Command-line arguments as dataclasses, parsed by tyro; every error is one line."""

import contextlib
import dataclasses
import functools
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from vae_jax.config import (
    PRESETS,
    Config,
    defaults_of_unused,
    flatten,
    from_flat,
    replace_unvalidated,
    suggestion,
)
from vae_jax.errors import InputError

T = TypeVar("T")
P = TypeVar("P", bound="PresetOptions")

_LIST_FLAGS = ("--vary", "--allow-change", "--compare")  # tyro keeps only the last of two


@dataclasses.dataclass(frozen=True)
class PresetOptions(Config):
    """Every setting of a run, and the preset that they start from."""

    preset: str = "digits"
    """The preset to start from."""


@dataclasses.dataclass(frozen=True)
class TrainingOptions(PresetOptions):
    """The options of commands that train."""

    compilation_cache: str | None = "~/.cache/vae_jax/xla"
    """Folder for compiled programs, which the next start reuses; None disables it."""


@dataclasses.dataclass(frozen=True)
class OutputOptions:
    """The options of commands that write files."""

    to: str | None = None
    """Folder for the output; default: the run's directory."""


def parse_preset_command(command: str, cls: type[P], argv: Sequence[str]) -> tuple[P, Config]:
    """Return (options, config) of a command on a preset; the config is not validated yet.

    Raises:
      InputError: an unknown preset, or an argument that cannot be parsed.
    """
    preset = flag_value(argv, "--preset")
    check_preset(preset)
    base = PRESETS[preset or "digits"]
    options = parse(command, cls, argv, cls(**sections(base), preset=preset or "digits"))
    return options, requested_config(base, options)


def parse_train_command(cls: type[P], argv: Sequence[str], **defaults: Any) -> tuple[P, Config]:
    """Return (options, config) of `vae-jax train`: the preset or the stored settings of the run, then the flags.

    Raises:
      InputError: an unknown preset, or an argument that cannot be parsed.
    """
    preset, workdir = flag_value(argv, "--preset"), flag_value(argv, "--workdir")
    check_preset(preset)
    stored = _stored_config(Path(workdir)) if workdir and preset is None else None
    base = stored or PRESETS[preset or "digits"]
    options = parse("train", cls, argv, cls(**sections(base), preset=preset or "digits", **defaults))
    return options, requested_config(base, options)


def parse_run_command(command: str, cls: type[T], argv: Sequence[str]) -> tuple[Path, T]:
    """Return (run directory, options) of a command on a run.

    Raises:
      InputError: no run directory, or an argument that cannot be parsed.
    """
    if not argv or (argv[0].startswith("-") and argv[0] not in ("-h", "--help")):
        raise InputError(f"{command}: no run directory; use `vae-jax {command} RUN`")
    if argv[0] in ("-h", "--help"):
        return Path(), parse(f"{command} RUN", cls, argv, cls())
    return Path(argv[0]), parse(f"{command} RUN", cls, argv[1:], cls())


def parse(command: str, cls: type[T], argv: Sequence[str], default: T) -> T:
    """Parse flags into a dataclass with tyro; tyro's error becomes one line, InputError."""
    import tyro

    for flag in _LIST_FLAGS:
        if sum(word.partition("=")[0].replace("_", "-") == flag for word in argv) > 1:
            raise InputError(f"{flag} is given twice; give it once: {flag} ONE ANOTHER ...")
    if flag_value(argv, "--workdir") == "":
        raise InputError("--workdir='' must be a directory")
    read = functools.partial(tyro.cli, cls, args=list(argv), prog=f"vae-jax {command}", default=default)
    if {"-h", "--help"} & set(argv):
        return read()
    # A pipe of a known encoding instead of the terminal: tyro asks stdout before it draws its box on stderr.
    captured = io.BytesIO()
    stream = io.TextIOWrapper(captured, encoding="utf-8", write_through=True)
    try:
        with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
            return read()
    except SystemExit:
        raise InputError(one_line(captured.getvalue().decode())) from None


def one_line(box: str) -> str:
    """Return the message in tyro's box: the error, and the flags that may have been intended."""
    lines = [line.strip("│ ") for line in box.splitlines() if line.startswith("│")]
    parts: list[list[str]] = [[]]
    for line in lines:
        if set(line) == {"─"}:
            parts.append([])
        else:
            parts[-1].append(line)
    message = " ".join(parts[0])
    suggested = [line for part in parts[1:] if part and part[0].startswith("Perhaps you meant") for line in part[1:]]
    flags = [line.split()[0] for line in suggested if line.startswith("--")]
    return message + (f"; did you mean {' or '.join(flags)}?" if flags else "")


def flag_value(argv: Sequence[str], flag: str) -> str | None:
    """Return the last value of a flag that is needed before the others are parsed; None if it is absent."""
    value = None
    for i, word in enumerate(argv):
        if word == flag and i + 1 < len(argv):
            value = argv[i + 1]
        elif word.startswith(flag + "="):
            value = word.removeprefix(flag + "=")
    return value


def check_preset(preset: str | None) -> None:
    """Raise InputError for an unknown preset."""
    if preset is not None and preset not in PRESETS:
        raise InputError(f"--preset={preset} must be one of {', '.join(PRESETS)}{suggestion(preset, PRESETS)}")


def requested_config(base: Config, options: Config) -> Config:
    """Return `base` changed by the flags, not validated: each command validates it when it needs it."""
    config = Config(**sections(options))
    before, now = flatten(base), flatten(config)
    return replace_unvalidated(
        config, defaults_of_unused(now, given=[path for path in now if now[path] != before[path]])
    )


def sections(config: Config) -> dict[str, Any]:
    """Return the sections of a config by name."""
    return {field.name: getattr(config, field.name) for field in dataclasses.fields(Config)}


def require_positive(**values: int) -> None:
    """Raise InputError naming the first value that is less than 1."""
    for name, value in values.items():
        if value < 1:
            raise InputError(f"--{name}={value} must be greater than 0")


def _stored_config(directory: Path) -> Config | None:
    if not os.path.exists(directory):  # avoids importing JAX to read nothing
        return None
    from vae_jax.runs import read_description

    stored = read_description(directory)
    return from_flat(stored["config"]) if stored else None
