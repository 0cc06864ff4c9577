"""Encode and decode batches of images with the trained model of a run, sample from its prior, and interpolate."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import Array

from vae_jax import random
from vae_jax.data import read_images
from vae_jax.inference import Params
from vae_jax.models import decode, encode, sample_codes
from vae_jax.runs.run import Run
from vae_jax.runtime import sharding
from vae_jax.training import evaluate_examples, padded_batches

BATCH_SIZE = 100  # images that are encoded or decoded in one call


def decode_images(run: Run, params: Params, z: np.ndarray) -> np.ndarray:
    """Return the means of p(x|z).

    Args:
      run: the run whose model is used.
      params: the model's parameters.
      z: codes [..., D].

    Returns:
      Images, float32 [..., H, W, C] in [0, 1].
    """
    flat = np.asarray(z, np.float32).reshape(-1, z.shape[-1])
    decode_batch = _jit_decode(run)
    images = [np.asarray(decode_batch(params, batch))[:count] for count, batch in padded_batches(flat, BATCH_SIZE)]
    return np.concatenate(images).reshape(*z.shape[:-1], *run.image_shape)


@functools.cache
def _jit_decode(run: Run) -> Callable[..., Array]:
    return _replicated_jit(run, functools.partial(decode, model=run.model))


def _replicated_jit(run: Run, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the jitted function; its results are replicated, so that every process can read them."""
    return jax.jit(function, out_shardings=sharding.replicated(run.mesh))


def encode_images(run: Run, params: Params, key: Array, images: np.ndarray) -> dict[str, np.ndarray]:
    """Return the posterior of each image, and the image as the model reads it.

    Args:
      run: the run whose model and preprocessing are used.
      params: the model's parameters.
      key: random key for the preprocessing; that of image i is fold_in(key, i).
      images: uint8 [N, H, W, C].

    Returns:
      `seen`: the preprocessed (for example binarized) images, float32 [N, H, W, C] in [0, 1].
      `mean` and `scale` of q(z|x): float32 [N, D] each, as `vae_jax.models.encode` defines them.
    """
    return evaluate_examples(_jit_encode(run), params, key, images, batch_size=min(BATCH_SIZE, len(images)))


@functools.cache
def _jit_encode(run: Run) -> Callable[..., dict[str, Array]]:
    def encode_batch(params: Params, keys: Array, batch: Array) -> dict[str, Array]:
        x = read_images(keys, batch, binarization=run.config.data.binarization)
        return {"seen": x} | encode(params, x, model=run.model)

    return _replicated_jit(run, encode_batch)


def sample_prior(run: Run, params: Params, key: Array, count: int) -> np.ndarray:
    """Return samples from p(z).

    Args:
      run: the run whose model is used.
      params: the model's parameters.
      key: random key of the samples; that of sample i is fold_in(key, i).
      count: number of samples N.

    Returns:
      Codes, float32 [N, D].
    """
    return np.asarray(_jit_sample(run, count)(params, key))


@functools.cache
def _jit_sample(run: Run, count: int) -> Callable[..., Array]:
    def sample_batch(params: Params, key: Array) -> Array:
        return sample_codes(params, random.example_keys(key, count), model=run.model)

    return _replicated_jit(run, sample_batch)


def interpolate_linearly(left: np.ndarray, right: np.ndarray, frames: int) -> np.ndarray:
    """Return equidistant codes on the straight lines from `left` to `right`, both ends included.

    Args:
      left: codes [P, D].
      right: codes [P, D].
      frames: number T of codes on each line.

    Returns:
      Codes [P, T, D].
    """
    t = np.linspace(0, 1, frames, dtype=np.float32)[:, None]  # [T, 1]
    return left[:, None] * (1 - t) + right[:, None] * t
