"""`vae-jax interpolate RUN`: images decoded from codes between those of two images."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

from vae_jax.cli.commands import register_command
from vae_jax.cli.output import plot_split
from vae_jax.cli.parsing import ExampleOptions, parse_run_command
from vae_jax.errors import InputError

_DEFAULT_PAIRS = 8


@dataclasses.dataclass(frozen=True)
class Interpolate(ExampleOptions):
    """Decode points between the codes of two test images: figures/interpolations.png.

    With another split or other data the name ends with this, for example interpolations-validation.png.
    """

    pairs: int | None = None
    """Number of pairs, of the first `pairs` images and the next `pairs`; default: 8, or all if there are fewer."""
    frames: int = 11
    """Points on each path, both ends included."""


@register_command("interpolate", "images decoded between the codes of pairs of test images", arguments="RUN", order=80)
def run(argv: Sequence[str]) -> dict[str, Any]:
    """Plot interpolations of a run; return the figure's path."""
    directory, options = parse_run_command("interpolate", Interpolate, argv)
    if options.frames < 2:
        raise InputError(f"--frames={options.frames} must be at least 2: both ends are included")
    from vae_jax.runs import plots

    return plot_split(
        "interpolate", directory, options,
        flag="pairs", requested=options.pairs, default=_DEFAULT_PAIRS,
        plot=functools.partial(plots.plot_interpolations, frames=options.frames), images_per_item=2,
    )  # fmt: skip
