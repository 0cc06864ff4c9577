"""The blocks of a deep hierarchy of stochastic layers, for images and for vectors.

Arrays are [..., *sides, C] with sides (H, W) for images and () for vectors. A block reads and returns the features of
one level. Between its layers it computes in `dtype`, but sums of features and the parameters of densities have the
precision of the data, because many small terms are added to the features.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.typing import Dtype
from jax import Array

from vae_jax.distributions import DiagonalAffine, Draw, Flow, Latent, Normal, Reshaped
from vae_jax.models.conv import Conv, over_merged_axes

ScaleHead = Literal["softplus", "log-scale"]
PosteriorForm = Literal["residual", "free"]

_SOFTPLUS_SLOPE = float(np.log(2))  # of σ = softplus(βs)/β, which is 1 at s = 0
_LINEAR_BELOW = -15.0  # where log softplus(t) is t in float32


@dataclasses.dataclass(frozen=True)
class Level:
    """The sizes of one level of a hierarchy.

    Attributes:
      sides: (H, W) of the features of an image, () of a vector.
      channels: C, the features of each place.
      bottleneck: features of each place inside of a residual block.
      latent_channels: numbers of z at each place.
      blocks: the number of stochastic layers.
      encoder_blocks: the number of residual blocks of the encoder.
    """

    sides: tuple[int, ...]
    channels: int
    bottleneck: int
    latent_channels: int
    blocks: int
    encoder_blocks: int


@dataclasses.dataclass(frozen=True)
class BlockStyle:
    """What all blocks of a hierarchy have in common.

    Attributes:
      activation: before each layer of a block.
      scale_head: how an output s of a network determines σ, see `log_scale`.
      posterior: "residual" for a posterior relative to the prior, "free" for one that does not use its parameters.
      dtype: of the layers' computation; None for that of their input.
    """

    activation: Callable[[Array], Array] = jax.nn.gelu
    scale_head: ScaleHead = "softplus"
    posterior: PosteriorForm = "residual"
    dtype: Dtype | None = None


def log_scale(s: Array, head: ScaleHead) -> Array:
    """Return log σ of an output s of a network: 0 for s = 0.

    Args:
      s: any shape.
      head: "softplus" for σ = softplus(βs)/β with β = ln 2, which grows linearly; "log-scale" for σ = exp(s).

    Returns:
      The shape of s.
    """
    if head == "log-scale":
        return s
    t = _SOFTPLUS_SLOPE * s
    tail = jnp.minimum(t - _LINEAR_BELOW, 0)  # softplus is 0 in float32 far below
    return jnp.log(jax.nn.softplus(jnp.maximum(t, _LINEAR_BELOW))) + tail - float(np.log(_SOFTPLUS_SLOPE))


def scaled_init(depth: int) -> nn.initializers.Initializer:
    """Return the initializer of the last layer of one of L residual blocks, with 1/√L of the usual scale.

    The sum of L blocks has the variance of one then (Child, arXiv 2011.10650).

    Args:
      depth: L.
    """
    return nn.initializers.variance_scaling(1 / max(depth, 1), "fan_in", "truncated_normal")


def add(a: Array, b: Array) -> Array:
    """Return a + b, of which one may lack leading axes, in the dtype of a."""
    shape = max(a.shape, b.shape, key=len)
    return jnp.broadcast_to(a, shape) + jnp.broadcast_to(b, shape).astype(a.dtype)


def _scaled(density: Any, normal: Normal) -> Reshaped:
    """Return the density of m + σ e [*event], of e with a density of vectors, for a Normal N(m, σ²) of one event."""
    base, transforms = (density.base, density.transforms) if isinstance(density, Flow) else (density, ())
    affine = DiagonalAffine(normal.loc.reshape(-1), normal.log_scale.reshape(-1))
    return Reshaped(Flow(base, (*transforms, affine)), normal.loc.shape)


class Bottleneck(nn.Module):
    """Layers f_n(...act(f_1(act(h)))) that are narrow inside: for images 1x1, 3x3, 3x3 and 1x1 convolutions.

    Features without neighbours, which are vectors or 1x1 images, have one dense layer in place of the 3x3 convolutions.
    The first layer can read several arrays, of which some may lack leading axes; its terms are added.

    Attributes:
      width: features of each place inside.
      features: of the output.
      sides: (H, W) of an image, or ().
      activation: before each layer.
      last_init: initializer of the last kernel.
      dtype: of the computation; None for that of the input.
    """

    width: int
    features: int
    sides: tuple[int, ...]
    activation: Callable[[Array], Array]
    last_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, *inputs: Array) -> Array:
        """Return [..., *sides, features] of arrays [..., *sides, C]."""
        h, *others = (nn.Dense(self.width, dtype=self.dtype)(self.activation(x)) for x in inputs)
        for other in others:
            h = add(h, other)
        if max(self.sides, default=1) > 1:
            convolutions = [Conv(self.width, dtype=self.dtype) for _ in range(2)]
            for convolution in convolutions:
                h = over_merged_axes(convolution, self.activation(h), 3)
        else:
            h = nn.Dense(self.width, dtype=self.dtype)(self.activation(h))
        return nn.Dense(self.features, kernel_init=self.last_init, dtype=self.dtype)(self.activation(h))


class ResidualBlock(nn.Module):
    """h + bottleneck(h).

    Attributes:
      level: the sizes.
      style: what all blocks have in common.
      depth: L, the number of blocks whose outputs are added, see `scaled_init`.
    """

    level: Level
    style: BlockStyle
    depth: int

    @nn.compact
    def __call__(self, h: Array) -> Array:
        """Return an array with the shape of h, [..., *sides, C]."""
        return add(h, bottleneck(self.level, self.style, self.level.channels, scaled_init(self.depth))(h))


def bottleneck(
    level: Level, style: BlockStyle, features: int, last_init: nn.initializers.Initializer | None = None
) -> Bottleneck:
    """Return a `Bottleneck` with the sizes of a level.

    Args:
      level: the level.
      style: what all blocks have in common.
      features: of the output.
      last_init: initializer of the last kernel; None for the usual one.
    """
    last_init = last_init or nn.initializers.lecun_normal()
    return Bottleneck(level.bottleneck, features, level.sides, style.activation, last_init, style.dtype)


class TopDownBlock(nn.Module):
    """One stochastic layer p(z | h), q(z | h, x), and the features of the next block.

    With the features h of the layers above: (parameters of p, f) = prior(h), h' = h + f + projection(z), and the result
    is h' + residual(h'). The last layer of `prior` is initialized with zeros, so that p(z | h) starts as N(0, I).

    Attributes:
      level: the sizes.
      style: what all blocks have in common.
      depth: L, the number of stochastic layers of the hierarchy.
    """

    level: Level
    style: BlockStyle
    depth: int

    def setup(self) -> None:
        """Create the networks."""
        level, style, init = self.level, self.style, scaled_init(self.depth)
        size = 2 * level.latent_channels
        self.prior = bottleneck(level, style, size + level.channels, nn.initializers.zeros)
        self.posterior = bottleneck(level, style, size)
        self.projection = nn.Dense(level.channels, kernel_init=init, dtype=style.dtype)
        self.residual = ResidualBlock(level, style, self.depth)

    def __call__(
        self,
        draw: Draw,
        name: str,
        h: Array,
        evidence: Array | None,
        index: Array | None = None,
        density: Any = None,
    ) -> tuple[Array, Latent]:
        """Return the features for the next block, and the layer.

        Args:
          draw: the answer to the question for a layer.
          name: of the layer.
          h: [..., *sides, C], the features of the layers above; without leading axes in the highest layer.
          evidence: [B, *sides, C], the features of the encoder; None if `draw` needs no posterior.
          index: [], the number of the block inside of `nn.scan`.
          density: of e [D], the D numbers of a layer without layers above. Its prior is the density of m + σ e with the
            m and σ that `prior` returns; None for the Normal N(m, σ²).
        """
        outputs = self.prior(h).astype(h.dtype)
        parameters, features = jnp.split(outputs, [2 * self.level.latent_channels], axis=-1)
        prior = self._normal(parameters)
        posterior = None if evidence is None else lambda: self._posterior_of(h, evidence, prior)
        latent = draw(name, prior if density is None else _scaled(density, prior), posterior, index=index)
        h = add(add(h, features), self.projection(latent.z))
        return self.residual(h), latent

    def _normal(self, parameters: Array) -> Normal:
        """Return the Normal over z [..., *sides, Z] with the parameters (m, s) [..., *sides, 2Z]."""
        loc, s = jnp.split(parameters, 2, axis=-1)
        return Normal(loc, log_scale(s, self.style.scale_head), len(self.level.sides) + 1)

    def _posterior_of(self, h: Array, evidence: Array, prior: Normal) -> Normal:
        """Return q(z | h, x). If it is relative to p(z | h) = N(m, σ²), it is N(m + m', (σ σ')²)."""
        q = self._normal(self.posterior(h, evidence).astype(h.dtype))
        if self.style.posterior == "free":
            return q
        return Normal(add(q.loc, prior.loc), add(q.log_scale, prior.log_scale), q.event_ndims)
