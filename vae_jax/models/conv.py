"""models.conv."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from vae_jax import kernels


class Conv(nn.Module):
    """`convolve` with a 3x3 kernel and a bias."""

    features: int
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param("kernel", self.kernel_init, (3, 3, x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        h = kernels.convolve(x, kernel)
        return h + jnp.broadcast_to(bias, h.shape)


def space_to_depth(x: Array) -> Array:
    """[B, H, W, C] -> [B, ceil(H/2), ceil(W/2), 4C]: each 2x2 square becomes one pixel; odd sides are padded with 0."""
    x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 2, 4, 5).reshape(b, h // 2, w // 2, 4 * c)


def depth_to_space(x: Array, height: int, width: int) -> Array:
    """The inverse of `space_to_depth` for images of this height and width."""
    b, h, w, c = x.shape
    x = x.reshape(b, h, w, 2, 2, c // 4).transpose(0, 1, 3, 2, 4, 5).reshape(b, 2 * h, 2 * w, c // 4)
    return x[:, :height, :width]


class ConvBlock(nn.Module):
    """act(conv(x)) with as many channels as x, or, if `residual`, x + conv(act(conv(act(x)))).

    The last convolution of a residual block starts at zero, so that the block begins as the identity.
    """

    activation: Callable[[Array], Array]
    residual: bool
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        width = x.shape[-1]
        if not self.residual:
            return self.activation(Conv(width, dtype=self.dtype)(x))
        h = Conv(width, dtype=self.dtype)(self.activation(x))
        return x + Conv(width, kernel_init=nn.initializers.zeros, dtype=self.dtype)(self.activation(h))


def _blocks(h: Array, first: int, net: "ConvEncoder | ConvDecoder") -> Array:
    """The blocks of one level of `net`, `first` of which are made already."""
    block = nn.remat(ConvBlock) if net.remat else ConvBlock
    for i in range(first, first + net.blocks):  # named, for a block that is computed again has another class
        h = block(net.activation, net.residual, net.dtype, name=f"ConvBlock_{i}")(h)
    return h


class ConvEncoder(nn.Module):
    """For each entry of `channels`: 2x2 squares become pixels of that many channels, then `blocks` blocks.

    The last level is handed over as one vector. Any height and width will do.
    """

    channels: Sequence[int]
    blocks: int
    activation: Callable[[Array], Array]
    residual: bool = True
    dtype: Any = None
    remat: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        h = 2 * x - 1
        for level, width in enumerate(self.channels):
            h = nn.Dense(width, dtype=self.dtype)(space_to_depth(h))
            h = _blocks(h, level * self.blocks, self)
        return self.activation(h).reshape(h.shape[0], -1)


class ConvDecoder(nn.Module):
    """The mirror of ConvEncoder: each level doubles height and width, and cuts them to what the encoder had."""

    channels: Sequence[int]
    blocks: int
    activation: Callable[[Array], Array]
    image_shape: tuple[int, int]
    features: int
    residual: bool = True
    dtype: Any = None
    remat: bool = False

    @nn.compact
    def __call__(self, z: Array) -> Array:
        # Leading axes go last-to-first into one, so that a batch axis spread over devices stays whole on each.
        lead = z.ndim - 1
        order = tuple(reversed(range(lead)))
        flat = z.transpose(*order, lead).reshape(-1, z.shape[-1])
        h = self._decode(flat)
        h = h.reshape(*(z.shape[i] for i in order), *h.shape[1:])
        return h.transpose(*order, lead, lead + 1, lead + 2)

    def _decode(self, z: Array) -> Array:
        sides = [[-(-side // 2**i) for side in self.image_shape] for i in range(len(self.channels) + 1)]
        h = nn.Dense(math.prod(sides[-1]) * self.channels[-1], dtype=self.dtype)(z)
        h = h.reshape(-1, *sides[-1], self.channels[-1])
        for done, i in enumerate(reversed(range(len(self.channels)))):
            h = _blocks(h, done * self.blocks, self)
            above = self.channels[i - 1] if i else self.features
            h = depth_to_space(nn.Dense(4 * above, dtype=self.dtype)(self.activation(h)), *sides[i])
        return h
