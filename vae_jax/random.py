"""The random numbers of jax.random, bit for bit, in a form that is faster on the CPU; and keys of rows.

`bits` and `normal` return what jax.random returns for the same key, computed by `kernels.threefry2x32`. Keys of another
implementation than Threefry are passed to jax.random.

A `RowsKey` draws the numbers of some rows of a larger array. A batch that is processed in parts thus draws the same
numbers as the complete batch, and rows that are added as padding for the devices change no other row. The functions
here accept a `RowsKey` wherever they accept a key; those of jax.random do not.
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import DTypeLike

from vae_jax import kernels

# The first number that a run's key is folded with: each use of randomness has a stream of its keys.
DATA_STREAM, NOISE_STREAM, INIT_STREAM, EVALUATION_STREAM, BINARIZATION_STREAM = range(5)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RowsKey:
    """A key that draws rows first, first + 1, ... of the array that `key` draws for `total` rows.

    Rows beyond the last are undefined; they must not be used.

    Attributes:
      key: a typed key.
      first: `[]`, index of the first row, traced.
      total: rows of the complete array, static.
    """

    key: Array
    first: Array
    total: int = dataclasses.field(metadata={"static": True})


Key = Array | RowsKey


def split(key: Key) -> tuple[Key, Key]:
    """Return the two keys of jax.random.split(key), for the same rows."""
    if isinstance(key, RowsKey):
        first, second = jax.random.split(key.key)
        return dataclasses.replace(key, key=first), dataclasses.replace(key, key=second)
    first, second = jax.random.split(key)
    return first, second


def fold_in(key: Key, data: int | Array) -> Key:
    """Return jax.random.fold_in(key, data), for the same rows."""
    if isinstance(key, RowsKey):
        return dataclasses.replace(key, key=jax.random.fold_in(key.key, data))
    return jax.random.fold_in(key, data)


def bits(key: Key, shape: tuple[int, ...], *, axis: int = 0) -> Array:
    """Return jax.random.bits(key, shape, uint32): independent uniform 32-bit integers.

    Word i is x0 xor x1 of the block of counter i (Salmon et al., Parallel random numbers: as easy as 1, 2, 3, 2011).

    Args:
      key: a key, or a `RowsKey`.
      shape: of the result.
      axis: the axis of the rows of a `RowsKey`.

    Returns:
      uint32 of `shape`.
    """
    rows = key if isinstance(key, RowsKey) else None
    full_shape, full_key = (shape, key) if not isinstance(key, RowsKey) else (_full_shape(key, shape, axis), key.key)
    if not _is_partitionable_threefry(full_key) or math.prod(full_shape) >= 2**32:
        return drawn(lambda k, s: jax.random.bits(k, s, jnp.uint32), key, shape, axis=axis)
    if rows is not None:
        counter = jnp.zeros(shape, jnp.uint32)
        for i, length in enumerate(full_shape):
            index = lax.broadcasted_iota(jnp.uint32, shape, i)
            counter = counter * length + (index + jnp.asarray(rows.first, jnp.uint32) if i == axis else index)
    else:
        counter = jnp.arange(math.prod(shape), dtype=jnp.uint32)
    key0, key1 = jax.random.key_data(full_key)
    x0, x1 = kernels.threefry2x32(key0, key1, jnp.zeros_like(counter), counter)
    return (x0 ^ x1).reshape(shape)


def normal(key: Key, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32, *, axis: int = 0) -> Array:
    """Return jax.random.normal(key, shape, dtype) = sqrt(2)·erfinv(u) with u uniform on (−1, 1).

    Args:
      key: a key, or a `RowsKey`.
      shape: of the result.
      dtype: a floating-point dtype; others than float32 are drawn by jax.random.
      axis: the axis of the rows of a `RowsKey`.

    Returns:
      Samples of N(0, 1), of `shape`.
    """
    if dtype != jnp.float32:
        return drawn(lambda k, s: jax.random.normal(k, s, dtype), key, shape, axis=axis)
    # 23 random bits are the fraction of a float in [1, 2): the spacing of u is 2^-22 everywhere.
    fraction = kernels.compute_once_uint23(bits(key, shape, axis=axis) >> 9)
    mantissa = lax.bitcast_convert_type(fraction | jnp.uint32(0x3F800000), jnp.float32) - 1
    low = np.nextafter(np.float32(-1), np.float32(0))
    return np.float32(np.sqrt(2)) * lax.erf_inv(jnp.maximum(low, mantissa * (np.float32(1) - low) + low))


def drawn(draw: Callable[[Array, tuple[int, ...]], Array], key: Key, shape: tuple[int, ...], *, axis: int = 0) -> Array:
    """Return draw(key, shape), or for a `RowsKey` its rows of the complete draw.

    A custom density uses it, so that a batch in parts, or with padding, draws the same numbers.

    Args:
      draw: for example jax.random.laplace.
      key: a key, or a `RowsKey`.
      shape: of the result.
      axis: the axis of the rows of a `RowsKey`.

    Returns:
      An array of `shape`.
    """
    if not isinstance(key, RowsKey):
        return draw(key, shape)
    complete = draw(key.key, _full_shape(key, shape, axis))
    return jnp.take(complete, key.first + jnp.arange(shape[axis]), axis=axis, mode="clip")


def _full_shape(key: RowsKey, shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return (*shape[:axis], key.total, *shape[axis + 1 :])


def _is_partitionable_threefry(key: Array) -> bool:
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    partitionable = jax.config.jax_threefry_partitionable  # pyright: ignore[reportAttributeAccessIssue]  # made by jax
    return partitionable and typed and str(jax.random.key_impl(key)) == "threefry2x32"
