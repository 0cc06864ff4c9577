"""Which examples a step reads, and how it reads them: pure functions of a key and a step.

There is no iterator, hence no iterator to save: a run resumes from its step alone.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

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
        raise ValueError(f"batch_size={batch_size} must be at most the {num_examples} examples")
    return step // steps_per_epoch, step % steps_per_epoch * batch_size


class BatchOrder:
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
