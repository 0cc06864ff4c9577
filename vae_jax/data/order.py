"""The order of the examples: which ones a step reads, as a pure function of a key and the step.

There is no iterator, and therefore no iterator state to save: a run resumes from its step alone.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

_ROUNDS = 12
# For 16 examples or fewer: after 12 rounds the positions of two examples depend on each other, by 13 % for 16.
_ROUNDS_SMALL = 32


@functools.partial(jax.jit, static_argnames="size")
def permute(key: Array, index: Array, size: int) -> Array:
    """Return the values at `index` of a random permutation of 0..size-1, without computing the permutation.

    Rounds of (xor with a key, multiply by an odd key, xor-shift) are a bijection of the w-bit integers,
    where 2^w >= size. A value outside 0..size-1 passes through the rounds again until it falls inside, which keeps the
    map a bijection (cycle walking; Black & Rogaway, CT-RSA 2002). The cost is a few integer operations per index,
    whatever the size.

    Args:
      key: The key of the permutation.
      index: Indices below `size`, uint32 of any shape.
      size: The number of values.

    Returns:
      The permuted indices, uint32 of the shape of `index`.
    """
    mix = functools.partial(_mix, keys=_round_keys(key, size), size=size)
    return lax.while_loop(
        lambda x: jnp.any(x >= size), lambda x: jnp.where(x >= size, mix(x), x), mix(index.astype(jnp.uint32))
    )


def _round_keys(key: Array, size: int) -> Array:
    return jax.random.bits(key, (_ROUNDS if size > 16 else _ROUNDS_SMALL, 2), jnp.uint32)


def _mix(x: Any, *, keys: Any, size: int) -> Any:
    """Apply the rounds of `permute` to an array of NumPy or of JAX."""
    width = max((size - 1).bit_length(), 2)
    mask = np.uint32((1 << width) - 1)
    for xor_key, odd_key in keys:
        x = (x ^ (xor_key & mask)) * (odd_key | 1) & mask
        x = x ^ (x >> (width // 2))
    return x


def batch_indices(key: Array, step: Array, *, num_examples: int, batch_size: int) -> Array:
    """Return the examples of one step: each epoch has a new permutation, and no example occurs twice in an epoch.

    An epoch is num_examples // batch_size steps. The remaining examples, too few for a batch, differ between epochs.

    Args:
      key: The key of the order of the examples.
      step: The step, a non-negative integer [].
      num_examples: The number of examples.
      batch_size: The number of examples of a step.

    Returns:
      The indices of the examples, int32 [batch_size].

    Raises:
      ValueError: If the batch is larger than the data.
    """
    epoch, first = _epoch_and_first(step, num_examples, batch_size)
    index = first + jnp.arange(batch_size, dtype=jnp.int32)
    return permute(jax.random.fold_in(key, epoch), index, num_examples).astype(jnp.int32)


def _epoch_and_first(step: Any, num_examples: int, batch_size: int) -> tuple[Any, Any]:
    """Return the epoch of a step, and the position in that epoch of the batch's first example."""
    steps_per_epoch = num_examples // batch_size
    if steps_per_epoch == 0:
        raise ValueError(f"batch_size={batch_size} must be at most the {num_examples} examples")
    return step // steps_per_epoch, step % steps_per_epoch * batch_size


class BatchOrder:
    """`batch_indices` for a range of steps, computed without JAX by readers that work while the device computes.

    Attributes:
      num_examples: The number of examples.
      batch_size: The number of examples of a step.
      first_epoch: The epoch of the first step.
      keys: The keys of the rounds of `permute` in each epoch of the range, uint32 [epochs, rounds, 2].
    """

    def __init__(self, key: Array, steps: range, *, num_examples: int, batch_size: int):
        """Compute the keys of each epoch.

        Args:
          key: The key of the order of the examples, as for `batch_indices`.
          steps: The steps for which the order is called.
          num_examples: The number of examples.
          batch_size: The number of examples of a step.

        Raises:
          ValueError: If the batch is larger than the data.
        """
        self.num_examples, self.batch_size = num_examples, batch_size
        self.first_epoch, last_epoch = (
            _epoch_and_first(step, num_examples, batch_size)[0] for step in (steps[0], steps[-1])
        )
        epochs = jnp.arange(self.first_epoch, last_epoch + 1)
        keys_of = lambda epoch: _round_keys(jax.random.fold_in(key, epoch), num_examples)  # noqa: E731
        self.keys = np.asarray(jax.vmap(keys_of)(epochs))

    def __call__(self, step: int, rows: np.ndarray) -> np.ndarray:
        """Return the examples at `rows` of the batch of a step.

        Args:
          step: A step of the range.
          rows: Positions in the batch, integers [n].

        Returns:
          The indices of the examples, int64 [n].
        """
        epoch, first = _epoch_and_first(step, self.num_examples, self.batch_size)
        mix = functools.partial(_mix, keys=self.keys[epoch - self.first_epoch], size=self.num_examples)
        x = mix((first + rows).astype(np.uint32))
        while (outside := x >= self.num_examples).any():
            x[outside] = mix(x[outside])
        return x.astype(np.int64)
