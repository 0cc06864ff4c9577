"""`vae-jax plan`: what a training costs, before it runs."""

import dataclasses
import sys
from collections.abc import Sequence
from typing import Any

from vae_jax.cli.commands import register_command
from vae_jax.cli.parsing import PresetOptions, parse_preset_command
from vae_jax.config import Config, steps_only, validate
from vae_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Plan(PresetOptions):
    """Print what a training costs before it runs: work, memory of each device, step time, the largest batch that fits.

    The program is compiled for its shapes and not run; the machine's rates are measured. With --mesh.data N for more
    devices than this machine has, the program of each of those devices is compiled.
    """

    memory: float | None = None
    """GiB of memory of each device; default: what this machine's devices have."""


def parse_arguments(argv: Sequence[str]) -> tuple[Plan, Config]:
    """Return (options, the config that is planned)."""
    options, config = parse_preset_command("plan", Plan, argv)
    if options.memory is not None and not 0 < options.memory < float("inf"):
        raise InputError(f"--memory={options.memory} must be GiB, greater than 0")
    return options, validate(steps_only(config))


@register_command(
    "plan", "work, memory and lower bound on step time of a training, and the largest batch that fits", order=40
)
def run(argv: Sequence[str]) -> dict[str, Any]:
    """Print the plan and return it."""
    options, config = parse_arguments(argv)
    from vae_jax.bench import GIB, plan_training, print_plan

    limit = None if options.memory is None else round(options.memory * GIB)
    result = plan_training(config, limit=limit)
    print_plan(result, sys.stderr)
    return result
