"""Fully connected encoder and decoder: arrays to arrays, without randomness and without densities.

Encoders map images [B, H, W, C] to features [B, F]. Decoders map codes [..., D] to image features [..., H, W, F].
Layers compute in `dtype`, or in the dtype of their input if it is None. Their parameters are always float32.
"""

import math
from collections.abc import Callable, Sequence
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from flax.typing import Dtype
from jax import Array

_glorot = nn.initializers.glorot_uniform()


class MLPEncoder(nn.Module):
    """Dense layers over the flattened image; a tied decoder can use their kernels.

    Attributes:
      hidden: the widths of the layers, from the image.
      activation: applied after each layer.
      dtype: of the computation; None for that of the input.
    """

    hidden: Sequence[int]
    activation: Callable[[Array], Array]
    dtype: Dtype | None = None

    def setup(self) -> None:
        """Create the layers."""
        self.layers = [nn.Dense(width, dtype=self.dtype, kernel_init=_glorot) for width in self.hidden]

    def __call__(self, x: Array) -> Array:
        """Return the features [B, F] of images [B, H, W, C]."""
        h = x.reshape(x.shape[0], -1)  # [B, H·W·C]
        for layer in self.layers:
            h = self.activation(layer(h))
        return h

    def kernels(self) -> list[Array]:
        """Return the kernels, each [in, out], in the order from the image to the code."""
        return [layer.variables["params"]["kernel"] for layer in self.layers]


class MLPDecoder(nn.Module):
    """Dense layers, then one without a bias to the features of the image; the bias is the `output_bias` of the VAE.

    Attributes:
      hidden: the widths of the layers, from the code.
      activation: applied after each hidden layer.
      image_shape: (H, W).
      features: F, the features of each pixel.
      dtype: of the computation; None for that of the input.
    """

    hidden: Sequence[int]
    activation: Callable[[Array], Array]
    image_shape: tuple[int, int]
    features: int
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, z: Array) -> Array:
        """Return the image features [..., H, W, F] of codes [..., D]."""
        # A sample axis of length one would turn the gradients' matrix products into batches of one, which are slower.
        h = z.reshape(*(length for length in z.shape[:-1] if length != 1), z.shape[-1])
        for width in self.hidden:
            h = self.activation(nn.Dense(width, dtype=self.dtype, kernel_init=_glorot)(h))
        size = math.prod(self.image_shape) * self.features
        out = nn.Dense(size, use_bias=False, dtype=self.dtype, kernel_init=_glorot)(h)
        return out.reshape(*z.shape[:-1], *self.image_shape, self.features)


class TiedDecoder(nn.Module):
    """The transposed kernels of an encoder, with separate biases of the hidden layers; if linear, the form of PCA.

    Attributes:
      activation: applied after each hidden layer.
      image_shape: (H, W).
      features: F, the features of each pixel.
      dtype: of the computation; None for that of the input.
    """

    activation: Callable[[Array], Array]
    image_shape: tuple[int, int]
    features: int
    dtype: Dtype | None = None

    uses_encoder_kernels: ClassVar[bool] = True  # `VAE` passes them

    @nn.compact
    def __call__(self, z: Array, kernels: Sequence[Array]) -> Array:
        """Return the image features [..., H, W, F] of codes [..., D], by the kernels of an encoder in its order."""
        h, *kernels = promote_dtype(z, *reversed(kernels), dtype=self.dtype)
        for i, kernel in enumerate(kernels):
            if i:
                h = self.activation(h + jnp.broadcast_to(self._bias(i, h.shape[-1]), h.shape).astype(h.dtype))
            h = h @ kernel.T
        return h.reshape(*z.shape[:-1], *self.image_shape, self.features)

    def _bias(self, i: int, width: int) -> Array:
        return self.param(f"bias_{i}", nn.initializers.zeros, (width,))
