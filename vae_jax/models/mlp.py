"""Encoder and decoder bodies: an array in, an array out; no randomness and no density.

Encoders map images [B, H, W, C] to features [B, F]; decoders map codes [..., D] to image features [..., H, W, F].
Layers compute in `dtype`, that of what they read if None; their parameters are float32 all the same.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

_glorot = nn.initializers.glorot_uniform()


class MLPEncoder(nn.Module):
    """Dense layers of the given widths over the flattened image; its kernels can be lent to a tied decoder."""

    hidden: Sequence[int]
    activation: Callable[[Array], Array]
    dtype: Any = None

    def setup(self) -> None:
        self.layers = [nn.Dense(width, dtype=self.dtype, kernel_init=_glorot) for width in self.hidden]

    def __call__(self, x: Array) -> Array:
        h = x.reshape(x.shape[0], -1)  # [B, H·W·C]
        for layer in self.layers:
            h = self.activation(layer(h))
        return h

    def kernels(self) -> list[Array]:
        """The kernels from the image inwards, each [in, out]."""
        return [layer.variables["params"]["kernel"] for layer in self.layers]


class MLPDecoder(nn.Module):
    """Dense layers of the given widths, then one without a bias to the image's features: the VAE has the bias."""

    hidden: Sequence[int]
    activation: Callable[[Array], Array]
    image_shape: tuple[int, int]
    features: int
    dtype: Any = None

    @nn.compact
    def __call__(self, z: Array) -> Array:
        # A sample axis of length one would turn the gradients' matrix products into batches of one, which are slower.
        h = z.reshape(*(length for length in z.shape[:-1] if length != 1), z.shape[-1])
        for width in self.hidden:
            h = self.activation(nn.Dense(width, dtype=self.dtype, kernel_init=_glorot)(h))
        size = math.prod(self.image_shape) * self.features
        out = nn.Dense(size, use_bias=False, dtype=self.dtype, kernel_init=_glorot)(h)
        return out.reshape(*z.shape[:-1], *self.image_shape, self.features)


class TiedDecoder(nn.Module):
    """The transposes of an encoder's kernels, with hidden biases of its own: the linear one is PCA's shape."""

    activation: Callable[[Array], Array]
    image_shape: tuple[int, int]
    features: int
    dtype: Any = None

    @nn.compact
    def __call__(self, z: Array, kernels: Sequence[Array]) -> Array:
        h, *kernels = nn.dtypes.promote_dtype(z, *reversed(kernels), dtype=self.dtype)
        for i, kernel in enumerate(kernels):
            if i:
                h = self.activation(h + jnp.broadcast_to(self._bias(i, h.shape[-1]), h.shape).astype(h.dtype))
            h = h @ kernel.T
        return h.reshape(*z.shape[:-1], *self.image_shape, self.features)

    def _bias(self, i: int, width: int) -> Array:
        return self.param(f"bias_{i}", nn.initializers.zeros, (width,))
