"""Deep hierarchies of stochastic layers, from the top down to the data, for images and for vectors."""

import dataclasses
import math
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from vae_jax.config import Config, register, require, setting
from vae_jax.distributions import Batch, Distribution, Draw, Latent, Shape, from_means
from vae_jax.errors import InputError
from vae_jax.models.choices import LikelihoodConfig, ModelConfig, require_layers_allowed
from vae_jax.models.conv import Conv, depth_to_space, over_merged_axes, space_to_depth
from vae_jax.models.ladder_blocks import BlockStyle, Level, ResidualBlock, TopDownBlock
from vae_jax.models.networks import ACTIVATIONS
from vae_jax.models.priors import StandardNormalConfig
from vae_jax.models.vae import checked_examples, likelihood_of, likelihood_parameters

UNROLLED_BLOCKS = 3  # XLA optimizes across blocks that are no loop; more would let compile times grow


class Ladder(nn.Module):
    """A hierarchy of stochastic layers whose posterior and prior both run from the top down.

    The encoder computes features of the data at each level, from the data upwards. The decoder goes through the levels
    in the other direction; each of its blocks draws one layer, given those above (Sønderby et al., arXiv 1602.02282;
    Vahdat & Kautz, arXiv 2007.03898; Child, arXiv 2011.10650). The KL of each layer is in closed form given the layers
    above.

    The highest layer is named "top". The others of level i are one stack of equal blocks under the name "level{i}",
    computed by one `nn.scan`; level 1 is next to the data. Stacks of up to `UNROLLED_BLOCKS` are unrolled. With more,
    program size and compile time do not grow with the number of blocks of a level.

    With `top_prior`, the prior of the highest layer is the density of m + σ e, where e has the density of this module.
    Without it, it is N(m, σ²). With it, the KL of this layer is estimated from samples.

    Attributes:
      levels: the sizes of the levels, from the data upwards. The highest one has one block or more.
      style: what all blocks have in common.
      likelihood: the family of p(x|z).
      shape: of one example x.
      remat: whether the inside of a block is computed again for its gradient instead of being stored.
      patch: the side of the squares of pixels that are one place of level 1, for images.
      top_prior: any Linen module that returns a density of vectors of the numbers of the highest layer when it is
        called with a function, which it may not use; None for a Normal.
    """

    levels: tuple[Level, ...]
    style: BlockStyle
    likelihood: LikelihoodConfig
    shape: Shape
    remat: bool = False
    patch: int = 1
    top_prior: nn.Module | None = None

    def setup(self) -> None:
        """Create the parts, and the parameters that belong to none of them."""
        levels, style = self.levels, self.style
        self.output_bias, self.likelihood_parameters = likelihood_parameters(self, self.likelihood, self.shape)
        self.input = self._layer_of_data(levels[0].channels)
        depth = sum(level.encoder_blocks for level in levels)
        self.encoder_blocks = [ResidualBlock(level, style, depth) for level in levels]
        self.downsampling = [nn.Dense(level.channels, dtype=style.dtype) for level in levels[1:]]
        depth = sum(level.blocks for level in levels)
        top = levels[-1]
        self.top_features = self.param("top_features", nn.initializers.zeros, (*top.sides, top.channels))
        self.top_block = TopDownBlock(top, style, depth)
        self.blocks = [(TopDownBlock if level.blocks else ResidualBlock)(level, style, depth) for level in levels]
        self.upsampling = [
            nn.Dense(level.channels * (4 if level.sides else 1), dtype=style.dtype) for level in levels[:-1]
        ]
        outputs = self.output_bias.shape
        self.output = self._layer_of_data(outputs[-1] * self.patch**2 if top.sides else math.prod(outputs))

    def _layer_of_data(self, features: int) -> nn.Module:
        """Return the layer between the data and level 1, for images or for vectors."""
        layer = Conv if self.levels[0].sides else nn.Dense
        return layer(features, dtype=self.style.dtype)

    def __call__(self, batch: Batch) -> Distribution:
        """Return p(x | means of the layers); it uses every parameter, so `init` creates all of them."""
        return self.decode(from_means(), self.encode(batch), batch)[0]

    def encode(self, batch: Batch) -> tuple[Array, ...]:
        """Return the features of the data at each level, [B, *sides, C] each, from the data upwards.

        Args:
          batch: {"x": floats [B, *shape]}, preprocessed.

        Raises:
          InputError: `x` has another layout or an integer dtype.
        """
        x = checked_examples(batch["x"], self.shape)
        is_image = bool(self.levels[0].sides)
        h = self.input(space_to_depth(x, self.patch) if is_image else x.reshape(x.shape[0], -1)).astype(x.dtype)
        features: list[Array] = []
        for i, level in enumerate(self.levels):
            if i:
                h = self.downsampling[i - 1](space_to_depth(h) if is_image else h).astype(x.dtype)
            if level.encoder_blocks:
                body = self._body(lambda block, h, _: (block(h), None))
                h, _ = self._scan(body, level.encoder_blocks)(self.encoder_blocks[i], h, None)
            features.append(h)
        return tuple(features)

    def decode(
        self, draw: Draw, evidence: tuple[Array, ...] | None = None, batch: Batch | None = None
    ) -> tuple[Any, tuple[Latent, ...]]:
        """Return p(x|z) and the stochastic layers, from the top downwards.

        Args:
          draw: the answer to the question for a layer, such as `from_posterior(key, B)`.
          evidence: the result of `encode`; None if `draw` needs no posterior.
          batch: not used.

        Returns:
          A distribution over x [..., *shape], and the layers. Those of a stack of blocks are one `Latent` with a
          leading axis of blocks.
        """
        del batch
        num_levels = len(self.levels)
        known = (None,) * num_levels if evidence is None else evidence
        h = self.top_features if known[-1] is None else self.top_features.astype(known[-1].dtype)
        density = None if self.top_prior is None else self.top_prior(_refuse_posterior)
        h, latent = self.top_block(draw, "top", h, known[-1], density=density)
        latents = [latent]
        for i in reversed(range(num_levels)):
            if i < num_levels - 1:
                h = self._upsampled(h, i)
            h, stack = self._walk_level(draw, h, i, known[i])
            latents.extend(stack)
        return self._likelihood_of(h), tuple(latents)

    def _walk_level(self, draw: Draw, h: Array, i: int, evidence: Array | None) -> tuple[Array, tuple[Latent, ...]]:
        """Return the features after the blocks of a level, [..., *sides, C], and its stack of layers, if any."""
        block: Any = self.blocks[i]
        if not self.levels[i].blocks:
            return block(h), ()
        count = self.levels[i].blocks - (i == len(self.levels) - 1)
        if not count:
            return h, ()
        body = self._body(lambda block, h, index: block(draw, f"level{i + 1}", h, evidence, index))
        h, latent = self._scan(body, count)(block, h, jnp.arange(count))
        return h, (latent,)

    def _body(self, function: Any) -> Any:
        """Return the function (block, h, input) -> (h, output) of a scan, with `remat` rematerialized."""
        return nn.remat(function, prevent_cse=False) if self.remat else function

    def _scan(self, body: Any, length: int) -> Any:
        """Return the scan of a body over blocks whose parameters are stacked."""
        unroll = length if length <= UNROLLED_BLOCKS else 1
        return nn.scan(body, variable_axes={"params": 0}, split_rngs={"params": True}, length=length, unroll=unroll)

    def _upsampled(self, h: Array, i: int) -> Array:
        """Return features of level i + 1 as features of level i, of which each place becomes a square of places."""
        h, sides = self.upsampling[i](h).astype(h.dtype), self.levels[i].sides
        return over_merged_axes(lambda h: depth_to_space(h, *sides), h, 3) if sides else h

    def _likelihood_of(self, h: Array) -> Any:
        """Return p(x|z) for the features of level 1, [..., *sides, C]."""
        h = self.style.activation(h)
        features = over_merged_axes(self._pixels, h, 3) if self.levels[0].sides else self.output(h)
        lead = h.shape[: h.ndim - len(self.levels[0].sides) - 1]
        features = features.reshape(*lead, *self.output_bias.shape).astype(h.dtype)
        return likelihood_of(features, self.output_bias, self.likelihood_parameters, self.likelihood, self.shape)

    def _pixels(self, h: Array) -> Array:
        """Return the features of p(x|z) for those of level 1 of images, [B, *sides, C]."""
        height, width, _ = self.output_bias.shape
        return depth_to_space(self.output(h), height, width, self.patch)


