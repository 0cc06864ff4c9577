"""Command-line arguments as dataclasses, parsed by tyro; every error is one line."""

import contextlib
import dataclasses
import functools
import io
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from vae_jax.cli.flags import (
    flag_value,
    options_with_settings,
    settings_of,
    similar_flags,
    with_selected_choices,
)
from vae_jax.config import PRESETS, Config, from_flat, replace_settings, suggestion, validate
from vae_jax.errors import InputError

if TYPE_CHECKING:
    from vae_jax.models import PriorConfig

T = TypeVar("T")
P = TypeVar("P", bound="PresetOptions")

Similar = Callable[[str, Sequence[str]], list[str]]

_LIST_FLAGS = ("--vary", "--allow-change", "--compare")  # tyro keeps only the last of two


@dataclasses.dataclass(frozen=True)
class PresetOptions:
    """The options of commands that start from settings. `options_with_settings` adds a flag for every setting."""

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


@dataclasses.dataclass(frozen=True)
class OtherData:
    """Data other than those of the run."""

    name: str | None = None
    """A data set, a file or a folder, for example of new images; default: the run's data."""
    resize: int | None = None
    """With --data.name: the shorter side of its images is scaled to so many pixels, and the centre is cropped; default:
    as the run's."""


@dataclasses.dataclass(frozen=True)
class ExampleOptions(OutputOptions):
    """The options of commands on the examples of a split."""

    data: OtherData = dataclasses.field(default_factory=OtherData)
    split: str | None = None
    """train, validation, test or all; default: test, or all with --data.name."""

    @property
    def chosen_split(self) -> str:
        """The split, or the default one."""
        return self.split or ("test" if self.data.name is None else "all")

    @property
    def variant(self) -> str:
        """The end of the names of figures: the label, or nothing for the test examples of the run."""
        return "" if self.label == "test" else self.label

    @property
    def label(self) -> str:
        """The split in the name of a file; with the name of other data, so that no file of the run's is replaced."""
        return self.chosen_split if self.data.name is None else f"{Path(self.data.name).stem}-{self.chosen_split}"


def parse_preset_command(command: str, cls: type[P], argv: Sequence[str], **defaults: Any) -> tuple[P, Config]:
    """Return (options, config) of a command: a preset, then the flags; the config is not validated yet.

    Args:
      command: the command.
      cls: the dataclass of its options.
      argv: its arguments.
      **defaults: defaults of options that differ from those of `cls`.

    Raises:
      InputError: an unknown preset or choice, or an argument that cannot be parsed.
    """
    return _parse_settings(command, cls, argv, None, defaults)


def parse_train_command(cls: type[P], argv: Sequence[str], **defaults: Any) -> tuple[P, Config]:
    """Return (options, config) of `vae-jax train`: the preset or the stored settings of the run, then the flags.

    Raises:
      InputError: an unknown preset or choice, or an argument that cannot be parsed.
    """
    preset, workdir = flag_value(argv, "--preset"), flag_value(argv, "--workdir")
    stored = _stored_config(Path(workdir)) if workdir and preset is None else None
    return _parse_settings("train", cls, argv, stored, defaults)


def _parse_settings(
    command: str, cls: type[P], argv: Sequence[str], stored: Config | None, defaults: dict[str, Any]
) -> tuple[P, Config]:
    preset = flag_value(argv, "--preset")
    check_preset(preset)
    base = with_selected_choices(stored or PRESETS[preset or "digits"], argv)
    defaults = {"preset": preset or "digits"} | defaults
    default = options_with_settings(cls, base, command=command, **defaults)
    own = ["--" + field.name.replace("_", "-") for field in dataclasses.fields(cls)]
    similar: Similar = lambda flag, suggested: similar_flags(flag, [*own, *suggested])  # noqa: E731
    options = parse(command, type(default), argv, default, similar=similar)
    return options, replace_settings(base, settings_of(options, base))


def parse_run_command(command: str, cls: type[T], argv: Sequence[str]) -> tuple[Path, T]:
    """Return (run directory, options) of a command on a run.

    Raises:
      InputError: no run directory, or an argument that cannot be parsed.
    """
    directory, rest = _run_directory(command, argv)
    return directory, parse(f"{command} RUN", cls, rest, cls())


