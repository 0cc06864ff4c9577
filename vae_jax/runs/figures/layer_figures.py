"""Figures of a model with several stochastic layers: KL and active units of each, and what the top ones determine."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jax import Array

from vae_jax.inference import Params
from vae_jax.runs.experiment.experiment import Experiment
from vae_jax.runs.figures import image_grids
from vae_jax.runs.figures.figure_files import Directory, new_figure, plain_text, save_figure, write_figure
from vae_jax.runs.generation.layers import LayerNumbers, decode_top_layers, layer_numbers, layers_from_top, num_layers
from vae_jax.runtime import Placement

MAX_ROWS = 9  # numbers of kept layers in the figure of the top layers
_MAX_LABELS = 40  # layers that have a label each

Arrays = Mapping[str, np.ndarray]


def plot_layers(
    experiment: Experiment, params: Params, directory: Directory, evaluation: Mapping[str, Any]
) -> Path | None:
    """Save figures/layers.png: KL and active units of each stochastic layer, from the top downwards.

    Args:
      experiment: its model is traced with abstract arrays.
      params: parameters of the model, or `Variables`.
      directory: the run's directory.
      evaluation: the metrics of `Evaluator.bound`.

    Returns:
      The path of the figure; None for a model with one layer, or without a KL.
    """
    rows = layer_numbers(experiment, params, evaluation)
    return save_figure(directory, "layers", lambda path: save_layers(path, rows)) if rows else None


def save_layers(path: str | os.PathLike, rows: Sequence[LayerNumbers]) -> None:
    """Plot the KL and the active units of each layer as bars, the first layer at the top.

    Args:
      path: the PNG file to write.
      rows: the layers from the top.

    Raises:
      StorageError: the file cannot be written.
    """
    labelled = len(rows) <= _MAX_LABELS
    figure = new_figure(9, 1.5 + (0.3 * len(rows) if labelled else 10))
    left, right = figure.subplots(1, 2, sharey=True)
    places, names = np.arange(len(rows)), [row.name for row in rows]
    groups = list(dict.fromkeys(name.partition(",")[0] for name in names))
    colors = [f"C{groups.index(name.partition(',')[0]) % 10}" for name in names]
    kl, active = [row.kl for row in rows], [row.active_units for row in rows]
    texts = [f"{row.active_units:,} of {row.size:,}" for row in rows]
    for axes, values, labels in ((left, kl, [f"{value:.2f}" for value in kl]), (right, active, texts)):
        bars = axes.barh(places, values, color=colors)
        axes.grid(axis="x", alpha=0.3)
        axes.set_axisbelow(True)
        axes.margins(x=0.25)
        if labelled:
            axes.bar_label(bars, labels, padding=3, fontsize=8)
    left.set(title=f"KL given the layers above, {sum(kl):.2f} nats in all", xlabel="nats per example")
    right.set(title=f"Active units, {sum(active):,} of {sum(row.size for row in rows):,}", xlabel="latents")
    if labelled:
        left.set_yticks(places, [plain_text(name) for name in names])
    left.set(ylim=(len(rows) - 0.4, -0.6), ylabel="" if labelled else "layers, from the top")
    write_figure(path, figure)


def plot_top_layers(
    experiment: Experiment,
    params: Params,
    directory: Directory,
    arrays: Arrays,
    placement: Placement | None = None,
    *,
    key: Array,
) -> Path:
    """Save figures/top_layers.png: images decoded from their top layers, in a row for each number of these.

    The other layers are drawn from the prior. The first row is the preprocessed images, that of 0 layers is samples of
    the model, and the last one is reconstructions. Of many layers some numbers are shown.
    """
    count = num_layers(layers_from_top(experiment, params))
    numbers = sorted({round(number) for number in np.linspace(0, count, min(count + 1, MAX_ROWS))})
    rows: dict[str, np.ndarray] = {}
    for number in numbers:
        found = decode_top_layers(experiment, params, key, arrays, number, placement)
        rows["original"] = found["seen"]
        rows[f"top {number} of {count}"] = found["decoded"][:, 0]
    return save_figure(directory, "top_layers", lambda path: image_grids.save_top_layers(path, rows))


def plot_draws(
    experiment: Experiment,
    params: Params,
    directory: Directory,
    arrays: Arrays,
    placement: Placement | None = None,
    *,
    key: Array,
    keep_layers: int,
    num_draws: int,
) -> Path:
    """Save figures/draws.png: a row for each image, with several draws of all layers but the top `keep_layers`.

    Args:
      experiment: its model and preprocessing are used.
      params: parameters of the model, or `Variables`.
      directory: the run's directory.
      arrays: stored examples, {"x": [N, H, W, C], ...}.
      placement: the devices; None for those of the parameters.
      key: random key of preprocessing and draws.
      keep_layers: how many layers keep the means of the posterior, from the top.
      num_draws: the draws of each image.

    Returns:
      The path of the figure.

    Raises:
      InputError: the model has fewer layers.
    """
    found = decode_top_layers(experiment, params, key, arrays, keep_layers, placement, num_draws=num_draws)
    title = f"Draws of the layers below the top {keep_layers}"
    return save_figure(
        directory, "draws", lambda path: image_grids.save_draws(path, found["seen"], found["decoded"], title=title)
    )
