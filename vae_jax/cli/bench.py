"""`vae-jax bench`: measure a training step and variants of it, or compare two measurements."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vae_jax.cli.commands import register_command
from vae_jax.cli.messages import log
from vae_jax.cli.parsing import PresetOptions, parse_preset_command, require_positive
from vae_jax.config import Config, steps_only, validate
from vae_jax.errors import InputError
from vae_jax.runtime import atomic_files


@dataclasses.dataclass(frozen=True)
class Bench(PresetOptions):
    """Measure the training step of a model: its program and variants of it, in interleaved rounds of one process.

    Writes bench.json and bench.png. With --compare nothing is measured.
    """

    workdir: str | None = None
    """Folder for bench.json and bench.png; default: runs/bench-PRESET."""
    rounds: int = 9
    """How often each row is timed; intervals need at least five rounds."""
    variants: str | None = None
    """The rows in addition to `program`, separated by commas; default: all, see docs/guides/performance.md."""
    profile: str | None = None
    """Folder for a trace of some dispatches, for Perfetto and TensorBoard."""
    compare: tuple[str, ...] = ()
    """Two reports, A.json B.json: print the changes from A to B that exceed the noise."""


def parse_arguments(argv: Sequence[str]) -> tuple[Bench, Config]:
    """Return (options, the config that is measured)."""
    options, config = parse_preset_command("bench", Bench, argv)
    require_positive(rounds=options.rounds)
    if options.compare and len(options.compare) != 2:
        raise InputError(f"--compare={' '.join(options.compare)} must be two files, A.json B.json")
    return options, validate(steps_only(config))


@register_command("bench", "the speed of a training step and of variants of it; --compare A.json B.json", order=30)
def run(argv: Sequence[str]) -> dict[str, Any]:
    """Measure, or compare; return the report."""
    options, config = parse_arguments(argv)
    if options.compare:
        return _compare(*options.compare)
    from vae_jax.bench import DEFAULT, check_names, draw_benchmark, print_report, run_benchmark
    from vae_jax.runs import prepare_experiment

    names = list(DEFAULT) if options.variants is None else [n for n in options.variants.split(",") if n]
    check_names(names)
    directory = Path(options.workdir or f"runs/bench-{options.preset}")
    profile = None if options.profile is None else Path(options.profile)
    if profile is not None:
        atomic_files.check_writable(profile, "--profile")
    experiment, placement = prepare_experiment(config, directory)
    report = run_benchmark(experiment, placement, names, rounds=options.rounds, log=log, profile=profile)
    atomic_files.write_json(directory / "bench.json", report)
    draw_benchmark(directory / "bench.png", report)
    print_report(report, sys.stderr)
    return {"report": str(directory / "bench.json"), "figure": str(directory / "bench.png")} | report


def _compare(before_path: str, after_path: str) -> dict[str, Any]:
    from vae_jax.bench import compare, context_differences, print_comparison, read_report

    before, after = read_report(before_path), read_report(after_path)
    rows, differences = compare(before, after), context_differences(before, after)
    print_comparison(rows, differences, sys.stderr)
    return {"before": before_path, "after": after_path, "rows": rows, "differences": differences}
