"""Which examples a step reads, and how it reads them: pure functions of a key and a step.

There is no iterator, hence no iterator to save: a run resumes from its step alone.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from vae_jax import random
from vae_jax.data.records import Records, pixel_sums
from vae_jax.errors import InputError
from vae_jax.settings import require_choices

_ROUNDS = 12
_ROUNDS_OF_FEW = 32  # of 16 examples or less: after 12 the places of two depend on each other, by 13 % for 16


def permute(key: Array, index: Array, size: int) -> Array:
    """The places of `index` in a random permutation of 0..size-1, without making the permutation.

    Rounds of (xor with a key, multiply by an odd key, xor-shift) are a bijection of the w-bit integers,
    where 2^w >= size; a place outside 0..size-1 is sent through again until it falls inside, which keeps the
    map a bijection (cycle walking; Black & Rogaway, CT-RSA 2002). Cost: a few integer operations per index,
    whatever the size. `index` is uint32 of any shape with values below `size`.
    """
    mix = functools.partial(_mix, keys=_round_keys(key, size), size=size)
    return lax.while_loop(
        lambda x: jnp.any(x >= size), lambda x: jnp.where(x >= size, mix(x), x), mix(index.astype(jnp.uint32))
    )


def _round_keys(key: Array, size: int) -> Array:
    return jax.random.bits(key, (_ROUNDS if size > 16 else _ROUNDS_OF_FEW, 2), jnp.uint32)


def _mix(x: Any, *, keys: Any, size: int) -> Any:
    """The rounds of `permute`, of an array of NumPy or of JAX."""
    width = max((size - 1).bit_length(), 2)
    mask = np.uint32((1 << width) - 1)
    for xor_key, odd_key in keys:
        x = (x ^ (xor_key & mask)) * (odd_key | 1) & mask
        x = x ^ (x >> (width // 2))
    return x


def batch_indices(key: Array, step: Array, *, num_examples: int, batch_size: int) -> Array:
    """The examples of one step, int32 [batch_size]: a fresh permutation each epoch, no example twice in one.

    An epoch is num_examples // batch_size steps; the few examples that do not fill a batch are others each time.
    Raises ValueError for a batch larger than the data.
    """
    epoch, first = _place(step, num_examples, batch_size)
    index = first + jnp.arange(batch_size, dtype=jnp.int32)
    return permute(jax.random.fold_in(key, epoch), index, num_examples).astype(jnp.int32)


def _place(step: Any, num_examples: int, batch_size: int) -> tuple[Any, Any]:
    """(epoch of a step, the place in it of the batch's first example)."""
    steps_per_epoch = num_examples // batch_size
    if steps_per_epoch == 0:
        raise ValueError(f"batch_size: {batch_size} given, must be at most the {num_examples} examples")
    return step // steps_per_epoch, step % steps_per_epoch * batch_size


class Order:
    """`batch_indices` of a range of steps, without JAX: for readers that run while the device computes.

    Attributes:
      keys: uint32 [epochs, rounds, 2], the keys of the rounds in each epoch of the range.
    """

    def __init__(self, key: Array, steps: range, *, num_examples: int, batch_size: int):
        self.num_examples, self.batch_size = num_examples, batch_size
        self.first_epoch, last_epoch = (_place(step, num_examples, batch_size)[0] for step in (steps[0], steps[-1]))
        epochs = jnp.arange(self.first_epoch, last_epoch + 1)
        keys_of = lambda epoch: _round_keys(jax.random.fold_in(key, epoch), num_examples)  # noqa: E731
        self.keys = np.asarray(jax.vmap(keys_of)(epochs))

    def __call__(self, step: int, rows: np.ndarray) -> np.ndarray:
        """The examples at `rows` [n] of the batch of a step, int64 [n]."""
        epoch, first = _place(step, self.num_examples, self.batch_size)
        mix = functools.partial(_mix, keys=self.keys[epoch - self.first_epoch], size=self.num_examples)
        x = mix((first + rows).astype(np.uint32))
        while (outside := x >= self.num_examples).any():
            x[outside] = mix(x[outside])
        return x.astype(np.int64)


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
    require_choices("data", binarization=binarization)
    if images.dtype != jnp.uint8 or images.ndim != 4:
        raise InputError(f"images: {images.dtype}{list(images.shape)} given, must be uint8 [N, H, W, C]")
    if binarization == "dynamic":
        # The root of 0 is 0 and that of 1 is 1. XLA does not compute a root again for each of x's readers, nor, then,
        # the draw below it: without the root the CPU drew the bits four times in a training step.
        return jnp.sqrt(bernoulli_pixels(key, images).astype(jnp.float32))
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
    require_choices("data", binarization=binarization)
    sums, bright = images.summary.sums if isinstance(images, Records) else pixel_sums(images)
    mean = bright / len(images) if binarization == "threshold" else sums / (255 * len(images))
    return mean.astype(np.float32)
