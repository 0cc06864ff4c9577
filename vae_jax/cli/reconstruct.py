"""`vae-jax reconstruct RUN`: images of a split and their reconstructions."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from vae_jax.cli.commands import register_command
from vae_jax.cli.output import plot_split
from vae_jax.cli.parsing import ExampleOptions, parse_run_command

_DEFAULT_COUNT = 30


@dataclasses.dataclass(frozen=True)
class Reconstruct(ExampleOptions):
    """Decode the codes of test images: figures/reconstructions.png."""

    count: int | None = None
    """Number of images; default: 30, or all if there are fewer."""


@register_command("reconstruct", "test images and their reconstructions", arguments="RUN", order=70)
def run(argv: Sequence[str]) -> dict[str, Any]:
    """Plot reconstructions of a run; return the figure's path."""
    directory, options = parse_run_command("reconstruct", Reconstruct, argv)
    from vae_jax.runs import plots

    return plot_split(
        "reconstruct", directory, options,
        flag="count", requested=options.count, default=_DEFAULT_COUNT,
        plot=plots.plot_reconstructions,
    )  # fmt: skip
