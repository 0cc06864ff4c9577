"""Normalizing flows: the density of an invertible function of a random vector."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import chex
import jax
import jax.numpy as jnp

from vae_jax.distributions.base import Array, Density, Shape, expand, joint_shape
from vae_jax.distributions.gaussian_mixture import GaussianMixture
from vae_jax.distributions.normal import Normal


class Transform(Protocol):
    """An invertible function of vectors, and the log of its volume change. It is a pytree."""

    def forward(self, e: Array) -> tuple[Array, Array]:
        """Return z = T(e), [..., D], and log |det dz/de|, [...]."""
        ...

    def inverse(self, z: Array) -> tuple[Array, Array]:
        """Return e with T(e) = z, [..., D], and log |det de/dz|, [...]."""
        ...


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Inverse:
    """The inverse of a transform: for one whose inverse is the cheaper direction, and for densities of given values.

    Attributes:
      transform: the transform whose directions are exchanged.
    """

    transform: Transform

    def forward(self, e: Array) -> tuple[Array, Array]:
        """Return the inverse of the transform at e: see `Transform`."""
        return self.transform.inverse(e)

    def inverse(self, z: Array) -> tuple[Array, Array]:
        """Return the transform of z: see `Transform`."""
        return self.transform.forward(z)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Reverse:
    """The numbers of a vector in reverse order."""

    def forward(self, e: Array) -> tuple[Array, Array]:
        """Return the reversed vectors [..., D], and 0, [...]."""
        return e[..., ::-1], jnp.zeros(e.shape[:-1], e.dtype)

    def inverse(self, z: Array) -> tuple[Array, Array]:
        """Return the reversed vectors [..., D], and 0, [...]."""
        return self.forward(z)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Flow(Density):
    """z = T_n(... T_1(e)) with e ~ `base` (Rezende & Mohamed, arXiv 1505.05770).

    The log density of a sample is computed from the noise that it was made of, without an inverse. That of a given
    value needs the inverses of the transforms.

    Attributes:
      base: a Normal over vectors [*batch, D], or a mixture of them.
      transforms: T_1, ..., T_n.
    """

    base: Normal | GaussianMixture
    transforms: tuple[Transform, ...]

    def forward(self, e: Array) -> tuple[Array, Array]:
        """Return z of noise e, [..., D], and log |det dz/de|, [...]."""
        return _chain(e, [transform.forward for transform in self.transforms])

    def inverse(self, z: Array) -> tuple[Array, Array]:
        """Return the noise e of values z, [..., D], and log |det de/dz|, [...]."""
        return _chain(z, [transform.inverse for transform in reversed(self.transforms)])

    def sample(self, key: Array, sample_shape: Shape = ()) -> Array:
        """Return samples, which have a gradient to the base and to the transforms.

        Args:
          key: a typed key, or keys whose shape is the beginning of that of the samples.
          sample_shape: leading axes of independent samples.

        Returns:
          [*sample_shape, *batch, D].
        """
        return self.forward(self.base.sample(key, sample_shape))[0]

    def sample_and_log_prob(self, key: Array, sample_shape: Shape = ()) -> tuple[Array, Array]:
        """Return samples z = T(e), and log p(e) − log |det dz/de|, which needs no inverse.

        Args:
          key: a typed key, or keys whose shape is the beginning of that of the samples.
          sample_shape: leading axes of independent samples.

        Returns:
          Samples [*sample_shape, *batch, D], and their log density [*sample_shape, *batch] in nats.
        """
        e, log_density = self.base.sample_and_log_prob(key, sample_shape)
        z, log_det = self.forward(e)
        return z, log_density - log_det

    def log_prob(self, value: Array) -> Array:
        """Return log p(e) + log |det de/dz| of the noise e of values z.

        Args:
          value: floats [..., D]; its shape and that of the base may differ only by leading axes.

        Returns:
          The shape of the longer of both without D, in nats.

        Raises:
          ValueError: the shapes differ by more than leading axes.
          AssertionError: `value` is not an array of floats.
        """
        chex.assert_type(value, float)
        (value,) = expand(joint_shape(1, value.shape, self.base.mean().shape), value)
        e, log_det = self.inverse(value)
        return self.base.log_prob(e) + log_det

    def mean(self) -> Array:
        """Return z of the mean of e, [*batch, D]; the mean of z has no closed form."""
        return self.forward(self.base.mean())[0]

    def stddev(self) -> Array:
        """Return the standard deviation of each number to first order in e, sqrt(Σ_j (dz_i/de_j σ_j)²), [*batch, D].

        It is exact for an affine flow of a Normal, and so for one that starts at the identity.
        """
        loc = self.base.mean()
        _, derivative = jax.linearize(lambda e: self.forward(e)[0], loc)
        unit = jnp.eye(loc.shape[-1], dtype=loc.dtype).reshape(-1, *(1,) * (loc.ndim - 1), loc.shape[-1])
        columns = jax.vmap(derivative)(unit * self.base.stddev()[None])  # [D, *batch, D]
        return jnp.sqrt(jnp.sum(columns**2, axis=0))

    def tempered(self, temperature: float | Array) -> "Flow":
        """Return the flow whose noise has its standard deviation multiplied by a temperature."""
        return dataclasses.replace(self, base=self.base.tempered(temperature))

    @property
    def event_ndims(self) -> int:
        """The number of trailing axes of one observation, 1."""
        return 1

    @property
    def batch_shape(self) -> Shape:
        """[*batch], the shape of independent distributions."""
        return self.base.batch_shape


def _chain(value: Array, functions: Sequence) -> tuple[Array, Array]:
    """Return the result of functions applied in turn, and the sum of their log determinants."""
    total = jnp.zeros(value.shape[:-1], value.dtype)
    for function in functions:
        value, log_det = function(value)
        total = total + log_det
    return value, total
