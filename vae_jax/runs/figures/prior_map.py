"""The map of a prior over two latents as a PNG figure: its density, the codes of examples, and its samples."""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
from jax import Array

from vae_jax.inference import Params
from vae_jax.models import StandardNormal
from vae_jax.runs.experiment.experiment import Experiment
from vae_jax.runs.figures.figure_files import axis_limits, new_figure, write_figure
from vae_jax.runs.figures.latent_map import draw_codes, point_size
from vae_jax.runs.generation.decoding import conditions_of, encode_examples, log_prior
from vae_jax.runs.generation.sampling import preprocess_key, sample_posterior, sample_prior
from vae_jax.runtime import Placement

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHARES = (0.5, 0.9, 0.99)  # of the prior's mass inside of the contours
NUM_SAMPLES = 10_000  # of the prior, which determine the contours and the quantiles
_SIDE = 150  # points of the grid along each axis
_DARKEST = 0.999  # share of the prior's mass inside of the region with a colour

Arrays = Mapping[str, np.ndarray]


class PriorMap(NamedTuple):
    """What a map of a prior shows.

    Attributes:
      ticks: coordinates of the grid along each axis, [2, S].
      log_density: log p(z) on the grid in nats, [S, S]; row i has z₂ = ticks[1, i].
      prior: samples of p(z), [M, 2].
      log_prior: their log p(z) in nats, [M].
      means: means of q(z|x) of the examples, [N, 2].
      posterior: a sample of q(z|x) of each example, [N, 2].
    """

    ticks: np.ndarray
    log_density: np.ndarray
    prior: np.ndarray
    log_prior: np.ndarray
    means: np.ndarray
    posterior: np.ndarray


def map_prior(
    experiment: Experiment, params: Params, arrays: Arrays, placement: Placement | None = None, *, key: Array
) -> PriorMap:
    """Return the density and samples of p(z), and the codes of examples, for a latent space of two numbers.

    The grid covers 99 % of the codes and of the samples. In a model whose p(z) depends on labels, p(z) is that of the
    first example.

    Args:
      experiment: its model and preprocessing are used.
      params: parameters of the model, or `Variables`.
      arrays: stored examples, {"x": [N, ...], ...}.
      placement: the devices; None for those of the parameters.
      key: random key of the samples and, by `preprocess_key`, of the preprocessing.
    """
    context, of_preprocess = (experiment, params), preprocess_key(key)
    means = encode_examples(*context, of_preprocess, arrays, placement, with_seen=False)["mean"]
    posterior = sample_posterior(*context, of_preprocess, arrays, placement).reshape(means.shape)  # one of each
    prior = _sample_prior(*context, key, arrays, placement)
    limits = np.array([axis_limits([codes[:, i] for codes in (means, posterior, prior)]) for i in range(2)])
    half = np.diff(limits).max() / 2  # equal for both axes, so that the panels are squares
    ticks = limits.mean(axis=1, keepdims=True) + np.linspace(-half, half, _SIDE)  # [2, S]
    grid = np.stack(np.meshgrid(*ticks), axis=-1)  # [S, S, 2]
    density, log_p = (
        log_prior(*context, z, placement, conditions=_conditions_of_first(arrays, z.shape[:-1])) for z in (grid, prior)
    )
    return PriorMap(ticks, density, prior, log_p, means, posterior)


def prior_quantiles(
    experiment: Experiment,
    params: Params,
    arrays: Arrays,
    shares: np.ndarray,
    placement: Placement | None = None,
    *,
    key: Array,
) -> np.ndarray:
    """Return the quantiles of each number of z under p(z).

    Those of N(0, I) are exact. Those of another prior have no closed form in general, and are quantiles of
    `NUM_SAMPLES` samples: the codes that a learned prior gives mass to may be anywhere.

    Args:
      experiment: its model is used.
      params: parameters of the model, or `Variables`.
      arrays: stored examples; in a model whose p(z) depends on labels, p(z) is that of the first one.
      shares: the mass below the quantiles, [S], between 0 and 1.
      placement: the devices; None for those of the parameters.
      key: random key of the samples.

    Returns:
      Float32 [D, S].
    """
    prior = getattr(experiment.model, "prior", None)
    if isinstance(prior, StandardNormal):
        return np.tile(np.asarray(jax.scipy.special.ndtri(shares), np.float32), (prior.size, 1))
    return np.quantile(_sample_prior(experiment, params, key, arrays, placement), shares, axis=0).T.astype(np.float32)


