"""Figures of a model of images that reads labels: samples of each class, and one code under every class."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jax import Array

from vae_jax.inference import Params
from vae_jax.runs import image_grids
from vae_jax.runs.decoding import decode_codes, encode_examples
from vae_jax.runs.experiment import Experiment
from vae_jax.runs.figure_files import Directory, save_figure
from vae_jax.runs.labels import num_classes, spread_classes
from vae_jax.runs.sampling import sample_means
from vae_jax.runtime import Placement

MAX_STYLES = 20  # classes in the figure of codes under each class


def plot_classes(
    experiment: Experiment,
    params: Params,
    directory: Directory,
    placement: Placement | None = None,
    *,
    key: Array,
    count: int = 100,
    temperature: float = 1.0,
) -> Path:
    """Save figures/samples_by_class.png: a row of samples of each class.

    Args:
      experiment: its model has the attribute `num_classes`.
      params: parameters of the model, or `Variables`.
      directory: the run's directory.
      placement: the devices; None for those of the parameters.
      key: random key of the codes.
      count: number of images of all classes, in the order of `spread_classes`.
      temperature: of the codes, see `sample_prior`.

    Returns:
      The path of the figure.
    """
    labels = spread_classes(count, num_classes(experiment.model) or 1)
    conditions = {"y": labels}
    images = sample_means(experiment, params, key, count, placement, conditions=conditions, temperature=temperature)
    return save_figure(
        directory, "samples_by_class", lambda path: image_grids.save_samples_by_class(path, images, labels)
    )


def plot_styles(
    experiment: Experiment,
    params: Params,
    directory: Directory,
    arrays: Mapping[str, np.ndarray],
    placement: Placement | None = None,
    *,
    key: Array,
) -> Path:
    """Save figures/styles.png: each image, and the mean of its posterior decoded under each of the first classes.

    Args:
      experiment: its model has the attribute `num_classes`.
      params: parameters of the model, or `Variables`.
      directory: the run's directory.
      arrays: stored examples, {"x": [N, H, W, C], "y": [N], ...}.
      placement: the devices; None for those of the parameters.
      key: random key of the preprocessing.

    Returns:
      The path of the figure.
    """
    codes = encode_examples(experiment, params, key, arrays, placement)
    labels = np.arange(min(num_classes(experiment.model) or 1, MAX_STYLES), dtype=np.int32)
    rows, columns = len(codes["mean"]), len(labels)
    z = np.repeat(codes["mean"][:, None], columns, axis=1)  # [N, L, D]
    conditions = {"y": np.broadcast_to(labels, (rows, columns))}
    decoded = decode_codes(experiment, params, z, placement, conditions=conditions)
    return save_figure(directory, "styles", lambda path: image_grids.save_styles(path, codes["seen"], decoded))
