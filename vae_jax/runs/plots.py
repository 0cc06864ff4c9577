"""Figures of a run: samples, reconstructions, interpolations, latent traversals, the manifold and the metrics."""

from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from jax import Array

from vae_jax.inference import Params
from vae_jax.runs import curves, image_grids
from vae_jax.runs.decoding import decode_images, encode_images, interpolate_linearly, sample_prior
from vae_jax.runs.loggers import read_metrics
from vae_jax.runs.run import Run, evaluation_key
from vae_jax.runtime import multihost

MAX_TRAVERSALS = 10  # latents in the figure of traversals


def preview_images(run: Run, params: Params, key: Array, images: np.ndarray) -> dict[str, np.ndarray]:
    """Return pictures of a model in training, uint8 [H', W', 3] each.

    `samples` decodes the same codes for the same key. `reconstructions` has two rows: the preprocessed images and their
    reconstructions; it is absent if there are no images.
    """
    pictures = {"samples": decode_images(run, params, sample_prior(run, params, key, 36))}
    if len(images):
        codes = encode_images(run, params, _preprocess_key(key), images)
        pictures["reconstructions"] = np.concatenate([codes["seen"], decode_images(run, params, codes["mean"])])
    columns = {"samples": 6, "reconstructions": len(images)}
    return {name: image_grids.image_grid(picture, columns[name]) for name, picture in pictures.items()}


def _preprocess_key(key: Array) -> Array:
    """Return a key for the preprocessing of images; it differs from the keys of codes, `key` folded with a position."""
    return jax.random.fold_in(key, 2**31)


def plot_samples(run: Run, params: Params, *, key: Array, count: int = 100) -> Path:
    """Save figures/samples.png: decoded codes from the prior."""
    images = decode_images(run, params, sample_prior(run, params, key, count))
    return _save_figure(run, "samples", lambda path: image_grids.save_samples(path, images))


def plot_reconstructions(run: Run, params: Params, images: np.ndarray, *, key: Array) -> Path:
    """Save figures/reconstructions.png: each preprocessed image and the decoded mean of its posterior."""
    codes = encode_images(run, params, key, images)
    decoded = decode_images(run, params, codes["mean"])
    return _save_figure(
        run, "reconstructions", lambda path: image_grids.save_reconstructions(path, codes["seen"], decoded)
    )


def plot_interpolations(run: Run, params: Params, images: np.ndarray, *, key: Array, frames: int = 11) -> Path:
    """Save figures/interpolations.png: linear interpolation between posterior means, decoded.

    Image i of the first half is paired with image i of the second half.
    """
    pairs = len(images) // 2
    codes = encode_images(run, params, key, images[: 2 * pairs])
    decoded = decode_images(run, params, interpolate_linearly(codes["mean"][:pairs], codes["mean"][pairs:], frames))
    left, right = codes["seen"][:pairs], codes["seen"][pairs:]
    return _save_figure(run, "interpolations", lambda path: image_grids.save_interpolations(path, left, decoded, right))


def plot_traversals(run: Run, params: Params, images: np.ndarray, *, key: Array) -> Path:
    """Save figures/traversals.png: single latents varied from -3 to 3 around the code of the first image.

    The latents are the `MAX_TRAVERSALS` whose posterior mean varies most over `images`, in that order. With several
    layers they are latents of the first layer, because only this layer is decoded.
    """
    codes = encode_images(run, params, key, images)
    variance = codes["mean"].var(axis=0)[: next(iter(run.model.latent_sizes.values()))]
    chosen = np.argsort(-variance, kind="stable")[:MAX_TRAVERSALS]
    values = np.linspace(-3, 3, 11, dtype=np.float32)
    z = np.tile(codes["mean"][0], (len(chosen), len(values), 1))
    for row, latent in enumerate(chosen):
        z[row, :, latent] = values
    labels = [f"z{latent + 1}, var {variance[latent]:.2f}" for latent in chosen]
    decoded = decode_images(run, params, z)
    return _save_figure(run, "traversals", lambda path: image_grids.save_traversals(path, decoded, labels, values))


def plot_manifold(run: Run, params: Params, *, side: int = 20) -> Path:
    """Save figures/manifold.png: a two-dimensional latent space, decoded at equidistant quantiles of the prior."""
    values = np.asarray(jax.scipy.special.ndtri((np.arange(side) + 0.5) / side))
    z = np.stack(np.meshgrid(values, values), axis=-1)  # [i, j] = (values[j], values[i])
    decoded = decode_images(run, params, z)
    return _save_figure(run, "manifold", lambda path: image_grids.save_manifold(path, decoded, values))


def plot_curves(run: Run) -> Path:
    """Save figures/curves.png: the rows of metrics.jsonl against the step."""
    metrics, title = run.directory / "metrics.jsonl", str(run.directory.name)
    return _save_figure(run, "curves", lambda path: curves.save_curves(path, read_metrics(metrics), title=title))


def plot_all(run: Run, params: Params) -> list[Path]:
    """Save every figure that is possible for a run, from its test images, and return their paths."""
    images = run.images("test")
    key = jax.random.fold_in(evaluation_key(run, "test"), 2**31)  # differs from the keys of the evaluation's examples
    preprocess_key = _preprocess_key(key)
    paths = [
        plot_samples(run, params, key=key),
        plot_reconstructions(run, params, images[:30], key=preprocess_key),
        plot_traversals(run, params, images[:1000], key=preprocess_key),
        plot_curves(run),
    ]
    if len(images) > 1:
        paths.append(plot_interpolations(run, params, images[:16], key=preprocess_key))
    if list(run.model.latent_sizes.values()) == [2]:
        paths.append(plot_manifold(run, params))
    return paths


def _save_figure(run: Run, name: str, save: Callable[[Path], None]) -> Path:
    """Let the primary process save figures/NAME.png; all processes have computed its content."""
    path = run.directory / "figures" / f"{name}.png"
    multihost.run_on_primary(lambda: save(path))
    return path
