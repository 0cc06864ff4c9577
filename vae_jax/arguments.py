"""The command line as dataclasses, read by tyro; whatever is wrong with it is one line."""

import contextlib
import dataclasses
import functools
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vae_jax.config import Config
from vae_jax.errors import InputError
from vae_jax.presets import PRESETS
from vae_jax.settings import (
    fallen,
    flatten,
    from_flat,
    parse_setting,
    suggestion,
    unattended,
    validate,
    with_numbers,
)


@dataclasses.dataclass(frozen=True)
class Distributed:
    """Many processes that train one run: under SLURM, Open MPI, Kubernetes and on TPU pods they find each other.

    Elsewhere each is given the first three. What the run computes does not depend on them, so no run remembers them.
    """

    coordinator: str | None = None
    """HOST:PORT where process 0 can be reached by all."""
    num_processes: int | None = None
    """How many there are; 1: this one alone, whatever a scheduler says."""
    process_id: int | None = None
    """Which of them this one is, from 0."""
    initialization_timeout: int = 300
    """Seconds to wait for all at the start."""
    heartbeat_timeout: int = 100
    """Seconds without a sign of life from one of them after which the others end."""
    shutdown_timeout: int = 300
    """Seconds to wait for all at the end."""


@dataclasses.dataclass(frozen=True)
class _OnPreset(Config):
    preset: str = "digits"
    """The settings to start from."""


@dataclasses.dataclass(frozen=True)
class _Start(_OnPreset):
    compilation_cache: str | None = "~/.cache/vae_jax/xla"
    """Where compiled programs are kept for the next start; None keeps none."""


@dataclasses.dataclass(frozen=True)
class Train(_Start):
    """Train a model, or go on with a run; then evaluate it on the test images and draw its figures.

    Without arguments: handwritten digits, no download. The same command after an interruption goes on as if
    nothing had happened; with more --train.steps a finished run goes on.
    """

    workdir: str | None = None
    """The run's directory; runs/PRESET if not given. Given without --preset, a run in it keeps its own settings."""
    allow_change: tuple[str, ...] = ()
    """Settings in which a run may go on otherwise than it began: train.batch_size data.holdout; it remembers where."""
    distributed: Distributed = dataclasses.field(default_factory=Distributed)
    profile: str | None = None
    """A folder for a trace of one dispatch, which Perfetto and TensorBoard open."""


@dataclasses.dataclass(frozen=True)
class Sweep(_Start):
    """Train the product of several values of some settings side by side, and compare the members.

    Members that differ in nothing but the seed, the optimizer's rate, b1, b2, eps and weight decay, and the objective's
    weights, floor and capacity, are one program; those that differ otherwise are another, trained after it. Each member
    is left as a run of its own in the sweep's directory; the same command goes on after an interruption.
    """

    workdir: str | None = None
    """The sweep's directory, with one for each member in it; runs/sweep-PRESET if not given."""
    vary: tuple[str, ...] = ()
    """The settings to vary and their values: seed=0,1,2 objective.beta=0.5,1,2."""


@dataclasses.dataclass(frozen=True)
class Bench(_OnPreset):
    """Measure the training step of a model: its program against variants of it, in interleaved rounds of one run.

    Writes bench.json and bench.png; what was compiled is thrown away. With --compare, nothing is measured.
    """

    workdir: str | None = None
    """Where bench.json and bench.png go; runs/bench-PRESET if not given."""
    rounds: int = 9
    """How often each row is timed, all rows in turn; intervals need several."""
    variants: str | None = None
    """The rows beside `program`, separated by commas (vae_jax.variants); the usual ones if not given."""
    profile: str | None = None
    """A folder for a trace of some dispatches, which Perfetto and TensorBoard open."""
    compare: tuple[str, ...] = ()
    """Two reports, A.json B.json: what changed from A to B beyond noise."""