def _sample_prior(
    experiment: Experiment, params: Params, key: Array, arrays: Arrays, placement: Placement | None
) -> np.ndarray:
    conditions = _conditions_of_first(arrays, (NUM_SAMPLES,))
    return sample_prior(experiment, params, key, NUM_SAMPLES, placement, conditions=conditions)


def _conditions_of_first(arrays: Arrays, lead: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Return the arrays on which p(z) can depend, [*lead, ...] each: those of the first example, repeated."""
    return {name: np.broadcast_to(a[0], (*lead, *a.shape[1:])) for name, a in conditions_of(arrays).items()}


def save_prior_map(
    path: str | os.PathLike, found: PriorMap, labels: np.ndarray | None = None, *, known: np.ndarray | None = None
) -> None:
    """Save three panels with the same axes and the same contours, which contain `SHARES` of the mass of p(z).

    The panels are log p(z); the means of the codes, coloured by label; and samples of q(z|x), one for each example, on
    top of as many samples of p(z). Where samples of p(z) remain visible, p(z) has mass without codes.

    Args:
      path: the PNG file to write.
      found: what is shown; codes that are not finite are skipped.
      labels: integers [N]; None if there are none.
      known: bool [N], which examples have a label; None if all have.

    Raises:
      StorageError: the file cannot be written.
    """
    figure = new_figure(16, 5.4)
    density, means, samples = figure.subplots(1, 3)
    for axes in (density, means, samples):
        axes.set(xlabel="z₁", ylabel="z₂", aspect="equal")
        axes.grid(alpha=0.3)
    draw_codes(means, found.means, labels, known=known)
    means.set_title(f"means of q(z|x), {len(found.means)} examples")
    count = len(found.posterior)
    style: dict[str, Any] = {"s": point_size(count), "alpha": 0.6, "linewidths": 0}
    samples.scatter(*found.prior[:count].T, color="C1", label="p(z)", **style)
    samples.scatter(*found.posterior.T, color="C0", label="q(z|x)", **style)
    samples.set_title(f"{count} samples each")
    samples.legend(loc="upper right", fontsize=9)
    _draw_density(density, found)
    for axes in (means, samples):
        _draw_contours(axes, found, "0.2")
    for axes in (density, means, samples):
        axes.set(xlim=found.ticks[0, [0, -1]], ylim=found.ticks[1, [0, -1]])
    write_figure(path, figure)


def _draw_density(axes: "Axes", found: PriorMap) -> None:
    """Draw log p(z) as an image; regions outside of nearly all mass are white."""
    low, high = _level(found, _DARKEST), np.max(found.log_density)
    shown = np.ma.masked_less(found.log_density, low)
    image = axes.pcolormesh(*found.ticks, shown, cmap="viridis", vmin=low, vmax=max(high, low + 1e-3), shading="auto")
    axes.figure.colorbar(image, ax=axes, label="log p(z), nats", shrink=0.8)
    _draw_contours(axes, found, "white")
    shares = ", ".join(f"{share:.0%}" for share in SHARES)
    axes.set_title(f"p(z), contours with {shares} of its mass")


def _draw_contours(axes: "Axes", found: PriorMap, color: str) -> None:
    """Draw the borders of the smallest regions that contain `SHARES` of the samples of p(z)."""
    names = {_level(found, share): f"{share:.0%}" for share in sorted(SHARES, reverse=True)}
    inside = [level for level in sorted(names) if found.log_density.min() < level < found.log_density.max()]
    lines = axes.contour(*found.ticks, found.log_density, levels=inside, colors=color, linewidths=1, linestyles="-")
    axes.clabel(lines, fmt=names, fontsize=8)


def _level(found: PriorMap, share: float) -> float:
    """Return the log density that a share of the samples of p(z) exceeds."""
    return float(np.quantile(found.log_prior, 1 - share))
