"""Feature-wise linear modulation: how a condition enters the layers of a network (Perez et al., arXiv 1709.07871)."""

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype
from jax import Array


class FiLM(nn.Module):
    """(1 + γ(e)) h + β(e) for each feature, with γ and β linear in the embedding e. It is the identity initially.

    Attributes:
      dtype: of the computation; None for that of the input.
    """

    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, h: Array, condition: Array | None) -> Array:
        """Return the modulated features; h unchanged without a condition.

        Args:
          h: features [..., F].
          condition: embeddings [..., E], whose leading axes can be broadcast to those of h; None for no modulation.

        Returns:
          An array of the shape and the dtype of h.
        """
        if condition is None:
            return h
        both = nn.Dense(2 * h.shape[-1], kernel_init=nn.initializers.zeros, dtype=self.dtype)(condition)
        scale, shift = (jnp.broadcast_to(part, h.shape).astype(h.dtype) for part in jnp.split(both, 2, axis=-1))
        return (1 + scale) * h + shift
