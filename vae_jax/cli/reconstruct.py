"""`vae-jax reconstruct RUN`: images of a split and their reconstructions."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vae_jax.cli.commands import register_command
from vae_jax.cli.conditions import repeat_condition
from vae_jax.cli.output import plot_split
from vae_jax.cli.parsing import ExampleOptions, parse_run_command

if TYPE_CHECKING:
    import numpy as np
    from jax import Array

    from vae_jax.inference import Params
    from vae_jax.runs import Experiment, RunDirectory
    from vae_jax.runtime import Placement

_DEFAULT_COUNT = 30


@dataclasses.dataclass(frozen=True)
class Reconstruct(ExampleOptions):
    """Decode the codes of test images: figures/reconstructions.png, or figures/transfer.png with --condition."""

    count: int | None = None
    """Number of images; default: 30, or all if there are fewer."""
    condition: str | None = None
    """What the codes are decoded under, of a model that reads conditions: a class, numbers such as 0.3,1.2, or none;
    default: the condition of each image."""


@register_command("reconstruct", "test images and their reconstructions", arguments="RUN", order=70)
def run(argv: Sequence[str]) -> dict[str, Any]:
    """Plot reconstructions of a run; return the figure's path."""
    directory, options = parse_run_command("reconstruct", Reconstruct, argv)
    from vae_jax.runs import plots

    plot = plots.plot_reconstructions
    if options.condition is not None:
        plot = functools.partial(_plot_transfer, condition=options.condition)
    return plot_split(
        "reconstruct", directory, options,
        flag="count", requested=options.count, default=_DEFAULT_COUNT,
        plot=plot,
    )  # fmt: skip


def _plot_transfer(
    experiment: "Experiment",
    params: "Params",
    directory: "RunDirectory",
    arrays: "Mapping[str, np.ndarray]",
    placement: "Placement",
    *,
    key: "Array",
    condition: str,
) -> Path:
    """Save the figure of codes under one condition; raise InputError if the model does not read it."""
    from vae_jax.runs import plots

    conditions = repeat_condition(experiment, condition, len(arrays["x"]))
    return plots.plot_transfer(experiment, params, directory, arrays, placement, key=key, conditions=conditions)
