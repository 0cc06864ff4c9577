"""Masked autoregressive transforms: each number changes by a function of those before it."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from vae_jax.distributions.base import Array
from vae_jax.distributions.conditioners import Conditioner, shift_and_log_scale


@functools.cache
def autoregressive_masks(size: int, hidden: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    """Return the masks of a network whose outputs of number d depend on numbers 1, ..., d - 1 alone.

    Germain et al., MADE, arXiv 1502.03509. Hidden units have degrees 1, ..., D - 1 in turn; in a layer of fewer units
    the degrees are spread evenly.

    Args:
      size: D, the number of inputs; there are 2 D outputs, two for each input.
      hidden: widths of the hidden layers.

    Returns:
      Arrays of 0 and 1, [D, H_1], ..., [H_L, 2 D].
    """
    count = max(size - 1, 1)  # of different degrees
    units = [np.arange(width) for width in hidden]
    degrees = [np.arange(size)] + [unit % count if len(unit) >= count else unit * count // len(unit) for unit in units]
    masks = [before[:, None] <= after[None] for before, after in itertools.pairwise(degrees)]
    masks.append(degrees[-1][:, None] < np.tile(np.arange(size), 2)[None])
    return tuple(mask.astype(np.float32) for mask in masks)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class MaskedAutoregressive:
    """z_d = e_d exp(s_d(e_1, ..., e_{d-1})) + m_d(e_1, ..., e_{d-1}) with |s| < 2 (Kingma et al., arXiv 1606.04934).

    One pass of the network computes z from e. The inverse needs D passes, one after another. `Inverse` of it is the
    masked autoregressive flow of Papamakarios et al., arXiv 1705.07057, in which the density of a value needs one pass
    and a sample D.

    Attributes:
      conditioner: the network of m and s, from D to 2 D numbers; it is masked here.
    """

    conditioner: Conditioner

    def forward(self, e: Array) -> tuple[Array, Array]:
        """Return z, [..., D], and log |det dz/de|, [...]."""
        shift, log_scale = self._affine(e)
        return e * jnp.exp(log_scale) + shift, jnp.sum(log_scale, axis=-1)

    def inverse(self, z: Array) -> tuple[Array, Array]:
        """Return e, [..., D], and log |det de/dz|, [...]."""

        def find_next(_: Array, e: Array) -> Array:
            shift, log_scale = self._affine(e)
            return (z - shift) * jnp.exp(-log_scale)

        e = lax.fori_loop(0, z.shape[-1], find_next, jnp.zeros_like(z))  # pass d finds number d
        return e, -jnp.sum(self._affine(e)[1], axis=-1)

    def _affine(self, e: Array) -> tuple[Array, Array]:
        kernels = self.conditioner.kernels
        masks = autoregressive_masks(kernels[0].shape[0], tuple(kernel.shape[1] for kernel in kernels[:-1]))
        return shift_and_log_scale(self.conditioner(e, masks))