def _refuse_posterior(x: Array) -> Distribution:
    del x
    raise InputError("top_prior is made of posteriors of examples, which a ladder does not have; use another prior")


def _for_each_level(numbers: tuple[int, ...], count: int) -> tuple[int, ...]:
    """Return a number for each level, given these or one number for all."""
    return numbers * count if len(numbers) == 1 else numbers


@dataclasses.dataclass(frozen=True)
class LadderSettings(ModelConfig):
    """The settings that deep hierarchies of images and of vectors share."""

    parts: ClassVar[tuple[str, ...]] = ("prior", "likelihood")
    has_layer_divergences: ClassVar[bool] = True

    blocks: tuple[int, ...] = setting(
        (2, 2),
        "Stochastic layers of each level, from the data upwards. 0: the level has a block without a stochastic layer.",
        minimum=0,
    )
    encoder_blocks: tuple[int, ...] = setting(
        (1,),
        "Residual blocks of the encoder at each level, from the data upwards, or one number for all levels.",
        minimum=0,
    )
    channels: tuple[int, ...] = setting(
        (64,),
        "Features of each place between blocks, for each level from the data upwards, or one number for all.",
        above=0,
    )
    bottleneck: tuple[int, ...] = setting(
        (32,),
        "Features of each place inside of blocks, for each level from the data upwards, or one number for all.",
        above=0,
    )
    latent_channels: tuple[int, ...] = setting(
        (8,),
        "Numbers of z at each place in each stochastic layer, for each level from the data upwards, or one number for "
        "all.",
        above=0,
    )
    posterior_form: Literal["residual", "free"] = setting(
        "residual",
        "residual: the posterior of a layer is N(m + m', (σ σ')²) for a prior N(m, σ²), and the network returns m' and "
        "σ' (Vahdat & Kautz, arXiv 2007.03898); free: the network returns its mean and scale.",
    )
    scale_head: Literal["softplus", "log-scale"] = setting(
        "softplus",
        "Output s of a network that sets σ. softplus: σ = log2(1 + 2^s), so that large s have finite σ; log-scale: "
        "σ = exp(s). σ is 1 for s = 0.",
    )
    activation: Literal["tanh", "relu", "gelu", "silu", "elu", "softplus", "sigmoid", "identity"] = setting(
        "gelu", "Activation function before each layer of a block."
    )
    compute_dtype: Literal["float32", "bfloat16"] = setting(
        "float32",
        "Precision of the layers inside of blocks in training. Parameters, sums of features, densities and evaluation "
        "are float32.",
    )
    remat: bool = setting(
        False,
        "Rematerialization: the backward pass computes the inside of a block again, which needs less memory and more "
        "time.",
    )

    def sides(self, shape: Shape) -> list[tuple[int, ...]]:
        """Return (H, W) or () for the features of each level, from the data upwards.

        Args:
          shape: of one example x.
        """
        raise NotImplementedError

    def build(self, config: Config, shape: Shape, *, training: bool) -> Ladder:
        """Return the `Ladder`; raise InputError if it does not support the shape."""
        count = len(self.blocks)
        numbers = (self.channels, self.bottleneck, self.latent_channels, self.blocks, self.encoder_blocks)
        sizes = zip(self.sides(shape), *(_for_each_level(n, count) for n in numbers), strict=True)
        style = BlockStyle(
            ACTIVATIONS[self.activation],
            self.scale_head,
            self.posterior_form,
            jnp.bfloat16 if training and self.compute_dtype == "bfloat16" else None,
        )
        levels = tuple(Level(*level) for level in sizes)
        size, prior = math.prod(levels[-1].sides) * levels[-1].latent_channels, None
        if not isinstance(config.prior, StandardNormalConfig):
            prior = config.prior.build(size, shape)
        return Ladder(levels, style, config.likelihood, shape, remat=training and self.remat, top_prior=prior)

    def check(self, config: Config) -> None:
        """Raise InputError if the numbers do not agree, or if the objective does not support several layers."""
        require(any(self.blocks[-1:]), "model.blocks", self.blocks,
                "one or more numbers, the last of them greater than 0")  # fmt: skip
        count = len(self.blocks)
        for name in ("encoder_blocks", "channels", "bottleneck", "latent_channels"):
            values = getattr(self, name)
            require(len(values) in (1, count), f"model.{name}", values,
                    f"one number, or {count} as in model.blocks")  # fmt: skip
        require(not config.prior.is_of_posteriors, "prior", config.prior.name,
                f"another prior with model={self.name}: it is made of posteriors q(z|x) of one layer")  # fmt: skip
        require_layers_allowed(config)


