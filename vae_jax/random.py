"""The numbers of jax.random, bit for bit, from a form that XLA's CPU compiler makes several times faster.

jax.random leaves the rounds of Threefry-2x32 in a loop on the CPU, where each turn goes through memory: 466 against
113 microseconds for the bits of a batch of 128 MNIST images, two busy cores. Here the rounds stand one after another
and become one loop over registers. Keys of another kind than Threefry go to jax.random itself.

A `RowsKey` draws the numbers of some rows of another array: a batch that is read in parts draws what it would whole,
and so do the rows of one that has others added for its devices' sake. The functions here split it, fold it and draw
from it, as they do any key; those of jax.random do not take it.
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RowsKey:
    """A key whose draws are rows first, first + 1, ... of the draw that `key` gives for an array of `total` rows.

    What rows beyond the last draw is not said: such rows are not to be counted.

    Attributes:
      key: a typed key.
      first: `[]`, the place of the first row, traced.
      total: rows of the whole array, static.
    """

    key: Array
    first: Array
    total: int = dataclasses.field(metadata={"static": True})


Key = Array | RowsKey


def split(key: Key) -> tuple[Key, Key]:
    """jax.random.split(key), of the same rows."""
    if isinstance(key, RowsKey):
        first, second = jax.random.split(key.key)
        return dataclasses.replace(key, key=first), dataclasses.replace(key, key=second)
    first, second = jax.random.split(key)
    return first, second


def fold_in(key: Key, data: int | Array) -> Key:
    """jax.random.fold_in(key, data), of the same rows."""
    if isinstance(key, RowsKey):
        return dataclasses.replace(key, key=jax.random.fold_in(key.key, data))
    return jax.random.fold_in(key, data)


def bits(key: Key, shape: tuple[int, ...], *, axis: int = 0) -> Array:
    """jax.random.bits(key, shape, uint32): independent uniform 32-bit integers; the rows of a `RowsKey` are on `axis`.

    Word i is x0 xor x1 of the block of counter i (Salmon et al., Parallel random numbers: as easy as 1, 2, 3, 2011).
    """
    rows = isinstance(key, RowsKey)
    whole, of_whole = (_whole(key, shape, axis), key.key) if rows else (shape, key)
    if not _is_partitionable_threefry(of_whole) or math.prod(whole) >= 2**32:
        return drawn(lambda k, s: jax.random.bits(k, s, jnp.uint32), key, shape, axis=axis)
    if rows:
        iota = lambda i: jax.lax.broadcasted_iota(jnp.uint32, shape, i)  # noqa: E731
        counter = jnp.zeros(shape, jnp.uint32)
        for i, length in enumerate(whole):
            counter = counter * length + (iota(i) + jnp.asarray(key.first, jnp.uint32) if i == axis else iota(i))
    else:
        counter = jnp.arange(math.prod(shape), dtype=jnp.uint32)
    x0, x1 = _threefry(*jax.random.key_data(of_whole), jnp.zeros_like(counter), counter)
    return (x0 ^ x1).reshape(shape)


def normal(key: Key, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32, *, axis: int = 0) -> Array:
    """jax.random.normal(key, shape, dtype): sqrt(2) erfinv(u) with u uniform on (-1, 1); `axis` as for `bits`."""
    if dtype != jnp.float32:
        return drawn(lambda k, s: jax.random.normal(k, s, dtype), key, shape, axis=axis)
    # 23 random bits are the fraction of a float in [1, 2): the spacing of u is 2^-22 everywhere.
    # The remainder changes nothing, but XLA does not compute one again for each of its readers, nor, then, the rounds.
    fraction = jax.lax.rem(bits(key, shape, axis=axis) >> 9, jnp.uint32(2**23 + 1))
    mantissa = jax.lax.bitcast_convert_type(fraction | jnp.uint32(0x3F800000), jnp.float32) - 1
    low = np.nextafter(np.float32(-1), np.float32(0))
    return np.float32(np.sqrt(2)) * jax.lax.erf_inv(jnp.maximum(low, mantissa * (np.float32(1) - low) + low))


def _whole(key: RowsKey, shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return (*shape[:axis], key.total, *shape[axis + 1 :])


def drawn(draw: Callable[[Array, tuple[int, ...]], Array], key: Key, shape: tuple[int, ...], *, axis: int = 0) -> Array:
    """draw(key, shape), with jax.random.laplace for example; of a `RowsKey` the rows, on `axis`, of the whole draw.

    For a density of one's own, whose batch may be part of another, or have rows added.
    """
    if not isinstance(key, RowsKey):
        return draw(key, shape)
    whole = draw(key.key, _whole(key, shape, axis))
    return jnp.take(whole, key.first + jnp.arange(shape[axis]), axis=axis, mode="clip")


def _is_partitionable_threefry(key: Array) -> bool:
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    return jax.config.jax_threefry_partitionable and typed and str(jax.random.key_impl(key)) == "threefry2x32"


def _threefry(key0: Array, key1: Array, x0: Array, x1: Array) -> tuple[Array, Array]:
    keys = (key0, key1, key0 ^ key1 ^ jnp.uint32(_PARITY))
    x0, x1 = x0 + keys[0], x1 + keys[1]
    for i in range(5):
        for rotation in _ROTATIONS[i % 2]:
            x0 = x0 + x1
            x1 = x0 ^ ((x1 << rotation) | (x1 >> (32 - rotation)))
        x0, x1 = x0 + keys[(i + 1) % 3], x1 + keys[(i + 2) % 3] + jnp.uint32(i + 1)
    return x0, x1
