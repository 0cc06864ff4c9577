"""Encoder and decoder bodies: an array in, an array out; no randomness and no density.

Encoders map images [B, H, W, C] to features [B, F]; decoders map codes [..., D] to image features [..., H, W, F].
Layers compute in `dtype`, that of what they read if None; their parameters are float32 all the same.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "gelu": jax.nn.gelu,
    "silu": jax.nn.silu,
    "elu": jax.nn.elu,
    "softplus": jax.nn.softplus,
    "sigmoid": jax.nn.sigmoid,
    "identity": lambda x: x,
}

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


@jax.custom_vjp
def convolve(x: Array, kernel: Array) -> Array:
    """Stride-1 convolution with zero padding: x [B, H, W, C], kernel [k, k, C, C'] with odd k -> [B, H, W, C'].

    Its gradients are written out as convolutions of the same form, because XLA's CPU compiler has a fast kernel for
    that form only and does not rearrange others inside a loop: there, they were measured 45 times slower.
    """
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _convolve_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return convolve(x, kernel), (x, kernel)


def _convolve_backward(saved: tuple[Array, Array], grad: Array) -> tuple[Array, Array]:
    return lax.platform_dependent(*saved, grad, cpu=_same_form_gradients, default=_transposed_gradients)


def _same_form_gradients(x: Array, kernel: Array, grad: Array) -> tuple[Array, Array]:
    margin = kernel.shape[0] // 2
    grad_x = convolve(grad, jnp.flip(kernel, (0, 1)).swapaxes(2, 3))
    # Channels act as the batch, and the batch as channels: [C, H, W, B] * [H, W, B, C'] -> [C, k, k, C'].
    grad_kernel = lax.conv_general_dilated(
        x.transpose(3, 1, 2, 0),
        grad.transpose(1, 2, 0, 3),
        (1, 1),
        [(margin, margin)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return grad_x, grad_kernel.transpose(1, 2, 0, 3)


def _transposed_gradients(x: Array, kernel: Array, grad: Array) -> tuple[Array, Array]:
    _, pullback = jax.vjp(convolve.fun, x, kernel)
    return pullback(grad)


convolve.defvjp(_convolve_forward, _convolve_backward)


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
        h = convolve(x, kernel)
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