@register("model", "ladder")
@dataclasses.dataclass(frozen=True)
class LadderConfig(LadderSettings):
    """A deep hierarchy of stochastic layers for images; each level has half the height and width of the one before."""

    patch: int = setting(
        1,
        "Side of the squares of pixels that are one place of the first level. With 2, images of 28x28 have 14x14.",
        above=0,
    )

    def build(self, config: Config, shape: Shape, *, training: bool) -> Ladder:
        """Return the `Ladder`; raise InputError if it does not support the shape."""
        return super().build(config, shape, training=training).clone(patch=self.patch)

    def sides(self, shape: Shape) -> list[tuple[int, ...]]:
        """Return (H, W) of each level: the patches of the image, and then the half of the level before, rounded up."""
        if len(shape) != 3:
            raise InputError(f"model={self.name} must be ladder-mlp for examples of shape {list(shape)}, no images")
        sides = [tuple(-(-side // (self.patch * 2**i)) for side in shape[:2]) for i in range(len(self.blocks))]
        if sides[-2:-1] == [(1, 1)]:
            limit = sides.index((1, 1)) + 1
            raise InputError(
                f"model.blocks={self.blocks} has {len(sides)} levels; use {limit} or fewer for images of "
                f"{shape[0]}x{shape[1]}, whose level {limit} has one pixel"
            )
        return sides


@register("model", "ladder-mlp")
@dataclasses.dataclass(frozen=True)
class LadderMLPConfig(LadderSettings):
    """A deep hierarchy of stochastic layers for vectors, and for images as vectors; its blocks are fully connected."""

    def sides(self, shape: Shape) -> list[tuple[int, ...]]:
        """Return (), the sides of a vector, for each level."""
        del shape
        return [()] * len(self.blocks)
