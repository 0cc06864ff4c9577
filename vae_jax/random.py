"""The numbers of jax.random, bit for bit, from a form that XLA's CPU compiler makes several times faster.

jax.random leaves the rounds of Threefry-2x32 in a loop on the CPU, where each turn goes through memory: 466 against
113 microseconds for the bits of a batch of 128 MNIST images, two busy cores. Here the rounds stand one after another
and become one loop over registers. Keys of another kind than Threefry go to jax.random itself.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA


def bits(key: Array, shape: tuple[int, ...]) -> Array:
    """jax.random.bits(key, shape, uint32): independent uniform 32-bit integers.

    Word i is x0 xor x1 of the block of counter i (Salmon et al., Parallel random numbers: as easy as 1, 2, 3, 2011).
    """
    size = math.prod(shape)
    if not _is_partitionable_threefry(key) or size >= 2**32:
        return jax.random.bits(key, shape, jnp.uint32)
    first, second = jax.random.key_data(key)
    counter = jnp.arange(size, dtype=jnp.uint32)
    x0, x1 = _threefry(first, second, jnp.zeros_like(counter), counter)
    return (x0 ^ x1).reshape(shape)


def normal(key: Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> Array:
    """jax.random.normal(key, shape, dtype): sqrt(2) erfinv(u) with u uniform on (-1, 1)."""
    if dtype != jnp.float32:
        return jax.random.normal(key, shape, dtype)
    # 23 random bits are the fraction of a float in [1, 2): the spacing of u is 2^-23 everywhere.
    # The remainder changes nothing, but XLA does not compute one again for each of its readers, nor, then, the rounds.
    fraction = jax.lax.rem(bits(key, shape) >> 9, jnp.uint32(2**23 + 1))
    mantissa = jax.lax.bitcast_convert_type(fraction | jnp.uint32(0x3F800000), jnp.float32) - 1
    low = np.nextafter(np.float32(-1), np.float32(0))
    return np.float32(np.sqrt(2)) * jax.lax.erf_inv(jnp.maximum(low, mantissa * (np.float32(1) - low) + low))


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
