"""The planar transform, which moves points along one direction."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jax import lax

from vae_jax.distributions.base import Array, expand

_SOFTPLUS_ONE = math.log(math.expm1(1))  # softplus of it is 1
_BISECTIONS = 40
_MIN_GAP = 1e-6  # of 1 + w·û, the smallest derivative of the transform


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Planar:
    """z = e + û tanh(w·e + b) (Rezende & Mohamed, arXiv 1505.05770).

    û is u with its part along w changed so that w·û = max(softplus(w·u + c), 10^−6) − 1 > −1, which makes the transform
    invertible. The constant c makes it the identity for u = 0.

    Attributes:
      u: [*batch, D].
      w: [*batch, D].
      b: [*batch].
    """

    u: Array
    w: Array
    b: Array

    def forward(self, e: Array) -> tuple[Array, Array]:
        """Return z, [..., D], and log |det dz/de| = log(1 + w·û tanh'(w·e + b)), [...]."""
        w, u, b, gap = self._direction(e.shape)
        position = jnp.tanh(jnp.sum(w * e, axis=-1) + b)
        return e + u * position[..., None], _log_derivative(gap, position)

    def inverse(self, z: Array) -> tuple[Array, Array]:
        """Return e, [..., D], and log |det de/dz|, [...].

        a = w·e solves a + w·û tanh(a + b) = w·z, whose left side increases in a. It is bisected, and a step of Newton's
        method gives the solution its gradient.
        """
        w, u, b, gap = self._direction(z.shape)
        slope, target = gap - 1, jnp.sum(w * z, axis=-1)
        a = lax.stop_gradient(_bisect(target, slope, b))
        derivative = lax.stop_gradient(jnp.exp(_log_derivative(gap, jnp.tanh(a + b))))
        a = a - (a + slope * jnp.tanh(a + b) - target) / derivative
        position = jnp.tanh(a + b)
        return z - u * position[..., None], -_log_derivative(gap, position)

    def _direction(self, shape: tuple[int, ...]) -> tuple[Array, Array, Array, Array]:
        """Return w, û [..., D], b and 1 + w·û [...] for vectors of a shape [..., D]."""
        product = jnp.sum(self.w * self.u, axis=-1)
        gap = jnp.maximum(jax.nn.softplus(product + _SOFTPLUS_ONE), _MIN_GAP)
        square = jnp.sum(self.w**2, axis=-1) + jnp.finfo(self.w.dtype).tiny
        u = self.u + ((gap - 1 - product) / square)[..., None] * self.w
        return *expand(shape, self.w, u), *expand(shape[:-1], self.b, gap)  # pyright: ignore[reportReturnType]


def _log_derivative(gap: Array, position: Array) -> Array:
    """Return log(1 + w·û (1 − p²)) for 1 + w·û and p, accurate also where it is near the logarithm of 0."""
    square = position**2
    moderate = jnp.log1p(jnp.maximum(gap - 1, -0.5) * (1 - square))
    return jnp.where(gap > 0.5, moderate, jnp.log(gap * (1 - square) + square))


def _bisect(target: Array, slope: Array, b: Array) -> Array:
    """Return a with a + slope tanh(a + b) = target, to the precision of the dtype; slope > −1."""

    def halve(_: Array, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = 0.5 * (low + high)
        above = middle + slope * jnp.tanh(middle + b) > target
        return jnp.where(above, low, middle), jnp.where(above, middle, high)

    low, high = lax.fori_loop(0, _BISECTIONS, halve, (target - jnp.abs(slope), target + jnp.abs(slope)))
    return 0.5 * (low + high)
