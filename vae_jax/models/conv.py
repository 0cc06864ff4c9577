"""Convolutional and residual encoder and decoder, for images of any height and width."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import ClassVar

import chex
import flax.linen as nn
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from flax.typing import Dtype
from jax import Array

from vae_jax import kernels
from vae_jax.config import Config, register, require, setting
from vae_jax.distributions import Shape
from vae_jax.errors import InputError
from vae_jax.models.film import FiLM
from vae_jax.models.networks import LayersConfig


class Conv(nn.Module):
    """A convolution with a 3x3 kernel, zero padding and a bias, computed by `kernels.convolve`.

    Attributes:
      features: channels of the output.
      kernel_init: initializer of the kernel.
      dtype: of the computation; None for that of the input.
    """

    features: int
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Return the convolution of [B, H, W, C], [B, H, W, features]."""
        kernel = self.param("kernel", self.kernel_init, (3, 3, x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        h = kernels.convolve(x, kernel)
        return h + jnp.broadcast_to(bias, h.shape)


def space_to_depth(x: Array, side: int = 2) -> Array:
    """Return each square as one pixel.

    Args:
      x: [B, H, W, C]. Sides that are no multiples of S are padded with 0.
      side: S, of the squares.

    Returns:
      [B, ceil(H/S), ceil(W/S), S² C].
    """
    chex.assert_rank(x, 4)
    x = jnp.pad(x, ((0, 0), (0, -x.shape[1] % side), (0, -x.shape[2] % side), (0, 0)))
    b, h, w, c = x.shape
    x = x.reshape(b, h // side, side, w // side, side, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, h // side, w // side, side**2 * c)


def depth_to_space(x: Array, height: int, width: int, side: int = 2) -> Array:
    """Return the inverse of `space_to_depth` for images of this height and width, [B, height, width, C].

    Args:
      x: [B, ceil(height/S), ceil(width/S), S² C].
      height: of the images.
      width: of the images.
      side: S, of the squares.
    """
    chex.assert_rank(x, 4)
    b, h, w, c = x.shape
    x = x.reshape(b, h, w, side, side, c // side**2).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, side * h, side * w, c // side**2)[:, :height, :width]


def over_merged_axes(function: Callable[[Array], Array], x: Array, event_ndims: int) -> Array:
    """Return function(x) [*lead, ...] for x [*lead, *event] and a function of arrays with one leading axis.

    Args:
      function: [N, *event] -> [N, ...].
      x: [*lead, *event], with any number of leading axes.
      event_ndims: the number of axes of the event.

    Returns:
      [*lead, ...].
    """
    lead = x.ndim - event_ndims
    # The leading axes are merged in reverse order, so that a batch axis that is split over devices stays contiguous on
    # each of them.
    order = tuple(reversed(range(lead)))
    h = function(x.transpose(*order, *range(lead, x.ndim)).reshape(-1, *x.shape[lead:]))
    h = h.reshape(*(x.shape[i] for i in order), *h.shape[1:])
    return h.transpose(*order, *range(lead, h.ndim))


class ConvBlock(nn.Module):
    """act(conv(x)) with as many channels as x, or, if `residual`, x + conv(act(conv(act(x)))).

    The last convolution of a residual block is initialized with zeros, so the block starts as the identity.

    Attributes:
      activation: act.
      residual: whether the block has a residual connection.
      dtype: of the computation; None for that of the input.
    """

    activation: Callable[[Array], Array]
    residual: bool
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Return an array with the shape of x, [B, H, W, C]."""
        width = x.shape[-1]
        if not self.residual:
            return self.activation(Conv(width, dtype=self.dtype)(x))
        h = Conv(width, dtype=self.dtype)(self.activation(x))
        return x + Conv(width, kernel_init=nn.initializers.zeros, dtype=self.dtype)(self.activation(h))


def _apply_blocks(h: Array, first: int, net: "ConvEncoder | ConvDecoder") -> Array:
    """Apply the blocks of one level of `net`; the number of the first of them is `first`."""
    block = nn.remat(ConvBlock) if net.remat else ConvBlock
    for i in range(first, first + net.blocks):  # explicit names, because a block under remat has another class name
        h = block(net.activation, net.residual, net.dtype, name=f"ConvBlock_{i}")(h)
    return h


def _at_places(condition: Array | None) -> Array | None:
    """Return embeddings [B, E] or [E] as [B, 1, 1, E], for feature maps."""
    return None if condition is None else condition.reshape(-1, 1, 1, condition.shape[-1])


class ConvEncoder(nn.Module):
    """A convolutional encoder: for each level, 2x2 squares become pixels, then blocks follow.

    The output is the last level as one vector. Height and width are arbitrary.

    Attributes:
      channels: the channels of each level, from the image.
      blocks: how many blocks each level has.
      activation: of the blocks, and of the output.
      residual: whether the blocks are residual.
      dtype: of the computation; None for that of the input.
      remat: whether the interior of a block is computed again for its gradient instead of being stored.
    """

    channels: Sequence[int]
    blocks: int
    activation: Callable[[Array], Array]
    residual: bool = True
    dtype: Dtype | None = None
    remat: bool = False

    @nn.compact
    def __call__(self, x: Array, condition: Array | None = None) -> Array:
        """Return the features [B, F] of images [B, H, W, C]; a condition [B, E] or [E] modulates each level."""
        given, h = _at_places(condition), 2 * x - 1
        for level, width in enumerate(self.channels):
            h = nn.Dense(width, dtype=self.dtype)(space_to_depth(h))
            h = FiLM(self.dtype)(h, given)
            h = _apply_blocks(h, level * self.blocks, self)
        return self.activation(h).reshape(h.shape[0], -1)


class ConvDecoder(nn.Module):
    """The mirror image of ConvEncoder: each level doubles height and width, and crops them to the encoder's.

    With `output_channels`, a convolution at full resolution follows. Without it, the pixels of a 2x2 square are
    different functions of the same features, which leaves a fixed pattern on images of grey levels and colours.

    Attributes:
      channels: the channels of each level, in the encoder's order.
      blocks: how many blocks each level has.
      activation: of the blocks, and before each change of resolution and the last convolution.
      sides: (H, W).
      features: F, the features of each pixel of the output.
      output_channels: the channels that the last convolution reads; 0: there is none.
      residual: whether the blocks are residual.
      dtype: of the computation; None for that of the input.
      remat: whether the interior of a block is computed again for its gradient instead of being stored.
      from_places: whether each place of the smallest level receives an equal part of the code, by a shared layer.
    """

    channels: Sequence[int]
    blocks: int
    activation: Callable[[Array], Array]
    sides: tuple[int, int]
    features: int
    output_channels: int
    residual: bool = True
    dtype: Dtype | None = None
    remat: bool = False
    from_places: bool = False

    @nn.compact
    def __call__(self, z: Array, condition: Array | None = None) -> Array:
        """Return the features [..., H, W, F] of codes [..., D]; a condition [B, E] or [E] modulates each level."""
        if condition is None:
            return over_merged_axes(self._decode, z, 1)
        size = condition.shape[-1]
        both = jnp.concatenate([z, jnp.broadcast_to(condition, (*z.shape[:-1], size)).astype(z.dtype)], axis=-1)
        return over_merged_axes(lambda h: self._decode(h[:, :-size], h[:, -size:]), both, 1)

    def _decode(self, z: Array, condition: Array | None = None) -> Array:
        given = _at_places(condition)
        sides = [[-(-side // 2**i) for side in self.sides] for i in range(len(self.channels) + 1)]
        if self.from_places:
            h = nn.Dense(self.channels[-1], dtype=self.dtype)(z.reshape(z.shape[0], *sides[-1], -1))
        else:
            h = nn.Dense(math.prod(sides[-1]) * self.channels[-1], dtype=self.dtype)(z)
            h = h.reshape(-1, *sides[-1], self.channels[-1])
        for level, i in enumerate(reversed(range(len(self.channels)))):
            h = _apply_blocks(FiLM(self.dtype)(h, given), level * self.blocks, self)
            width = self.channels[i - 1] if i else self.output_channels or self.features
            h = depth_to_space(nn.Dense(4 * width, dtype=self.dtype)(self.activation(h)), *sides[i])
        return Conv(self.features, dtype=self.dtype)(self.activation(h)) if self.output_channels else h


@register("network", "conv")
@dataclasses.dataclass(frozen=True)
class ConvConfig(LayersConfig):
    """Convolutional networks, for images."""

    supports_film: ClassVar[bool] = True
    residual: ClassVar[bool] = False  # whether the blocks have a residual connection

    hidden: tuple[int, ...] = setting(
        (32, 64),
        "Channels of the encoder's levels, from the image to the code; the decoder has the same in reverse order. Each "
        "level has half the height and width of the level before.",
        above=0,
    )
    blocks: int = setting(
        1,
        "Blocks in each level. A block is one convolution (conv), or two and a skip connection (residual).",
        above=0,
    )
    output_channels: int = setting(
        16,
        "Channels that the decoder's last convolution reads, at full resolution; 0: no such convolution, which is "
        "faster and enough for binary images.",
        minimum=0,
    )
    spatial_code: bool = setting(
        False,
        "z is a map: model.latent_dim numbers at each place of the last level, encoded from the features of this place "
        "and decoded by layers that all places share. False: z is one vector, by dense layers over all places.",
    )
    remat: bool = setting(
        False,
        "Rematerialization: the backward pass computes the activations inside a block again, which needs less memory "
        "and more time.",
    )

    def build(self, shape: Shape, features: int, *, training: bool) -> tuple[nn.Module, nn.Module]:
        """Return `ConvEncoder` and `ConvDecoder`; raise InputError unless the examples are images."""
        if len(shape) != 3:
            raise InputError(
                f"network={self.name} must be mlp for examples of shape {list(shape)}, which are no images"
            )
        height, width, _ = shape
        remat, dtype = training and self.remat, self.dtype(training=training)
        activation, residual = self.activation_function, self.residual
        encoder = ConvEncoder(self.hidden, self.blocks, activation, residual, dtype, remat)
        decoder = ConvDecoder(
            self.hidden, self.blocks, activation, (height, width), features, self.output_channels, residual, dtype,
            remat, self.spatial_code,
        )  # fmt: skip
        return encoder, decoder

    def places(self, shape: Shape) -> tuple[int, int]:
        """Return height and width of the last level."""
        height, width = (-(-side // 2 ** len(self.hidden)) for side in shape[:2])
        return height, width

    def code_places(self, shape: Shape) -> int:
        """Return the number of places of the last level if the code is a map, otherwise 1."""
        return math.prod(self.places(shape)) if self.spatial_code else 1

    def check(self, config: Config) -> None:
        """Raise InputError unless there is a level, or if another part does not support a code that is a map."""
        require(len(self.hidden) > 0, "network.hidden", "()",
                f"one or more numbers of channels with network={self.name}, for example (32, 64)")  # fmt: skip
        for part in (config.model, config.posterior):
            require(not self.spatial_code or part.supports_spatial, "network.spatial_code", True,
                    f"False with {part.section}={part.name}")  # fmt: skip


@register("network", "residual")
@dataclasses.dataclass(frozen=True)
class ResidualConfig(ConvConfig):
    """Convolutional networks of residual blocks, for images."""

    residual: ClassVar[bool] = True
