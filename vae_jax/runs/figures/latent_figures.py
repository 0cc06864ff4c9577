"""Figures of a latent space of real numbers: traversals, the manifold of two numbers, and maps of codes and prior."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jax import Array

from vae_jax.distributions import label_mask
from vae_jax.inference import Params
from vae_jax.runs.experiment.experiment import Experiment
from vae_jax.runs.figures import image_grids, latent_map, prior_map
from vae_jax.runs.figures.figure_files import Directory, save_figure
from vae_jax.runs.generation.decoding import conditions_of, decode_codes, encode_examples, layer_shapes
from vae_jax.runtime import Placement

Arrays = Mapping[str, np.ndarray]

MAX_TRAVERSALS = 10  # latents in the figure of traversals


def has_two_latents(experiment: Experiment, params: Params) -> bool:
    """Return whether the code of a model is two real numbers."""
    layers = layer_shapes(experiment, params).values()
    return [(layer.size, layer.is_integer) for layer in layers] == [(2, False)]


def plot_traversals(
    experiment: Experiment,
    params: Params,
    directory: Directory,
    arrays: Arrays,
    placement: Placement | None = None,
    *,
    key: Array,
    count: int = MAX_TRAVERSALS,
) -> Path:
    """Save figures/traversals.png: single latents varied from -3 to 3 around the code of the first image.

    The latents are the `count` whose posterior mean varies most over the images, in that order. With several layers
    they are latents of the first one that the model returns: next to the data, or the highest one of a ladder.
    """
    codes = encode_examples(experiment, params, key, arrays, placement, with_seen=False)
    variance = codes["mean"][:, : _first_layer_size(experiment, params)].var(axis=0)
    chosen = np.argsort(-variance, kind="stable")[:count]
    values = np.linspace(-3, 3, 11, dtype=np.float32)
    z = np.tile(codes["mean"][0], (len(chosen), len(values), 1))
    for row, latent in enumerate(chosen):
        z[row, :, latent] = values
    labels = [f"z{latent + 1}, var {variance[latent]:.2f}" for latent in chosen]
    conditions = _conditions_of_first(arrays, z.shape[:-1])
    decoded = decode_codes(experiment, params, z, placement, conditions=conditions)
    return save_figure(directory, "traversals", lambda path: image_grids.save_traversals(path, decoded, labels, values))


def _conditions_of_first(arrays: Arrays, lead: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Return the conditions of the first example for codes [*lead, D]."""
    return {n: np.broadcast_to(array[0], (*lead, *array.shape[1:])) for n, array in conditions_of(arrays).items()}


def _first_layer_size(experiment: Experiment, params: Params) -> int:
    """Return the number of latents of the first layer that the model returns."""
    return next(iter(layer_shapes(experiment, params).values())).size


def plot_manifold(
    experiment: Experiment,
    params: Params,
    directory: Directory,
    arrays: Arrays,
    placement: Placement | None = None,
    *,
    key: Array,
    side: int = 20,
) -> Path:
    """Save figures/manifold.png: a latent space of two numbers, decoded at equidistant quantiles of p(z).

    The quantiles are those of each number, see `prior_quantiles`: a learned prior moves to the codes, so the quantiles
    of N(0, I) can lie where no code is. A model that depends on labels gets that of the first example.
    """
    shares = (np.arange(side) + 0.5) / side
    values = prior_map.prior_quantiles(experiment, params, arrays, shares, placement, key=key)
    z = np.stack(np.meshgrid(*values), axis=-1)  # [i, j] = (values[0, j], values[1, i])
    conditions = _conditions_of_first(arrays, z.shape[:-1])
    decoded = decode_codes(experiment, params, z, placement, conditions=conditions)
    return save_figure(directory, "manifold", lambda path: image_grids.save_manifold(path, decoded, values))


def plot_prior_map(
    experiment: Experiment,
    params: Params,
    directory: Directory,
    arrays: Arrays,
    placement: Placement | None = None,
    *,
    key: Array,
) -> Path:
    """Save figures/prior_map.png: density and samples of p(z) and codes of examples, of a latent space of two numbers.

    See `map_prior`.
    """
    found = prior_map.map_prior(experiment, params, arrays, placement, key=key)
    labels, known = arrays.get("y"), label_mask(arrays)
    return save_figure(directory, "prior_map", lambda path: prior_map.save_prior_map(path, found, labels, known=known))


def plot_latent_map(
    experiment: Experiment,
    params: Params,
    directory: Directory,
    arrays: Arrays,
    placement: Placement | None = None,
    *,
    key: Array,
) -> Path:
    """Save figures/latent_map.png: posterior means in two dimensions, coloured by label where there is one.

    With several layers they are the means of the first one that the model returns: next to the data, or the highest
    one of a ladder.
    """
    means = encode_examples(experiment, params, key, arrays, placement, with_seen=False)["mean"]
    codes, labels, known = means[:, : _first_layer_size(experiment, params)], arrays.get("y"), label_mask(arrays)
    return save_figure(
        directory, "latent_map", lambda path: latent_map.save_latent_map(path, codes, labels, known=known)
    )
