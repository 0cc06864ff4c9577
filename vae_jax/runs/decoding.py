"""runs.decoding."""

import functools
from typing import Any

import jax
import numpy as np
from jax import Array

from vae_jax.data import read_images
from vae_jax.inference import Params
from vae_jax.models import decode, encode
from vae_jax.runs.run import Run
from vae_jax.runtime import sharding
from vae_jax.training import evaluate_examples, padded_batches

BATCH = 100  # images encoded or decoded at a time


def decode_images(run: Run, params: Params, z: np.ndarray) -> np.ndarray:
    """The means of p(x|z) for codes z [..., D]: float32 [..., H, W, C] in [0, 1]."""
    flat = np.asarray(z, np.float32).reshape(-1, z.shape[-1])
    decode = _decoder(run)
    images = [np.asarray(decode(params, batch))[:count] for count, batch in padded_batches(flat, BATCH)]
    return np.concatenate(images).reshape(*z.shape[:-1], *run.image_shape)


@functools.cache
def _decoder(run: Run) -> Any:
    return _replicated_jit(run, functools.partial(decode, model=run.model))


def _replicated_jit(run: Run, function: Any) -> Any:
    """Jitted; what it returns is whole on each device, for every process to read."""
    return jax.jit(function, out_shardings=sharding.replicated(run.mesh))


def encode_images(run: Run, params: Params, key: Array, images: np.ndarray) -> dict[str, np.ndarray]:
    """For uint8 images [N, H, W, C]: `seen` [N, H, W, C], what the model saw of them (binarised, say), and the
    posterior's `mean` and `scale`, each [N, D], as `exporting.encode` says."""
    return evaluate_examples(_encoder(run), params, key, images, batch_size=min(BATCH, len(images)))


@functools.cache
def _encoder(run: Run) -> Any:
    def encode_batch(params: Params, key: Array, batch: Array) -> dict[str, Array]:
        x = read_images(key, batch, binarization=run.config.data.binarization)
        return {"seen": x} | encode(params, x, model=run.model)

    return _replicated_jit(run, encode_batch)


def sample_prior(run: Run, params: Params, key: Array, count: int) -> np.ndarray:
    """Codes drawn from p(z), [count, D]."""
    draw = lambda params, key: run.model.apply({"params": params}, method="prior").sample(key, (count,))  # noqa: E731
    return np.asarray(_replicated_jit(run, draw)(params, key))


def interpolate_linearly(left: np.ndarray, right: np.ndarray, frames: int) -> np.ndarray:
    """Codes at equal distances on the straight lines from left to right, each [P, D], ends included: [P, frames, D]."""
    t = np.linspace(0, 1, frames, dtype=np.float32)[:, None]  # [frames, 1]
    return left[:, None] * (1 - t) + right[:, None] * t
