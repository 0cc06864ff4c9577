"""Figures of an experiment: those of its kind of data, the latent map, and the metrics against the step.

Each function saves one figure, figures/NAME.png of a run's directory; `plot_all` saves all of them.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import numpy as np
from jax import Array

from vae_jax.inference import Params
from vae_jax.runs.experiment.experiment import Experiment
from vae_jax.runs.experiment.labels import num_classes
from vae_jax.runs.experiment.memory import refuse_lack_of_memory
from vae_jax.runs.figures import (
    class_figures,
    code_figures,
    count_plots,
    curves,
    image_grids,
    latent_figures,
    layer_figures,
    vector_plots,
)
from vae_jax.runs.figures.figure_files import Directory, save_figure
from vae_jax.runs.generation.decoding import (
    code_grid,
    conditions_of,
    decode_codes,
    encode_examples,
    has_real_latents,
    interpolate_linearly,
    layer_shapes,
)
from vae_jax.runs.generation.sampling import compare_samples, preprocess_key, sample_means
from vae_jax.runs.storage.directory import RunDirectory
from vae_jax.runs.storage.loggers import read_metrics
from vae_jax.runtime import Placement, multihost

Arrays = Mapping[str, np.ndarray]

MAX_MAPPED = 5000  # examples in the latent map
MAX_DRAWN_NUMBERS = 30_000_000  # in the images of one figure, so that its memory does not depend on their size


def plot_all(
    experiment: Experiment, params: Params, directory: Directory, placement: Placement | None = None
) -> list[Path]:
    """Save every figure that is possible for a model, from its test examples.

    Args:
      experiment: its model and data are used.
      params: parameters of the model, or `Variables`.
      directory: the run's directory.
      placement: the devices; None for those of the parameters.

    Returns:
      The paths of the figures.
    """
    directory = RunDirectory(directory)
    arrays = experiment.dataset("test").arrays
    # Differs from the keys of the evaluation's examples.
    key = jax.random.fold_in(experiment.evaluation_key("test"), 2**31)
    with refuse_lack_of_memory("a figure"):
        paths = plot_kind(experiment, params, directory, arrays, placement, key=key)
        few = _first(arrays, MAX_MAPPED)
        is_real = has_real_latents(experiment, params)
        if is_real and ("y" in arrays or experiment.kind != "images"):
            paths.append(
                latent_figures.plot_latent_map(experiment, params, directory, few, placement, key=preprocess_key(key))
            )
        if num_classes(experiment.model) is not None:
            reliability = class_figures.plot_reliability(experiment, params, directory, few, placement, key=key)
            paths += [] if reliability is None else [reliability]
        if latent_figures.has_two_latents(experiment, params):
            paths.append(latent_figures.plot_prior_map(experiment, params, directory, few, placement, key=key))
    if multihost.broadcast_from_primary(lambda: directory.metrics.exists()):
        paths.append(plot_curves(directory))
    return paths


def preview_images(
    experiment: Experiment, params: Params, key: Array, arrays: Arrays, placement: Placement | None = None
) -> dict[str, np.ndarray]:
    """Return pictures of a model of images in training.

    Args:
      experiment: its model and preprocessing are used.
      params: parameters of the model, or `Variables`.
      key: equal keys give the same codes and the same preprocessing.
      arrays: stored examples, {"x": [N, ...], ...}; {} for none.
      placement: the devices; None for those of the parameters.

    Returns:
      Pictures, uint8 [H', W', 3] each: `samples`, decoded codes of the prior; `reconstructions`, a row of the
      preprocessed images and a row of their reconstructions, if there are images.
    """
    samples = _sample_images(experiment, params, key, _drawn(experiment, 36), placement, arrays)
    pictures = {"samples": image_grids.image_grid(samples, min(6, len(samples)))}
    if arrays and len(arrays["x"]):
        few = _first(arrays, _drawn(experiment, len(arrays["x"]), of_each=2))
        seen, decoded = _reconstruct(experiment, params, preprocess_key(key), few, placement, conditions_of(few))
        pictures["reconstructions"] = image_grids.image_grid(np.concatenate([seen, decoded]), len(seen))
    return pictures


def _sample_images(
    experiment: Experiment,
    params: Params,
    key: Array,
    count: int,
    placement: Placement | None,
    arrays: Arrays,
    temperature: float = 1.0,
) -> np.ndarray:
    """Return decoded codes from the prior, under the conditions of the examples one after another."""
    examples = len(arrays["x"]) if arrays else 0
    conditions = _at(conditions_of(arrays), np.arange(count) % examples) if examples else {}
    return sample_means(experiment, params, key, count, placement, conditions=conditions, temperature=temperature)


def _reconstruct(
    experiment: Experiment, params: Params, key: Array, arrays: Arrays, placement: Placement | None, conditions: Arrays
) -> tuple[np.ndarray, np.ndarray]:
    """Return the preprocessed examples, and the means of their posteriors decoded under conditions."""
    codes = encode_examples(experiment, params, key, arrays, placement)
    decoded = decode_codes(experiment, params, codes["mean"], placement, conditions=conditions)
    return codes["seen"], decoded


def _drawn(experiment: Experiment, wanted: int, *, of_each: int = 1) -> int:
    """Return how many of the wanted items a figure shows, each with `of_each` images: fewer if these are large."""
    return max(1, min(wanted, MAX_DRAWN_NUMBERS // (of_each * math.prod(experiment.shape))))


def _first(arrays: Arrays, count: int) -> dict[str, np.ndarray]:
    return {name: array[:count] for name, array in arrays.items()}


def _at(arrays: Arrays, positions: np.ndarray) -> dict[str, np.ndarray]:
    """Return the examples at positions [...], [..., *shape] each."""
    return {name: array[positions] for name, array in arrays.items()}


def _plot_images(
    experiment: Experiment,
    params: Params,
    directory: RunDirectory,
    placement: Placement | None,
    arrays: Arrays,
    key: Array,
    temperature: float,
) -> list[Path]:
    """Save the figures of images."""
    context, of_preprocess = (experiment, params, directory), preprocess_key(key)
    shown, paired = _drawn(experiment, 30, of_each=2), 2 * _drawn(experiment, 8, of_each=13)
    paths = [
        plot_samples(*context, arrays, placement, key=key, count=_drawn(experiment, 100), temperature=temperature),
        plot_reconstructions(*context, _first(arrays, shown), placement, key=of_preprocess),
    ]
    is_real = has_real_latents(experiment, params)
    if is_real:
        few, count = _first(arrays, 1000), _drawn(experiment, latent_figures.MAX_TRAVERSALS, of_each=11)
        paths.append(latent_figures.plot_traversals(*context, few, placement, key=of_preprocess, count=count))
    if is_real and len(arrays["x"]) > 1:
        paths.append(plot_interpolations(*context, _first(arrays, paired), placement, key=of_preprocess))
    if (classes := num_classes(experiment.model)) is not None:
        count, rows = (
            _drawn(experiment, 100),
            _drawn(experiment, 10, of_each=min(classes, class_figures.MAX_STYLES) + 1),
        )
        paths.append(class_figures.plot_classes(*context, placement, key=key, count=count, temperature=temperature))
        paths.append(class_figures.plot_styles(*context, _first(arrays, rows), placement, key=of_preprocess))
    if code_grid(experiment, params) is not None:
        few, count = _first(arrays, MAX_MAPPED), _drawn(experiment, code_figures.MAX_DECODED)
        paths += code_figures.plot_codes(*context, few, placement, key=key, of_preprocess=of_preprocess, count=count)
    if len(layer_shapes(experiment, params)) > 1:
        few = _first(arrays, _drawn(experiment, 10, of_each=layer_figures.MAX_ROWS + 1))
        paths.append(layer_figures.plot_top_layers(*context, few, placement, key=of_preprocess))
    if latent_figures.has_two_latents(experiment, params):
        one, side = _first(arrays, 1), math.isqrt(_drawn(experiment, 400))
        paths.append(latent_figures.plot_manifold(*context, one, placement, key=key, side=side))
    return paths


def _plot_counts(directory: RunDirectory, samples: Arrays) -> list[Path]:
    """Save the figures of counts; those of vectors if the preprocessing replaces the counts by other numbers."""
    if samples["data"].ndim == 3:  # one-hot vectors of categories
        return _plot_numbers(directory, {name: x.argmax(axis=-1) for name, x in samples.items()})
    if any((x < 0).any() or (x != np.rint(x)).any() for x in samples.values()):
        return _plot_numbers(directory, samples)
    return [
        save_figure(directory, "mean_variance", lambda path: count_plots.save_mean_variance(path, samples)),
        save_figure(directory, "zero_fractions", lambda path: count_plots.save_zero_fractions(path, samples)),
    ]


def _plot_numbers(directory: RunDirectory, samples: Arrays) -> list[Path]:
    """Save the figures of numbers [N, D]."""
    paths = [save_figure(directory, "marginals", lambda path: vector_plots.save_marginals(path, samples))]
    if samples["data"].shape[1] > 1:
        paths.append(save_figure(directory, "pairs", lambda path: vector_plots.save_pairs(path, samples)))
    return paths


_COMPARISONS: Mapping[str, Callable[[RunDirectory, Arrays], list[Path]]] = {  # by kind of data
    "vectors": _plot_numbers,
    "counts": _plot_counts,
}


def plot_kind(
    experiment: Experiment,
    params: Params,
    directory: Directory,
    arrays: Arrays,
    placement: Placement | None = None,
    *,
    key: Array,
    conditions: Arrays | None = None,
    temperature: float = 1.0,
) -> list[Path]:
    """Save the figures of the kind of data, in which examples are compared with reconstructions and samples.

    Args:
      experiment: its model and preprocessing are used.
      params: parameters of the model, or `Variables`.
      directory: the run's directory.
      arrays: stored examples, {"x": [N, ...], ...}.
      placement: the devices; None for those of the parameters.
      key: random key of the samples and the preprocessing.
      conditions: those of the samples of vectors and counts, [N, ...]; None for the conditions of the examples.
      temperature: of the samples, see `sample_prior`.

    Returns:
      The paths of the figures.
    """
    directory = RunDirectory(directory)
    if experiment.kind == "images":
        return _plot_images(experiment, params, directory, placement, arrays, key, temperature)
    samples = compare_samples(
        experiment, params, arrays, placement, key=key, conditions=conditions, temperature=temperature
    )
    return _COMPARISONS[experiment.kind](directory, samples)


def plot_samples(
    experiment: Experiment,
    params: Params,
    directory: Directory,
    arrays: Arrays,
    placement: Placement | None = None,
    *,
    key: Array,
    count: int = 100,
    temperature: float = 1.0,
) -> Path:
    """Save figures/samples.png: decoded codes from the prior, as images.

    A model that depends on labels gets those of the examples, one after another.
    """
    images = _sample_images(experiment, params, key, count, placement, arrays, temperature)
    return save_figure(directory, "samples", lambda path: image_grids.save_samples(path, images))


def plot_reconstructions(
    experiment: Experiment,
    params: Params,
    directory: Directory,
    arrays: Arrays,
    placement: Placement | None = None,
    *,
    key: Array,
) -> Path:
    """Save figures/reconstructions.png: each preprocessed image and the decoded mean of its posterior."""
    seen, decoded = _reconstruct(experiment, params, key, arrays, placement, conditions_of(arrays))
    return save_figure(directory, "reconstructions", lambda path: image_grids.save_reconstructions(path, seen, decoded))


def plot_transfer(
    experiment: Experiment,
    params: Params,
    directory: Directory,
    arrays: Arrays,
    placement: Placement | None = None,
    *,
    key: Array,
    conditions: Arrays,
) -> Path:
    """Save figures/transfer.png: each preprocessed image, and the mean of its posterior decoded under other conditions.

    Args:
      experiment: its model reads conditions.
      params: parameters of the model, or `Variables`.
      directory: the run's directory.
      arrays: stored examples, {"x": [N, H, W, C], ...}, which are encoded under the conditions that they have.
      placement: the devices; None for those of the parameters.
      key: random key of the preprocessing.
      conditions: the other conditions, such as labels {"y": [N]}; {} for none.

    Returns:
      The path of the figure.
    """
    seen, decoded = _reconstruct(experiment, params, key, arrays, placement, conditions)
    title = "Codes under another condition"
    return save_figure(
        directory,
        "transfer",
        lambda path: image_grids.save_reconstructions(path, seen, decoded, title=title, below="transferred"),
    )


def plot_interpolations(
    experiment: Experiment,
    params: Params,
    directory: Directory,
    arrays: Arrays,
    placement: Placement | None = None,
    *,
    key: Array,
    frames: int = 11,
) -> Path:
    """Save figures/interpolations.png: linear interpolation between posterior means of images, decoded.

    Image i of the first half is paired with image i of the second half. A model that depends on labels gets that of the
    first image of a pair.
    """
    pairs = len(arrays["x"]) // 2
    codes = encode_examples(experiment, params, key, _first(arrays, 2 * pairs), placement)
    paths = interpolate_linearly(codes["mean"][:pairs], codes["mean"][pairs:], frames)
    first = np.repeat(np.arange(pairs)[:, None], frames, axis=1)
    decoded = decode_codes(experiment, params, paths, placement, conditions=_at(conditions_of(arrays), first))
    left, right = codes["seen"][:pairs], codes["seen"][pairs:]
    return save_figure(
        directory, "interpolations", lambda path: image_grids.save_interpolations(path, left, decoded, right)
    )


def plot_curves(directory: Directory) -> Path:
    """Save figures/curves.png: the rows of metrics.jsonl against the step."""
    directory = RunDirectory(directory)
    metrics, title = directory.metrics, directory.path.name
    return save_figure(directory, "curves", lambda path: curves.save_curves(path, read_metrics(metrics), title=title))
