"""The random numbers of jax.random, bit for bit, in a form that is faster on the CPU; and one key for each example.

`bits` and `normal` return what jax.random returns for the same key, computed by `kernels.threefry2x32`. Keys of another
implementation than Threefry are passed to jax.random.

Each example of a batch has a separate key: the key of the step folded with the example's position in the global batch
(`example_keys`). A microbatch, a shard or a padded batch then has a slice of an array of keys, so what an example draws
depends neither on the size of the batch that it is computed in nor on the devices. Threefry draws for all keys at once;
other implementations draw for one key after another.

A call outside of a compiled program is one program; inside of one, the operations are inlined.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from vae_jax import kernels

# The first number that a run's key is folded with: each use of randomness has a stream of its keys.
DATA_STREAM, NOISE_STREAM, INIT_STREAM, EVALUATION_STREAM, BINARIZATION_STREAM, LABEL_STREAM = range(6)


def example_keys(key: Array, num_examples: int, *, first: int | Array = 0) -> Array:
    """Return a key for each example of a batch: `key` folded with positions first, first + 1, ....

    Args:
      key: a typed key []; or keys [B] of the examples, which are returned as they are.
      num_examples: B.
      first: position of the first example in the global batch, or in the data set.

    Returns:
      Typed keys [B].

    Raises:
      ValueError: `key` is an array of keys of another shape than [B], or an array of numbers.
    """
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        raise ValueError(f"key has dtype {key.dtype}; pass a typed key, such as jax.random.key(0)")
    if key.ndim == 0:
        return fold_in(key, jnp.asarray(first).astype(jnp.uint32) + jnp.arange(num_examples, dtype=jnp.uint32))
    if key.shape != (num_examples,):
        raise ValueError(f"key has shape {list(key.shape)}; pass one key, or a key for each example, [{num_examples}]")
    return key


def fold_in(key: Array, data: int | Array) -> Array:
    """Return jax.random.fold_in for arrays: each key folded with each number, of broadcast shapes.

    Args:
      key: typed keys [...].
      data: integers [...], of a shape that broadcasts with that of the keys.

    Returns:
      Typed keys of the broadcast shape.
    """
    return _fold_in(key, data, jnp.broadcast_shapes(key.shape, jnp.shape(data)))


@functools.partial(jax.jit, static_argnames="shape", inline=True)
def _fold_in(key: Array, data: int | Array, shape: tuple[int, ...]) -> Array:
    if not _is_threefry(key):
        fold = functools.reduce(lambda function, _: jax.vmap(function), shape, jax.random.fold_in)
        return fold(jnp.broadcast_to(key, shape), jnp.broadcast_to(jnp.asarray(data), shape))
    pair = jax.random.key_data(key)
    count = jnp.broadcast_to(jnp.asarray(data).astype(jnp.uint32), shape)
    key0, key1 = (jnp.broadcast_to(pair[..., i], shape) for i in range(2))
    folded = jnp.stack(kernels.threefry2x32(key0, key1, jnp.zeros_like(count), count), axis=-1)
    return jax.random.wrap_key_data(folded, impl="threefry2x32")


def bits(key: Array, shape: tuple[int, ...]) -> Array:
    """Return jax.random.bits(key, shape, uint32), or for keys [*lead] each key's bits of the rest of `shape`.

    Word i of a key is x0 xor x1 of the block of counter i (Salmon et al., Parallel random numbers: as easy as 1, 2, 3,
    2011).

    Args:
      key: a typed key [], or keys whose shape is the beginning of `shape`.
      shape: of the result.

    Returns:
      Independent uniform integers, uint32 of `shape`.

    Raises:
      ValueError: the shape of the keys is not the beginning of `shape`.
    """
    _event_shape(key, shape)  # raises
    return _bits(key, shape)


@functools.partial(jax.jit, static_argnames="shape", inline=True)
def _bits(key: Array, shape: tuple[int, ...]) -> Array:
    event = _event_shape(key, shape)
    if not _is_threefry(key) or math.prod(event) >= 2**32:
        return drawn(lambda k, s: jax.random.bits(k, s, jnp.uint32), key, shape)
    pair = jax.random.key_data(key).reshape(*key.shape, 1, 2)
    counter = jnp.broadcast_to(jnp.arange(math.prod(event), dtype=jnp.uint32), (*key.shape, math.prod(event)))
    key0, key1 = (jnp.broadcast_to(pair[..., i], counter.shape) for i in range(2))
    x0, x1 = kernels.threefry2x32(key0, key1, jnp.zeros_like(counter), counter)
    return (x0 ^ x1).reshape(shape)


def normal(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """Return jax.random.normal(key, shape, dtype) = sqrt(2)·erfinv(u) with u uniform on (−1, 1); keys as for `bits`.

    Args:
      key: a typed key [], or keys whose shape is the beginning of `shape`.
      shape: of the result.
      dtype: a floating-point dtype; others than float32 are drawn by jax.random.

    Returns:
      Samples of N(0, 1), of `shape`.

    Raises:
      ValueError: the shape of the keys is not the beginning of `shape`.
    """
    _event_shape(key, shape)  # raises
    return _normal(key, shape, dtype)


@functools.partial(jax.jit, static_argnames=("shape", "dtype"), inline=True)
def _normal(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    if dtype != jnp.float32:
        return drawn(lambda k, s: jax.random.normal(k, s, dtype), key, shape)
    # 23 random bits are the fraction of a float in [1, 2): the spacing of u is 2^-22 everywhere.
    fraction = kernels.compute_once_uint23(bits(key, shape) >> 9)
    mantissa = lax.bitcast_convert_type(fraction | jnp.uint32(0x3F800000), jnp.float32) - 1
    low = np.nextafter(np.float32(-1), np.float32(0))
    return np.float32(np.sqrt(2)) * lax.erf_inv(jnp.maximum(low, mantissa * (np.float32(1) - low) + low))


def drawn(draw: Callable[[Array, tuple[int, ...]], Array], key: Array, shape: tuple[int, ...]) -> Array:
    """Return draw(key, shape), or for keys [*lead] each key's draw of the rest of `shape`.

    Args:
      draw: for example jax.random.laplace.
      key: a typed key [], or keys whose shape is the beginning of `shape`.
      shape: of the result.

    Returns:
      An array of `shape`.

    Raises:
      ValueError: the shape of the keys is not the beginning of `shape`.
    """
    event = _event_shape(key, shape)
    if key.ndim == 0:
        return draw(key, event)
    flat = key.reshape(-1)
    each = jax.vmap if str(jax.random.key_impl(key)) == "threefry2x32" else _map_in_turn  # vmap of rbg reads one key
    return each(lambda k: draw(k, event))(flat).reshape(shape)


def _map_in_turn(function: Callable[[Array], Array]) -> Callable[[Array], Array]:
    return lambda keys: lax.map(function, keys)


def _event_shape(key: Array, shape: tuple[int, ...]) -> tuple[int, ...]:
    if shape[: key.ndim] != key.shape:
        raise ValueError(f"keys have shape {list(key.shape)}, which must be the beginning of {list(shape)}")
    return shape[key.ndim :]


def _is_threefry(key: Array) -> bool:
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    partitionable = jax.config.jax_threefry_partitionable  # pyright: ignore[reportAttributeAccessIssue]  # made by jax
    return partitionable and typed and str(jax.random.key_impl(key)) == "threefry2x32"
