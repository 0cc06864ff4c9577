"""Finite scalar quantization: each of D numbers is rounded to one of a few values, and their tuple is the code."""

import dataclasses
import math

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vae_jax.config import Config, register, require, setting
from vae_jax.distributions import ChosenCodes
from vae_jax.models.codes import PlaceProjection, Quantized, QuantizerConfig

MAX_CODES = 2**31 - 1  # indices have 32 bits


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class FiniteScalars:
    """The vectors of D numbers, of which number d is one of L_d equidistant values from -1 to 1.

    The code of the digits k_d in 0, ..., L_d - 1 is k_1 + L_1 (k_2 + L_2 (k_3 + ...)), computed with integers: float32
    represents integers up to 2^24 alone.

    Attributes:
      levels: (L_1, ..., L_D), static, whose product is at most `MAX_CODES`.
    """

    levels: tuple[int, ...] = dataclasses.field(metadata={"static": True})

    def digits(self, y: Array) -> Array:
        """Return the digits of the nearest values of numbers y [..., D] in [-1, 1], int32 [..., D]."""
        top = _repeated(np.asarray(self.levels, np.float32) - 1, y)
        return jnp.round(jnp.clip((y + 1) / 2, 0, 1) * top).astype(jnp.int32)

    def values(self, digits: Array) -> Array:
        """Return the values 2 k / (L - 1) - 1 of digits k [..., D], float32 [..., D]."""
        top = _repeated(np.asarray(self.levels, np.float32) - 1, digits)
        return 2 * digits.astype(jnp.float32) / top - 1

    def indices(self, digits: Array) -> Array:
        """Return the codes of digits [..., D], int32 [...]."""
        chex.assert_type(digits, int)
        return jnp.sum(digits * _repeated(self._place_values, digits), axis=-1, dtype=jnp.int32)

    def embed(self, indices: Array) -> Array:
        """Return the values of codes [..., P], float32 [..., P, D]."""
        chex.assert_type(indices, int)
        repeated = jnp.broadcast_to(indices[..., None], (*indices.shape, len(self.levels)))
        quotient = repeated // _repeated(self._place_values, repeated)
        return self.values(quotient % _repeated(np.asarray(self.levels, np.int32), repeated))

    @property
    def _place_values(self) -> np.ndarray:
        return np.cumprod([1, *self.levels[:-1]]).astype(np.int32)


def _repeated(row: np.ndarray, like: Array) -> Array:
    """Return an array [D] for each vector of another one [..., D]."""
    return jnp.broadcast_to(jnp.asarray(row), like.shape)


class FiniteScalarQuantizer(nn.Module):
    """The nearest of the finite scalars to y = tanh(dense layer of the features), at each of P places.

    A tanh with a shift for even L (Mentzer et al., arXiv 2309.15505, appendix A.1) is the same family of functions,
    since the dense layer has a bias.

    Attributes:
      places: P.
      levels: (L_1, ..., L_D).
      from_places: see `PlaceProjection`.
    """

    places: int
    levels: tuple[int, ...]
    from_places: bool = False

    def setup(self) -> None:
        """Create the dense layer."""
        self.projection = PlaceProjection(self.places, len(self.levels), self.from_places)

    def codebook(self) -> FiniteScalars:
        """Return the vectors of the codes."""
        return FiniteScalars(self.levels)

    def __call__(self, features: Array) -> Quantized:
        """Return the codes of features [B, F]."""
        codebook, y = self.codebook(), jnp.tanh(self.projection(features))
        indices = codebook.indices(codebook.digits(y))
        return Quantized(ChosenCodes(indices, math.prod(self.levels)), y, codebook)


@register("posterior", "fsq")
@dataclasses.dataclass(frozen=True)
class FiniteScalarConfig(QuantizerConfig):
    """Finite scalar quantization: each number of a place is rounded to one of `levels` equidistant values."""

    levels: tuple[int, ...] = setting(
        (8, 5, 5, 5),
        "Number of values of each number of a place. Their product is the number of codes.",
        minimum=2,
    )

    @property
    def num_codes(self) -> int:
        """The product of the levels."""
        return math.prod(self.levels)

    def build(self, latent_dim: int) -> FiniteScalarQuantizer:
        """Return a `FiniteScalarQuantizer` of `latent_dim` places."""
        return FiniteScalarQuantizer(latent_dim, self.levels)

    def check(self, config: Config) -> None:
        """Raise InputError if there is no number, or more codes than int32 can count."""
        super().check(config)
        require(len(self.levels) > 0, "posterior.levels", "()", "one number or more, for example (8, 5, 5, 5)")
        require(self.num_codes <= MAX_CODES, "posterior.levels", self.levels,
                f"numbers with a product of at most {MAX_CODES}: codes have 32 bits")  # fmt: skip
