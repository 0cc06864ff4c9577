"""From a model and images to the arrays that people look at, and to the figures of a run."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import Array

from vae_jax import exporting, figures, processes, sharding
from vae_jax.data.batches import read_images
from vae_jax.evaluation import evaluate_examples, padded_batches
from vae_jax.inference import Params
from vae_jax.runs import Run, evaluation_key
from vae_jax.writers import read_metrics

BATCH = 100  # images encoded or decoded at a time
TRAVERSED = 10  # latents that a traversal shows


def decode_images(run: Run, params: Params, z: np.ndarray) -> np.ndarray:
    """The means of p(x|z) for codes z [..., D]: float32 [..., H, W, C] in [0, 1]."""
    flat = np.asarray(z, np.float32).reshape(-1, z.shape[-1])
    decode = _decoder(run)
    images = [np.asarray(decode(params, batch))[:count] for count, batch in padded_batches(flat, BATCH)]
    return np.concatenate(images).reshape(*z.shape[:-1], *run.image_shape)


@functools.cache
def _decoder(run: Run) -> Any:
    return _whole(run, functools.partial(exporting.decode, model=run.model))


def _whole(run: Run, function: Any) -> Any:
    """Jitted; what it returns is whole on each device, for every process to read."""
    return jax.jit(function, out_shardings=sharding.replicated(run.mesh))


def encode_images(run: Run, params: Params, key: Array, images: np.ndarray) -> dict[str, np.ndarray]:
    """For uint8 images [N, H, W, C]: `seen` [N, H, W, C], what the model saw of them (binarised, say), and the
    posterior's `mean` and `scale`, each [N, D], as `exporting.encode` says."""
    return evaluate_examples(_encoder(run), params, key, images, batch_size=min(BATCH, len(images)))


@functools.cache
def _encoder(run: Run) -> Any:
    def encode(params: Params, key: Array, batch: Array) -> dict[str, Array]:
        x = read_images(key, batch, binarization=run.config.data.binarization)
        return {"seen": x} | exporting.encode(params, x, model=run.model)

    return _whole(run, encode)


def prior_codes(run: Run, params: Params, key: Array, count: int) -> np.ndarray:
    """Codes drawn from p(z), [count, D]."""
    draw = lambda params, key: run.model.apply({"params": params}, method="prior").sample(key, (count,))  # noqa: E731
    return np.asarray(_whole(run, draw)(params, key))


def straight_paths(left: np.ndarray, right: np.ndarray, frames: int) -> np.ndarray:
    """Codes at equal distances on the straight lines from left to right, each [P, D], ends included: [P, frames, D]."""
    t = np.linspace(0, 1, frames, dtype=np.float32)[:, None]  # [frames, 1]
    return left[:, None] * (1 - t) + right[:, None] * t


def pictures(run: Run, params: Params, key: Array, images: np.ndarray) -> dict[str, np.ndarray]:
    """What a training under way looks like, uint8 [H', W', 3]: `samples`, from the same codes under the same key, and,
    where there are images, `reconstructions`: what the model saw of them above what it makes of it."""
    found = {"samples": decode_images(run, params, prior_codes(run, params, key, 36))}
    if len(images):
        codes = encode_images(run, params, _apart(key), images)
        found["reconstructions"] = np.concatenate([codes["seen"], decode_images(run, params, codes["mean"])])
    columns = {"samples": 6, "reconstructions": len(images)}
    return {name: figures.image_grid(shown, columns[name]) for name, shown in found.items()}


def _apart(key: Array) -> Array:
    """A key for what the model sees of images, where `key` draws codes, which folds it with the number of a layer."""
    return jax.random.fold_in(key, 2**31)


def draw_samples(run: Run, params: Params, *, key: Array, count: int = 100) -> Path:
    """figures/samples.png: decodings of codes from the prior; the decoder alone generates."""
    images = decode_images(run, params, prior_codes(run, params, key, count))
    return _draw(run, "samples", lambda path: figures.samples(path, images))


def draw_reconstructions(run: Run, params: Params, images: np.ndarray, *, key: Array) -> Path:
    """figures/reconstructions.png: what the model saw of each image, and the decoding of its posterior's mean."""
    codes = encode_images(run, params, key, images)
    decoded = decode_images(run, params, codes["mean"])
    return _draw(run, "reconstructions", lambda path: figures.reconstructions(path, codes["seen"], decoded))


def draw_interpolations(run: Run, params: Params, images: np.ndarray, *, key: Array, frames: int = 11) -> Path:
    """figures/interpolations.png: from each image of the first half to its partner in the second, through the codes."""
    pairs = len(images) // 2
    codes = encode_images(run, params, key, images[: 2 * pairs])
    decoded = decode_images(run, params, straight_paths(codes["mean"][:pairs], codes["mean"][pairs:], frames))
    left, right = codes["seen"][:pairs], codes["seen"][pairs:]
    return _draw(run, "interpolations", lambda path: figures.interpolations(path, left, decoded, right))


def draw_traversals(run: Run, params: Params, images: np.ndarray, *, key: Array) -> Path:
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
    return _draw(run, "traversals", lambda path: figures.traversals(path, decoded, labels, values))


def draw_manifold(run: Run, params: Params, *, side: int = 20) -> Path:
    """figures/manifold.png: a 2-d latent space decoded at the prior's quantiles, equal shares of its mass apart."""
    values = np.asarray(jax.scipy.special.ndtri((np.arange(side) + 0.5) / side))
    z = np.stack(np.meshgrid(values, values), axis=-1)  # [i, j] = (values[j], values[i])
    decoded = decode_images(run, params, z)
    return _draw(run, "manifold", lambda path: figures.manifold(path, decoded, values))


def draw_curves(run: Run) -> Path:
    """figures/curves.png: the rows of metrics.jsonl against the step."""
    metrics, title = run.directory / "metrics.jsonl", str(run.directory.name)
    return _draw(run, "curves", lambda path: figures.curves(path, read_metrics(metrics), title=title))


def draw_all(run: Run, params: Params) -> list[Path]:
    """Every figure that this run can have, from test images."""
    images = run.images("test")
    key = jax.random.fold_in(evaluation_key(run, "test"), 2**31)  # apart from the keys of the evaluation's batches
    seen_key = _apart(key)
    drawn = [
        draw_samples(run, params, key=key),
        draw_reconstructions(run, params, images[:30], key=seen_key),
        draw_traversals(run, params, images[:1000], key=seen_key),
        draw_curves(run),
    ]
    if len(images) > 1:
        drawn.append(draw_interpolations(run, params, images[:16], key=seen_key))
    if run.model.sizes == (2,):
        drawn.append(draw_manifold(run, params))
    return drawn


def _draw(run: Run, name: str, draw: Callable[[Path], None]) -> Path:
    """Lets the first process draw figures/NAME.png; what it shows has been computed by all."""
    path = run.directory / "figures" / f"{name}.png"
    processes.by_first(lambda: draw(path))
    return path
