"""Figures of a model that reads labels: samples of each class, one code under every class, and reliability."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jax import Array

from vae_jax.distributions import label_mask
from vae_jax.inference import Params
from vae_jax.runs.evaluation.evaluation import has_density, make_evaluator
from vae_jax.runs.experiment.experiment import Experiment
from vae_jax.runs.experiment.labels import num_classes, spread_classes
from vae_jax.runs.figures import image_grids
from vae_jax.runs.figures.figure_files import Directory, new_figure, save_figure, write_figure
from vae_jax.runs.generation.decoding import decode_codes, encode_examples, placement_of
from vae_jax.runs.generation.sampling import sample_means
from vae_jax.runtime import Placement
from vae_jax.training import Reliability, posterior_of_classes, reliability

MAX_STYLES = 20  # classes in the figure of codes under each class
_SAMPLES, _EXAMPLES = 20, 500  # K and the number of examples of the generative classifier in a figure


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


def plot_reliability(
    experiment: Experiment,
    params: Params,
    directory: Directory,
    arrays: Mapping[str, np.ndarray],
    placement: Placement | None = None,
    *,
    key: Array,
) -> Path | None:
    """Save figures/reliability.png: how often the most probable class is the label, against its probability.

    It has a curve of q(y|x) for a model with a classifier, else of p(y|x) = p(x|y) / Σ_c p(x|c) with few samples.

    Args:
      experiment: its model has the attribute `num_classes`.
      params: parameters of the model, or `Variables`.
      directory: the run's directory.
      arrays: stored examples, {"x": [N, ...], "y": [N], ...}.
      placement: the devices; None for those of the parameters.
      key: random key of the preprocessing and the samples.

    Returns:
      The path of the figure; None if no example has a label, or the model has neither a classifier nor a density.
    """
    placement = placement or placement_of(params)
    known, scores = label_mask(arrays), {}
    chosen = np.arange(len(arrays["y"])) if known is None else np.flatnonzero(known)
    has_classifier = hasattr(experiment.model, "classify")
    chosen = chosen if has_classifier else chosen[:_EXAMPLES]
    if not len(chosen) or not (has_classifier or has_density(experiment)):
        return None
    shown = {name: array[chosen] for name, array in arrays.items()}
    evaluator, count = make_evaluator(experiment, placement), 0 if has_classifier else _SAMPLES
    evaluator.classes(params, key, shown, num_samples=count, chunk=_SAMPLES, receive=scores.update)
    if has_classifier:
        name, log_probabilities = "q(y|x)", scores["log_qy"]
    else:
        name, log_probabilities = f"p(y|x), K = {_SAMPLES}", posterior_of_classes(scores["log_px_y"])[0]
    found = reliability(log_probabilities, shown["y"])
    return save_figure(directory, "reliability", lambda path: save_reliability(path, name, found))


def save_reliability(path: Path, name: str, found: Reliability) -> None:
    """Save accuracy against confidence, and the number of examples of each bin.

    Args:
      path: the PNG file to write.
      name: of the probabilities of the classes.
      found: the bins.

    Raises:
      StorageError: the file cannot be written.
    """
    figure = new_figure(5.2, 5.6)
    axes, counts = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    filled, width = found.examples > 0, 1 / len(found.examples)
    label = f"{name}, expected calibration error {found.calibration_error:.3f}"
    axes.plot([0, 1], [0, 1], color="0.6", linewidth=1, label="calibrated")
    axes.plot(found.confidence[filled], found.accuracy[filled], "o-", label=label)
    axes.set(title="Reliability", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.02))
    axes.legend(loc="upper left", fontsize=9)
    counts.bar((np.arange(len(found.examples)) + 0.5) * width, found.examples, width=0.9 * width, color="0.6")
    counts.set(xlabel="confidence: probability of the most probable class", ylabel="examples")
    write_figure(path, figure)