def parse_prior_command(command: str, cls: type[T], argv: Sequence[str]) -> "tuple[Path, T, PriorConfig]":
    """Return (run directory, options, prior) of a command on a run with the flags --prior and --prior.FIELD.

    Raises:
      InputError: no run directory, no --prior, an unknown one, or an argument that cannot be parsed.
    """
    directory, rest = _run_directory(command, argv)
    if flag_value(rest, "--prior") is None and not {"-h", "--help"} & set(rest):
        raise InputError(f"{command}: no prior; use `vae-jax {command} {directory} --prior NAME`, for example mixture")
    base = with_selected_choices(Config(), rest)
    base = replace_settings(base, base.prior.context)
    default = options_with_settings(cls, base, command=f"{command} RUN", only=("prior",))
    options = parse(f"{command} RUN", type(default), rest, default)
    return directory, options, validate(replace_settings(base, settings_of(options, base))).prior


def _run_directory(command: str, argv: Sequence[str]) -> tuple[Path, list[str]]:
    """Return the run directory and the other arguments; raise InputError if there is no directory."""
    if argv and argv[0] in ("-h", "--help"):
        return Path(), list(argv)
    if not argv or argv[0].startswith("-"):
        raise InputError(f"{command}: no run directory; use `vae-jax {command} RUN`")
    return Path(argv[0]), list(argv[1:])


def parse(
    command: str,
    cls: type[T],
    argv: Sequence[str],
    default: T,
    *,
    similar: Similar = lambda flag, suggested: list(suggested),
) -> T:
    """Parse flags into a dataclass with tyro; tyro's error becomes one line, InputError.

    Args:
      command: the command.
      cls: the dataclass of its options.
      argv: its arguments.
      default: the options without arguments.
      similar: see `one_line`.
    """
    import tyro

    for flag in _LIST_FLAGS:
        if sum(word.partition("=")[0].replace("_", "-") == flag for word in argv) > 1:
            raise InputError(f"{flag} is given twice; give it once: {flag} ONE ANOTHER ...")
    if flag_value(argv, "--import") is not None:
        raise InputError(f"--import must precede the command: vae-jax --import MODULE {command}")
    if flag_value(argv, "--workdir") == "":
        raise InputError("--workdir='' must be a directory")
    read = functools.partial(tyro.cli, cls, args=list(argv), prog=f"vae-jax {command}", default=default)
    if {"-h", "--help"} & set(argv):
        return read()
    # A pipe of a known encoding instead of the terminal: tyro asks stdout before it draws its box on stderr.
    captured = io.BytesIO()
    stream = io.TextIOWrapper(captured, encoding="utf-8", errors="backslashreplace", write_through=True)
    try:
        with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
            return read()
    except SystemExit:
        raise InputError(one_line(captured.getvalue().decode(), similar)) from None


def one_line(box: str, similar: Similar = lambda flag, suggested: list(suggested)) -> str:
    """Return the message in tyro's box: the error, and the flags that may have been intended.

    Args:
      box: the text that tyro prints.
      similar: an unknown flag, and those that tyro suggests -> those to suggest.
    """
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
    if unknown := re.match(r"Unrecognized options: (--[^\s,=]+)", message):
        flags = similar(unknown[1], flags)
    return message + (f"; did you mean {' or '.join(flags)}?" if flags else "")


def check_preset(preset: str | None) -> None:
    """Raise InputError for an unknown preset."""
    if preset is not None and preset not in PRESETS:
        raise InputError(f"--preset={preset} must be one of {', '.join(PRESETS)}{suggestion(preset, PRESETS)}")


def require_positive(**values: int) -> None:
    """Raise InputError naming the first value that is less than 1."""
    for name, value in values.items():
        if value < 1:
            raise InputError(f"--{name}={value} must be greater than 0")


def _stored_config(directory: Path) -> Config | None:
    if not os.path.exists(directory):  # avoids importing JAX to read nothing
        return None
    from vae_jax.runs import RunDirectory, read_stored_run

    stored = read_stored_run(RunDirectory(directory))
    return from_flat(stored.settings) if stored and stored.has_config else None
