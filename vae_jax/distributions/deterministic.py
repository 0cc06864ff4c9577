"""A point mass, the posterior of an autoencoder."""

import dataclasses

import jax
import jax.numpy as jnp

from vae_jax.distributions.base import Array, Shape, event_ndims_field


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Deterministic:
    """A point mass at loc. It has no density, and therefore no `log_prob`.

    Attributes:
      loc: [*batch, *event].
      event_ndims: number of trailing axes of one observation.
    """

    loc: Array
    event_ndims: int = event_ndims_field(1)

    def sample(self, key: Array, sample_shape: Shape = ()) -> Array:
        """Return loc for every sample.

        Args:
          key: not used.
          sample_shape: leading axes along which loc is repeated.

        Returns:
          [*sample_shape, *batch, *event].
        """
        del key
        return jnp.broadcast_to(self.loc, (*sample_shape, *self.loc.shape))

    def sample_and_log_prob(self, key: Array, sample_shape: Shape = ()) -> tuple[Array, None]:
        """Return loc for every sample, and None: a point has no density.

        Args:
          key: not used.
          sample_shape: leading axes along which loc is repeated.

        Returns:
          [*sample_shape, *batch, *event], and None.
        """
        return self.sample(key, sample_shape), None

    def mean(self) -> Array:
        """Return loc, [*batch, *event]."""
        return self.loc

    def stddev(self) -> Array:
        """Return 0, [*batch, *event]."""
        return jnp.zeros_like(self.loc)

    @property
    def batch_shape(self) -> Shape:
        """[*batch], the shape of independent distributions."""
        return self.loc.shape[: self.loc.ndim - self.event_ndims]