@dataclasses.dataclass(frozen=True)
class Plan(_OnPreset):
    """Say what a training costs before it runs: work, memory on each device, least time, the largest batch that fits.

    The program is compiled for its shapes and not run; the machine's rate is measured. With --mesh.data N for more
    devices than are here, from the program that each would run.
    """

    memory: float | None = None
    """GiB of memory that each device has; what this machine's have if not given."""


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Evaluate a run: ELBO and its parts, NLL by importance sampling with its error, active units, bits/dim."""

    split: str = "test"
    """train, validation or test."""
    num_samples: int | None = None
    """K of the NLL; the run's evaluation.num_samples if not given, 0 for none."""
    chunk: int | None = None
    """Samples decoded at a time; the run's evaluation.chunk if not given."""
    batch_size: int | None = None
    """Images at a time; the run's evaluation.batch_size if not given."""


@dataclasses.dataclass(frozen=True)
class _Writes:
    to: str | None = None
    """A folder for what is written; the run's own directory if not given."""


@dataclasses.dataclass(frozen=True)
class Sample(_Writes):
    """Decode codes drawn from the prior: figures/samples.png and samples.npy."""

    count: int = 100
    """How many images."""
    seed: int = 0
    """The seed of the codes."""


@dataclasses.dataclass(frozen=True)
class Reconstruct(_Writes):
    """Decode the codes of test images: figures/reconstructions.png."""

    count: int | None = None
    """How many images; 30, or all where there are fewer, if not given."""
    split: str = "test"
    """train, validation or test."""


@dataclasses.dataclass(frozen=True)
class Interpolate(_Writes):
    """Decode the points between the codes of two test images: figures/interpolations.png."""

    pairs: int | None = None
    """How many pairs of images: the first `pairs` and the next `pairs` of the split; 8, or all where there are fewer,
    if not given."""
    frames: int = 11
    """Points on each path, ends included."""
    split: str = "test"
    """train, validation or test."""


@dataclasses.dataclass(frozen=True)
class Encode(_Writes):
    """Write the posterior's mean and scale for every image of a split: codes-SPLIT.npz."""

    split: str = "test"
    """train, validation or test."""


@dataclasses.dataclass(frozen=True)
class Export(_Writes):
    """Write the encoder, the decoder and a sampler as programs with the weights inside: exported/*.jax.

    They need JAX and flatbuffers, and nothing of this package. Each takes any number of examples, on a CPU, a GPU or a
    TPU; the encoder's are images as the model saw them, float32 in [0, 1], binarised if it trained on such.
    programs.json beside them says what they take and give, the step, and the binarisation.
    """


def parse_train(argv: Sequence[str]) -> tuple[Train, Config]:
    """(what was asked, the config): preset or the run's own settings first, then the flags."""
    preset, workdir = _value(argv, "--preset"), _value(argv, "--workdir")
    _check_preset(preset)
    stored = _stored_config(Path(workdir)) if workdir and preset is None else None
    base = stored or PRESETS[preset or "digits"]
    defaults = Train(**_sections(base), preset=preset or "digits", workdir=workdir)
    asked = _parse("train", Train, argv, defaults)
    return asked, _asked_of(base, asked)


def parse_sweep(argv: Sequence[str]) -> tuple[Sweep, Config, dict[str, list[Any]]]:
    """(what was asked, the config that all members share, the values of each setting that varies)."""
    asked, config = _parse_on_preset("sweep", Sweep, argv)
    varied = {}
    for word in asked.vary:
        path, equals, values = word.partition("=")
        if not equals or not values:
            raise InputError(f"--vary: {word} given, must be SETTING=VALUE,VALUE,...")
        if path in varied:
            raise InputError(f"--vary: {path} given twice, must be once, with all of its values")
        varied[path] = [parse_setting(path, value) for value in values.split(",")]
    if not varied:
        raise InputError("--vary: nothing given, must be one SETTING=VALUE,VALUE,... or more")
    return asked, config, varied


def parse_bench(argv: Sequence[str]) -> tuple[Bench, Config]:
    """(what was asked, the config that is measured)."""
    asked, config = _parse_on_preset("bench", Bench, argv)
    require_positive(rounds=asked.rounds)
    if asked.compare and len(asked.compare) != 2:
        raise InputError(f"--compare: {len(asked.compare)} file(s) given, must be two: A.json B.json")
    return asked, validate(unattended(config))


def parse_plan(argv: Sequence[str]) -> tuple[Plan, Config]:
    """(what was asked, the config that is planned)."""
    asked, config = _parse_on_preset("plan", Plan, argv)
    if asked.memory is not None and not 0 < asked.memory < float("inf"):
        raise InputError(f"--memory: {asked.memory} given, must be GiB, greater than 0")
    return asked, validate(unattended(config))


