"""Affine transforms, which give standardized vectors a mean, and standard deviations or a covariance."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.scipy.linalg import solve_triangular


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
class DiagonalAffine:
    """z = loc + σ e with σ = exp(log_scale). With e ~ N(0, I), z ~ N(loc, σ²). All examples share the transform.

    Attributes:
      loc: [D].
      log_scale: [D], log σ.
    """

    loc: Array
    log_scale: Array

    def forward(self, e: Array) -> tuple[Array, Array]:
        """Return z, [..., D], and log |det dz/de| = Σ_d log σ_d, [...]."""
        z = jnp.broadcast_to(self.loc, e.shape) + jnp.broadcast_to(jnp.exp(self.log_scale), e.shape) * e
        return z, self._log_det(e.shape[:-1])

    def inverse(self, z: Array) -> tuple[Array, Array]:
        """Return e = (z − loc) / σ, [..., D], and log |det de/dz|, [...]."""
        e = (z - jnp.broadcast_to(self.loc, z.shape)) * jnp.broadcast_to(jnp.exp(-self.log_scale), z.shape)
        return e, -self._log_det(z.shape[:-1])

    def _log_det(self, shape: tuple[int, ...]) -> Array:
        """Return Σ_d log σ_d for each vector of a batch of a shape."""
        return jnp.broadcast_to(jnp.sum(self.log_scale), shape)
