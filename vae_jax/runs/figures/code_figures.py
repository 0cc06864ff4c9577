"""Figures of a model whose latent is a grid of integer codes: usage, decoded codes, samples of equal probabilities."""

import functools
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jax import Array

from vae_jax import random
from vae_jax.distributions import UniformCodes
from vae_jax.inference import Params
from vae_jax.runs.experiment.experiment import Experiment
from vae_jax.runs.figures import image_grids
from vae_jax.runs.figures.figure_files import Directory, new_figure, save_figure, write_figure
from vae_jax.runs.generation.decoding import CodeGrid, code_grid, decode_codes, encode_examples
from vae_jax.runtime import Placement

MAX_DECODED = 100  # codes in the figure of the codebook


def plot_codes(
    experiment: Experiment,
    params: Params,
    directory: Directory,
    arrays: Mapping[str, np.ndarray],
    placement: Placement | None = None,
    *,
    key: Array,
    of_preprocess: Array,
    count: int = MAX_DECODED,
) -> list[Path]:
    """Save all figures of this module for a model of images.

    Args:
      experiment: a model of images with a `code_grid`.
      params: parameters of the model, or `Variables`.
      directory: the run's directory.
      arrays: stored examples, {"x": [N, ...], ...}.
      placement: the devices; None for those of the parameters.
      key: random key of the samples.
      of_preprocess: random key of the preprocessing.
      count: the largest number of images in a figure.

    Returns:
      The paths of the figures.
    """
    grid = code_grid(experiment, params)
    assert grid is not None, "the caller has checked it"
    counts = _count_codes(experiment, params, arrays, placement, of_preprocess, grid)
    frequent = np.argsort(-counts[0], kind="stable")[:count]
    codes = np.zeros((len(frequent), grid.size), np.int32)
    codes[:, :: grid.depth] = frequent[:, None]  # the other levels of a place have the code 0
    uniform = UniformCodes(grid.num_codes, grid.size).sample(random.example_keys(key, count), (count,))
    titled = {
        "codebook": (codes, "Codes at all places, the most frequent first"),
        "uniform_samples": (np.asarray(uniform), "Samples of codes with equal probabilities"),
    }
    paths = [save_figure(directory, "code_usage", lambda path: save_code_usage(path, counts))]
    for name, (z, title) in titled.items():
        images = decode_codes(experiment, params, z, placement)
        save = functools.partial(image_grids.save_samples, images=images, title=title)
        paths.append(save_figure(directory, name, save))
    return paths


def _count_codes(
    experiment: Experiment,
    params: Params,
    arrays: Mapping[str, np.ndarray],
    placement: Placement | None,
    key: Array,
    grid: CodeGrid,
) -> np.ndarray:
    """Return how often each code occurs in each level, int64 [Q, C]."""
    codes = encode_examples(experiment, params, key, arrays, placement, with_seen=False)["mean"]  # [N, G]
    levels = [codes[:, level :: grid.depth].reshape(-1) for level in range(grid.depth)]
    return np.stack([np.bincount(level, minlength=grid.num_codes) for level in levels])


def save_code_usage(path: str | os.PathLike, counts: np.ndarray) -> None:
    """Save the shares of codes in descending order, on a logarithmic axis.

    Args:
      path: the PNG file to write.
      counts: how often each code occurs in each level, [Q, C].

    Raises:
      StorageError: the file cannot be written.
    """
    figure = new_figure(6, 3.6)
    axes = figure.add_subplot()
    num_codes = counts.shape[1]
    for level, row in enumerate(counts, start=1):
        shares = np.sort(row[row > 0])[::-1] / row.sum()
        label = f"level {level}: {len(shares)} of {num_codes} codes occur"
        axes.stairs(shares, np.arange(len(shares) + 1), label=label, baseline=None)
    axes.axhline(1 / num_codes, color="0.6", linestyle="--", label="equal shares")
    axes.set(xlabel="codes in descending order", ylabel="share of all positions", yscale="log", xlim=(0, num_codes))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9)
    write_figure(path, figure)
