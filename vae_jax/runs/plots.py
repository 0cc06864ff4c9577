"""From a model and images to the arrays that people look at, and to the figures of a run."""

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

TRAVERSED = 10  # latents that a traversal shows


def preview_images(run: Run, params: Params, key: Array, images: np.ndarray) -> dict[str, np.ndarray]:
    """What a training under way looks like, uint8 [H', W', 3]: `samples`, from the same codes under the same key, and,
    where there are images, `reconstructions`: what the model saw of them above what it makes of it."""
    found = {"samples": decode_images(run, params, sample_prior(run, params, key, 36))}
    if len(images):
        codes = encode_images(run, params, _preprocess_key(key), images)
        found["reconstructions"] = np.concatenate([codes["seen"], decode_images(run, params, codes["mean"])])
    columns = {"samples": 6, "reconstructions": len(images)}
    return {name: image_grids.image_grid(shown, columns[name]) for name, shown in found.items()}


def _preprocess_key(key: Array) -> Array:
    """A key for what the model sees of images, where `key` draws codes, which folds it with the number of a layer."""
    return jax.random.fold_in(key, 2**31)


def plot_samples(run: Run, params: Params, *, key: Array, count: int = 100) -> Path:
    """figures/samples.png: decodings of codes from the prior; the decoder alone generates."""
    images = decode_images(run, params, sample_prior(run, params, key, count))
    return _save_figure(run, "samples", lambda path: image_grids.save_samples(path, images))


def plot_reconstructions(run: Run, params: Params, images: np.ndarray, *, key: Array) -> Path:
    """figures/reconstructions.png: what the model saw of each image, and the decoding of its posterior's mean."""
    codes = encode_images(run, params, key, images)
    decoded = decode_images(run, params, codes["mean"])
    return _save_figure(
        run, "reconstructions", lambda path: image_grids.save_reconstructions(path, codes["seen"], decoded)
    )


def plot_interpolations(run: Run, params: Params, images: np.ndarray, *, key: Array, frames: int = 11) -> Path:
    """figures/interpolations.png: from each image of the first half to its partner in the second, through the codes."""
    pairs = len(images) // 2
    codes = encode_images(run, params, key, images[: 2 * pairs])
    decoded = decode_images(run, params, interpolate_linearly(codes["mean"][:pairs], codes["mean"][pairs:], frames))
    left, right = codes["seen"][:pairs], codes["seen"][pairs:]
    return _save_figure(run, "interpolations", lambda path: image_grids.save_interpolations(path, left, decoded, right))


def plot_traversals(run: Run, params: Params, images: np.ndarray, *, key: Array) -> Path:
    """figures/traversals.png: one latent at a time moved from -3 to 3 about the code of the first image.

    The latents are those whose posterior mean varies most over `images`, most varied first; of several layers, those
    of the first, which alone is decoded.
    """
    codes = encode_images(run, params, key, images)
    variance = codes["mean"].var(axis=0)[: run.model.sizes[0]]
    chosen = np.argsort(-variance, kind="stable")[:TRAVERSED]
    values = np.linspace(-3, 3, 11, dtype=np.float32)
    z = np.tile(codes["mean"][0], (len(chosen), len(values), 1))
    for row, latent in enumerate(chosen):
        z[row, :, latent] = values
    labels = [f"z{latent + 1}, var {variance[latent]:.2f}" for latent in chosen]
    decoded = decode_images(run, params, z)
    return _save_figure(run, "traversals", lambda path: image_grids.save_traversals(path, decoded, labels, values))


def plot_manifold(run: Run, params: Params, *, side: int = 20) -> Path:
    """figures/manifold.png: a 2-d latent space decoded at the prior's quantiles, equal shares of its mass apart."""
    values = np.asarray(jax.scipy.special.ndtri((np.arange(side) + 0.5) / side))
    z = np.stack(np.meshgrid(values, values), axis=-1)  # [i, j] = (values[j], values[i])
    decoded = decode_images(run, params, z)
    return _save_figure(run, "manifold", lambda path: image_grids.save_manifold(path, decoded, values))


def plot_curves(run: Run) -> Path:
    """figures/curves.png: the rows of metrics.jsonl against the step."""
    metrics, title = run.directory / "metrics.jsonl", str(run.directory.name)
    return _save_figure(run, "curves", lambda path: curves.save_curves(path, read_metrics(metrics), title=title))


def plot_all(run: Run, params: Params) -> list[Path]:
    """Every figure that this run can have, from test images."""
    images = run.images("test")
    key = jax.random.fold_in(evaluation_key(run, "test"), 2**31)  # apart from the keys of the evaluation's batches
    seen_key = _preprocess_key(key)
    drawn = [
        plot_samples(run, params, key=key),
        plot_reconstructions(run, params, images[:30], key=seen_key),
        plot_traversals(run, params, images[:1000], key=seen_key),
        plot_curves(run),
    ]
    if len(images) > 1:
        drawn.append(plot_interpolations(run, params, images[:16], key=seen_key))
    if run.model.sizes == (2,):
        drawn.append(plot_manifold(run, params))
    return drawn


def _save_figure(run: Run, name: str, draw: Callable[[Path], None]) -> Path:
    """Lets the first process draw figures/NAME.png; what it shows has been computed by all."""
    path = run.directory / "figures" / f"{name}.png"
    multihost.run_on_primary(lambda: draw(path))
    return path
