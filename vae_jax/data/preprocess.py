"""data.preprocess."""

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from vae_jax import kernels, random
from vae_jax.config import check_choices
from vae_jax.data.records import Records, pixel_sums
from vae_jax.errors import InputError


def bernoulli_pixels(key: random.Key, images: Array) -> Array:
    """A draw of Bernoulli(pixel/255) for each uint8 pixel, as bool of the same shape [B, ...].

    A pixel is 1 if a 16-bit integer falls below round(pixel · 65536/255): 0 and 255 are certain, and every other
    probability is right to 2^-17. One 32-bit draw serves two pixels.
    """
    flat = images.reshape(images.shape[0], -1)
    words = random.bits(key, (flat.shape[0], (flat.shape[1] + 1) // 2))
    halves = lax.bitcast_convert_type(words, jnp.uint16).reshape(flat.shape[0], -1)[:, : flat.shape[1]]
    threshold = (flat.astype(jnp.uint32) * 65536 + 127) // 255
    return (halves.astype(jnp.uint32) < threshold).reshape(images.shape)


def read_images(key: random.Key, images: Array, *, binarization: str) -> Array:
    """uint8 images [B, H, W, C] -> float32 in [0, 1], as the model is to see them.

    `dynamic` draws each pixel anew from Bernoulli(pixel/255); `threshold` is pixel >= 128; `none` is pixel/255.
    `static` is `none` over images that `binarize_once` has been through. Raises InputError for another name, and for
    another dtype or rank: a picture of floats in [0, 1] would be divided by 255 once more.
    """
    check_choices("data", binarization=binarization)
    if images.dtype != jnp.uint8 or images.ndim != 4:
        raise InputError(f"images={images.dtype}{list(images.shape)} must be uint8 [N, H, W, C]")
    if binarization == "dynamic":
        return kernels.compute_once_binary(bernoulli_pixels(key, images).astype(jnp.float32))
    if binarization == "threshold":
        return (images >= 128).astype(jnp.float32)
    return images.astype(jnp.float32) / 255


def binarize_once(key: Array, images: Array) -> Array:
    """Images binarised once and for all: uint8 [N, ...] of 0 and 255, a draw of Bernoulli(pixel/255)."""
    return bernoulli_pixels(key, images).astype(jnp.uint8) * 255


def mean_image(images: np.ndarray | Records, *, binarization: str) -> np.ndarray:
    """The mean over uint8 images [N, H, W, C], and over the draws, of what `read_images` makes of them: [H, W, C].

    Raises InputError for another name of a binarisation than `read_images` knows.
    """
    check_choices("data", binarization=binarization)
    sums, bright = images.summary.sums if isinstance(images, Records) else pixel_sums(images)
    mean = bright / len(images) if binarization == "threshold" else sums / (255 * len(images))
    return mean.astype(np.float32)
