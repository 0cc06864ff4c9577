"""Fully connected encoder and decoder: arrays to arrays, without randomness and without densities.

Encoders map examples [B, *sides, C] to features [B, F']. Decoders map codes [..., D] to features [..., *sides, F].
Layers compute in `dtype`, or in the dtype of their input if it is None. Their parameters are always float32.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from flax.typing import Dtype
from jax import Array

from vae_jax.config import Config, register, require, setting
from vae_jax.distributions import Shape
from vae_jax.models.choices import values_after
from vae_jax.models.film import FiLM
from vae_jax.models.networks import LayersConfig

_glorot = nn.initializers.glorot_uniform()


def _activate(h: Array, activation: Callable[[Array], Array], gated: bool) -> Array:
    """Return act(h) of [..., W]; for a gated layer act(a) * sigmoid(b) of its outputs h = (a, b), [..., 2W]."""
    if not gated:
        return activation(h)
    h, gate = jnp.split(h, 2, axis=-1)
    return activation(h) * nn.sigmoid(gate)


class MLPEncoder(nn.Module):
    """Dense layers over the flattened example; a tied decoder can use their kernels.

    Attributes:
      hidden: the widths of the layers, from the data.
      activation: applied after each layer.
      dtype: of the computation; None for that of the input.
      log1p: whether the first layer receives log(1 + x), for counts.
      gated: whether each layer is multiplied by the sigmoid of another one.
    """

    hidden: Sequence[int]
    activation: Callable[[Array], Array]
    dtype: Dtype | None = None
    log1p: bool = False
    gated: bool = False

    def setup(self) -> None:
        """Create the layers."""
        outputs = 2 if self.gated else 1
        self.layers = [nn.Dense(outputs * width, dtype=self.dtype, kernel_init=_glorot) for width in self.hidden]
        self.modulations = [FiLM(self.dtype) for _ in self.hidden]

    def __call__(self, x: Array, condition: Array | None = None) -> Array:
        """Return the features [B, F'] of examples [B, *sides, C]; a condition [B, E] or [E] modulates each layer."""
        h = x.reshape(x.shape[0], -1)  # [B, prod(sides)·C]
        h = jnp.log1p(h) if self.log1p else h
        for layer, modulate in zip(self.layers, self.modulations, strict=True):
            h = _activate(modulate(layer(h), condition), self.activation, self.gated)
        return h

    def kernels(self) -> list[Array]:
        """Return the kernels, each [in, out], in the order from the data to the code."""
        return [layer.variables["params"]["kernel"] for layer in self.layers]


class MLPDecoder(nn.Module):
    """Dense layers, then one without a bias to the features of x; the bias is the `output_bias` of the VAE.

    Attributes:
      hidden: the widths of the layers, from the code.
      activation: applied after each hidden layer.
      sides: the shape of x without its last axis: (H, W) for images, () for vectors.
      features: F, the number of outputs for each place.
      dtype: of the computation; None for that of the input.
      gated: whether each hidden layer is multiplied by the sigmoid of another one.
    """

    hidden: Sequence[int]
    activation: Callable[[Array], Array]
    sides: tuple[int, ...]
    features: int
    dtype: Dtype | None = None
    gated: bool = False

    @nn.compact
    def __call__(self, z: Array, condition: Array | None = None) -> Array:
        """Return the features [..., *sides, F] of codes [..., D]; a condition [B, E] or [E] modulates each layer."""
        # A sample axis of length one would turn the gradients' matrix products into batches of one, which are slower.
        h = _without_axes_of_one(z)
        given = None if condition is None else _without_axes_of_one(condition)
        for i, width in enumerate(self.hidden):
            layer = nn.Dense(2 * width if self.gated else width, dtype=self.dtype, kernel_init=_glorot)
            modulate = FiLM(self.dtype, name=f"modulations_{i}")
            h = _activate(modulate(layer(h), given), self.activation, self.gated)
        size = math.prod(self.sides) * self.features
        out = nn.Dense(size, use_bias=False, dtype=self.dtype, kernel_init=_glorot)(h)
        return out.reshape(*z.shape[:-1], *self.sides, self.features)


def _without_axes_of_one(h: Array) -> Array:
    """Return h [..., F] without the leading axes of length 1."""
    return h.reshape(*(length for length in h.shape[:-1] if length != 1), h.shape[-1])


class TiedDecoder(nn.Module):
    """The transposed kernels of an encoder, with separate biases of the hidden layers; if linear, the form of PCA.

    Attributes:
      activation: applied after each hidden layer.
      sides: the shape of x without its last axis: (H, W) for images, () for vectors.
      features: F, the number of outputs for each place.
      dtype: of the computation; None for that of the input.
    """

    activation: Callable[[Array], Array]
    sides: tuple[int, ...]
    features: int
    dtype: Dtype | None = None

    uses_encoder_kernels: ClassVar[bool] = True  # `VAE` passes them

    @nn.compact
    def __call__(self, z: Array, kernels: Sequence[Array]) -> Array:
        """Return the features [..., *sides, F] of codes [..., D], by the kernels of an encoder in its order."""
        h, *kernels = promote_dtype(z, *reversed(kernels), dtype=self.dtype)
        for i, kernel in enumerate(kernels):
            if i:
                h = self.activation(h + jnp.broadcast_to(self._bias(i, h.shape[-1]), h.shape).astype(h.dtype))
            h = h @ kernel.T
        return h.reshape(*z.shape[:-1], *self.sides, self.features)

    def _bias(self, i: int, width: int) -> Array:
        return self.param(f"bias_{i}", nn.initializers.zeros, (width,))


@register("network", "mlp")
@dataclasses.dataclass(frozen=True)
class MLPConfig(LayersConfig):
    """Fully connected networks."""

    supports_film: ClassVar[bool] = True

    tied: bool = setting(False, "The decoder uses the transposed weight matrices of the encoder.")
    log1p: bool = setting(False, "The encoder reads log(1 + x), for counts.")
    gated: bool = setting(False, "Each hidden layer is multiplied by the sigmoid of another one.")

    def build(self, shape: Shape, features: int, *, training: bool) -> tuple[nn.Module, nn.Module]:
        """Return `MLPEncoder`, and `MLPDecoder` or `TiedDecoder`."""
        *sides, _ = shape
        activation, dtype = self.activation_function, self.dtype(training=training)
        encoder = MLPEncoder(self.hidden, activation, dtype, self.log1p, self.gated)
        if self.tied:  # a chain of the encoder's kernels, whose last product has as many rows as x has numbers
            return encoder, TiedDecoder(activation, tuple(sides), features, dtype)
        return encoder, MLPDecoder(self.hidden[::-1], activation, tuple(sides), features, dtype, self.gated)

    def check(self, config: Config) -> None:
        """Raise InputError if `tied` or `log1p` cannot be used with the other settings."""
        if self.tied:
            require(not self.gated, "network.tied", True, "False with network.gated, whose layers have two kernels")
            for part in (config.model, config.posterior):
                require(part.supports_tied, "network.tied", True, f"False with {part.section}={part.name}")
            likelihood = config.likelihood
            require(likelihood.num_features(1) == 1, "network.tied", True, f"False with likelihood={likelihood.name}, "
                    "whose decoder has more outputs than an example has numbers")  # fmt: skip
        self.check_values(config.preprocess, config.data.kind)

    def check_values(self, preprocess: Any, kind: str) -> None:
        """Raise InputError if `log1p` is set and the preprocessing does not return counts."""
        values = values_after(preprocess, preprocess.kinds if kind == "auto" else kind)
        require(not self.log1p or "counts" in values, "network.log1p", True,
                f"False with preprocess={preprocess.name}, which does not return counts"
                + ("" if kind == "auto" else f" for {kind}"))  # fmt: skip