def _parse_on_preset(command: str, cls: type, argv: Sequence[str]) -> tuple[Any, Config]:
    preset = _value(argv, "--preset")
    _check_preset(preset)
    base = PRESETS[preset or "digits"]
    asked = _parse(command, cls, argv, cls(**_sections(base), preset=preset or "digits"))
    return asked, _asked_of(base, asked)


def _asked_of(base: Config, asked: Any) -> Config:
    """`base` with what the flags change of it, not validated: the commands do so, each in its time."""
    config = Config(**_sections(asked))
    before, now = flatten(base), flatten(config)
    return with_numbers(config, fallen(now, given=[path for path in now if now[path] != before[path]]))


def _check_preset(preset: str | None) -> None:
    if preset is not None and preset not in PRESETS:
        raise InputError(f"--preset: {preset} given, must be one of {', '.join(PRESETS)}{suggestion(preset, PRESETS)}")


def _stored_config(directory: Path) -> Config | None:
    if not os.path.exists(directory):  # nothing to read, so no need to import what reads it
        return None
    from vae_jax.runs import read_description

    stored = read_description(directory)
    return from_flat(stored["config"]) if stored else None


def _sections(config: Config) -> dict[str, Any]:
    return {f.name: getattr(config, f.name) for f in dataclasses.fields(Config)}


def _value(argv: Sequence[str], flag: str) -> str | None:
    """The last value of a flag that must be known before the others can be read; None if it is not given."""
    value = None
    for i, word in enumerate(argv):
        if word == flag and i + 1 < len(argv):
            value = argv[i + 1]
        elif word.startswith(flag + "="):
            value = word.removeprefix(flag + "=")
    return value


def parse_on_run(command: str, cls: type, argv: Sequence[str]) -> tuple[Path, Any]:
    """(run directory, options) of a command that works on a run."""
    if not argv or (argv[0].startswith("-") and argv[0] not in ("-h", "--help")):
        raise InputError(f"{command}: the run's directory is missing: vae-jax {command} RUN")
    if argv[0] in ("-h", "--help"):
        return Path(), _parse(f"{command} RUN", cls, argv, cls())
    return Path(argv[0]), _parse(f"{command} RUN", cls, argv[1:], cls())


def _parse(command: str, cls: type, argv: Sequence[str], default: Any) -> Any:
    """Reads flags into a dataclass with tyro; what it refuses becomes one line."""
    import tyro

    for flag in ("--vary", "--allow-change", "--compare"):  # of two, tyro would take the last alone
        if sum(word.partition("=")[0].replace("_", "-") == flag for word in argv) > 1:
            raise InputError(f"{flag}: given twice, must be once: {flag} ONE ANOTHER ...")
    if _value(argv, "--workdir") == "":
        raise InputError("--workdir: '' given, must be a directory")
    read = functools.partial(tyro.cli, cls, args=list(argv), prog=f"vae-jax {command}", default=default)
    if {"-h", "--help"} & set(argv):
        return read()
    # Not a terminal, and of a known encoding: tyro looks at stdout before it draws its box on stderr.
    said = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            return read()
    except SystemExit:
        raise InputError(_one_line(said.buffer.getvalue().decode())) from None


def _one_line(box: str) -> str:
    """The message inside tyro's box: what is wrong, and the flags that may have been meant."""
    lines = [line.strip("│ ") for line in box.splitlines() if line.startswith("│")]
    parts: list[list[str]] = [[]]
    for line in lines:
        if set(line) == {"─"}:
            parts.append([])
        else:
            parts[-1].append(line)
    message = " ".join(parts[0])
    meant = [line for part in parts[1:] if part and part[0].startswith("Perhaps you meant") for line in part[1:]]
    flags = [line.split()[0] for line in meant if line.startswith("--")]
    return message + (f"; did you mean {' or '.join(flags)}?" if flags else "")


def require_positive(**values: int) -> None:
    """Raises InputError that names the first value which is not greater than 0."""
    for name, value in values.items():
        if value < 1:
            raise InputError(f"--{name}: {value} given, must be greater than 0")
