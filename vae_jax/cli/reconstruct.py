"""`vae-jax reconstruct RUN`: images of a split and their reconstructions, from all or from the top layers."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vae_jax.cli.commands import register_command
from vae_jax.cli.conditions import condition_variant, repeat_condition
from vae_jax.cli.output import plot_split
from vae_jax.cli.parsing import ExampleOptions, parse_run_command, require_positive
from vae_jax.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from jax import Array

    from vae_jax.inference import Params
    from vae_jax.runs import Experiment, RunDirectory
    from vae_jax.runtime import Placement

_DEFAULT_COUNT = 30
_DEFAULT_DRAWS = 10  # also the default number of images, each of which has a row


@dataclasses.dataclass(frozen=True)
class Reconstruct(ExampleOptions):
    """Decode the codes of test images: figures/reconstructions.png.

    With --keep-layers the stochastic layers below the top ones are drawn from the prior: figures/draws.png. With
    --condition the codes are decoded under another condition: figures/transfer.png. With another split, other data or
    --condition the name ends with this, for example reconstructions-validation.png.
    """

    count: int | None = None
    """Number of images; default: 30, or 10 with --keep-layers, or all if there are fewer."""
    keep_layers: int | None = None
    """Number of stochastic layers, from the top, that have the means of their posterior; 0: samples of the model."""
    draws: int | None = None
    """Draws of the other layers for each image, with --keep-layers; default: 10."""
    condition: str | None = None
    """What the codes are decoded under, of a model that reads conditions: a class, numbers such as 0.3,1.2, or none;
    default: the condition of each image."""

    @property
    def variant(self) -> str:
        """The end of the name of the figure: the examples and the condition, if they are given."""
        return "-".join(filter(None, (super().variant, condition_variant(self.condition))))


@register_command("reconstruct", "test images and their reconstructions", arguments="RUN", order=70)
def run(argv: Sequence[str]) -> dict[str, Any]:
    """Plot reconstructions of a run; return the figure's path."""
    directory, options = parse_run_command("reconstruct", Reconstruct, argv)
    from vae_jax.runs import plot_draws, plots

    plot, default = plots.plot_reconstructions, _DEFAULT_COUNT
    if options.keep_layers is not None and options.condition is not None:
        raise InputError("--keep-layers and --condition exclude each other; remove one of them")
    if options.draws is not None and options.keep_layers is None:
        raise InputError(f"--draws={options.draws} has no effect without --keep-layers; remove it or add --keep-layers")
    if options.keep_layers is not None:
        draws = _DEFAULT_DRAWS if options.draws is None else options.draws
        require_positive(draws=draws)
        plot, default = functools.partial(plot_draws, keep_layers=options.keep_layers, num_draws=draws), _DEFAULT_DRAWS
    elif options.condition is not None:
        plot = functools.partial(_plot_transfer, condition=options.condition)
    return plot_split(
        "reconstruct", directory, options,
        flag="count", requested=options.count, default=default,
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
