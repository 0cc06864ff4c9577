"""Preprocessing of uint8 images for the model: binarization and scaling, and the mean of the preprocessed images."""

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from vae_jax import kernels, random
from vae_jax.config import check_choices
from vae_jax.data.records import Records, pixel_sums
from vae_jax.errors import InputError


def bernoulli_pixels(key: Array, images: Array) -> Array:
    """Return a sample of Bernoulli(pixel/255) for each uint8 pixel, as bool of the same shape [B, ...].

    A pixel is 1 if a 16-bit random integer is less than round(pixel · 65536/255). Pixels of 0 and 255 are certain, and
    every other probability is accurate to 2^-17. One 32-bit random number serves two pixels.
    """
    flat = images.reshape(images.shape[0], -1)
    keys = random.example_keys(key, flat.shape[0])
    words = random.bits(keys, (flat.shape[0], (flat.shape[1] + 1) // 2))
    halves = lax.bitcast_convert_type(words, jnp.uint16).reshape(flat.shape[0], -1)[:, : flat.shape[1]]
    threshold = (flat.astype(jnp.uint32) * 65536 + 127) // 255
    return (halves.astype(jnp.uint32) < threshold).reshape(images.shape)


def read_images(key: Array, images: Array, *, binarization: str) -> Array:
    """Return uint8 images as the float32 inputs of the model, in [0, 1].

    Args:
      key: The key of the dynamic binarization; the other kinds do not use it.
      images: The images, uint8 [B, H, W, C].
      binarization: `dynamic` samples each pixel from Bernoulli(pixel/255) at each call; `threshold` is
        pixel >= 128; `none` is pixel/255; `static` is `none` for images that `binarize_once` has binarized.

    Returns:
      The inputs, float32 [B, H, W, C].

    Raises:
      InputError: If `binarization` is an unknown name, or the images have another dtype or rank. Floats in [0, 1]
        are refused, because they would be divided by 255 again.
    """
    check_choices("data", binarization=binarization)
    if images.dtype != jnp.uint8 or images.ndim != 4:
        raise InputError(f"images have shape {list(images.shape)} and dtype {images.dtype}; pass uint8 [N, H, W, C]")
    if binarization == "dynamic":
        return kernels.compute_once_binary(bernoulli_pixels(key, images).astype(jnp.float32))
    if binarization == "threshold":
        return (images >= 128).astype(jnp.float32)
    return images.astype(jnp.float32) / 255


def binarize_once(key: Array, images: Array) -> Array:
    """Return images with each pixel sampled once from Bernoulli(pixel/255), for static binarization.

    Args:
      key: The key of the samples.
      images: The images, uint8 [N, ...].

    Returns:
      The binarized images, uint8 [N, ...] of the values 0 and 255.
    """
    return bernoulli_pixels(key, images).astype(jnp.uint8) * 255


def mean_image(images: np.ndarray | Records, *, binarization: str) -> np.ndarray:
    """Return the mean of the model's inputs over the images, and over the samples of the binarization.

    It is the mean of what `read_images` returns for these images, in closed form.

    Args:
      images: The images, uint8 [N, H, W, C], in memory or as records.
      binarization: As for `read_images`.

    Returns:
      The mean, float32 [H, W, C] in [0, 1].

    Raises:
      InputError: If `binarization` is an unknown name.
      StorageError: If the records are damaged.
    """
    check_choices("data", binarization=binarization)
    sums, bright_counts = images.summary.sums if isinstance(images, Records) else pixel_sums(images)
    mean = bright_counts / len(images) if binarization == "threshold" else sums / (255 * len(images))
    return mean.astype(np.float32)
