"""distributions.deterministic."""

import dataclasses

import jax
import jax.numpy as jnp

from vae_jax.distributions.base import Array, Shape, event_ndims_field


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Deterministic:
    """A point mass at loc: the code of an autoencoder. It has no density, hence no `log_prob`.

    Attributes:
      loc: `[*batch, *event]`.
      event_ndims: how many trailing axes form one observation.
    """

    loc: Array
    event_ndims: int = event_ndims_field(1)

    def sample(self, key: Array, sample_shape: Shape = ()) -> Array:
        """Repeats loc: `[*sample_shape, *batch, *event]`."""
        del key
        return jnp.broadcast_to(self.loc, (*sample_shape, *self.loc.shape))

    def mean(self) -> Array:
        """Returns loc, `[*batch, *event]`."""
        return self.loc
