"""Affine transforms: of a mean and a Cholesky factor, and of each number of a vector by itself."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.scipy.linalg import solve_triangular

from vae_jax.distributions.base import expand


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class LowerCholeskyAffine:
    """z = loc + L e. With L the Cholesky factor of Σ and e ~ N(0, I), z ~ N(loc, Σ).

    All examples share the transform. Products have the full precision of the dtype on every device.

    Attributes:
      loc: [D].
      scale_tril: L, [D, D], lower triangular with a positive diagonal; numbers above the diagonal are not used.
    """

    loc: Array
    scale_tril: Array

    def forward(self, e: Array) -> tuple[Array, Array]:
        """Return z, [..., D], and log |det dz/de| = Σ_d log L_dd, [...]."""
        product = jnp.matmul(e, jnp.tril(self.scale_tril).T, precision=lax.Precision.HIGHEST)
        return product + jnp.broadcast_to(self.loc, e.shape), self._log_det(e.shape[:-1])

    def inverse(self, z: Array) -> tuple[Array, Array]:
        """Return e, [..., D], and log |det de/dz|, [...]; e solves L e = z − loc."""
        rows = (z - jnp.broadcast_to(self.loc, z.shape)).reshape(-1, z.shape[-1])
        e = solve_triangular(self.scale_tril, rows.T, lower=True).T
        return e.reshape(z.shape), -self._log_det(z.shape[:-1])

    def _log_det(self, shape: tuple[int, ...]) -> Array:
        """Return the log determinant of L for each vector of a batch of a shape."""
        return jnp.broadcast_to(jnp.sum(jnp.log(jnp.diagonal(self.scale_tril))), shape)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class ElementwiseAffine:
    """z_d = e_d exp(s_d) + m_d. All examples share the transform.

    Attributes:
      shift: m, [D].
      log_scale: s, [D].
    """

    shift: Array
    log_scale: Array

    def forward(self, e: Array) -> tuple[Array, Array]:
        """Return z, [..., D], and log |det dz/de|, [...]."""
        shift, log_scale = expand(e.shape, self.shift, self.log_scale)
        return e * jnp.exp(log_scale) + shift, jnp.sum(log_scale, axis=-1)

    def inverse(self, z: Array) -> tuple[Array, Array]:
        """Return e, [..., D], and log |det de/dz|, [...]."""
        shift, log_scale = expand(z.shape, self.shift, self.log_scale)
        return (z - shift) * jnp.exp(-log_scale), -jnp.sum(log_scale, axis=-1)
