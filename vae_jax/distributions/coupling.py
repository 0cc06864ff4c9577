"""Coupling transforms: half of the numbers of a vector change by a function of the other half, which is kept."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax.distributions.base import Array, sum_event
from vae_jax.distributions.conditioners import Conditioner, shift_and_log_scale
from vae_jax.distributions.splines import rational_quadratic


def coupling_order(size: int, layer: int) -> tuple[int, ...]:
    """Return the order of the numbers of a vector in a layer: a half that does not change, then the half that does.

    Layers 2 i and 2 i + 1 exchange their halves. Pairs of layers sort the positions by another binary digit, so that
    two numbers are in different halves in one of the pairs, except for those next to the cut.

    Args:
      size: D, the length of the vector.
      layer: the index of the layer.

    Returns:
      A permutation of 0, ..., D - 1, whose first D // 2 entries do not change.
    """
    digits = max((size - 1).bit_length(), 1)
    by_digit = sorted(range(size), key=lambda i: i >> (layer // 2 % digits) & 1)
    return tuple(by_digit[::-1] if layer % 2 else by_digit)


class _Coupling:
    """What couplings share: the division into halves, which needs no parameters."""

    conditioner: Conditioner
    order: tuple[int, ...]

    def forward(self, e: Array) -> tuple[Array, Array]:
        """Return z, [..., D], and log |det dz/de|, [...]."""
        return self._transform(e, inverse=False)

    def inverse(self, z: Array) -> tuple[Array, Array]:
        """Return e, [..., D], and log |det de/dz|, [...]."""
        return self._transform(z, inverse=True)

    def _transform(self, value: Array, *, inverse: bool) -> tuple[Array, Array]:
        order = np.asarray(self.order)
        fixed, changed = jnp.split(value[..., order], [len(order) // 2], axis=-1)
        changed, log_derivative = self._change(changed, self.conditioner(fixed), inverse)
        joined = jnp.concatenate([fixed, changed], axis=-1)
        return joined[..., np.argsort(order)], sum_event(log_derivative, 1)

    def _change(self, numbers: Array, outputs: Array, inverse: bool) -> tuple[Array, Array]:
        """Return the changed numbers and the log of their derivatives, each [..., D - D // 2]."""
        raise NotImplementedError


def _static_field() -> Any:  # a dataclass field has the type of its value
    return dataclasses.field(metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class AffineCoupling(_Coupling):
    """z_2 = e_2 exp(s(e_1)) + m(e_1), z_1 = e_1, with |s| < 2 (Dinh et al., arXiv 1605.08803).

    Attributes:
      conditioner: the network of m and s, from D // 2 to 2 (D - D // 2) numbers.
      order: the permutation whose first D // 2 entries are the positions of z_1, see `coupling_order`.
    """

    conditioner: Conditioner
    order: tuple[int, ...] = _static_field()

    def _change(self, numbers: Array, outputs: Array, inverse: bool) -> tuple[Array, Array]:
        shift, log_scale = shift_and_log_scale(outputs)
        if inverse:
            return (numbers - shift) * jnp.exp(-log_scale), -log_scale
        return numbers * jnp.exp(log_scale) + shift, log_scale


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class SplineCoupling(_Coupling):
    """Each number of z_2 is a monotonic rational-quadratic spline of that of e_2, given e_1; z_1 = e_1.

    Durkan et al., Neural Spline Flows, arXiv 1906.04032. Outside of [-bound, bound] numbers do not change.

    Attributes:
      conditioner: the network of the splines, from D // 2 to (3 bins - 1) (D - D // 2) numbers.
      order: the permutation whose first D // 2 entries are the positions of z_1, see `coupling_order`.
      bound: half of the length of the interval in which numbers change.
    """

    conditioner: Conditioner
    order: tuple[int, ...] = _static_field()
    bound: float = _static_field()

    def _change(self, numbers: Array, outputs: Array, inverse: bool) -> tuple[Array, Array]:
        outputs = outputs.reshape(*numbers.shape, -1)  # [..., D - D // 2, 3 bins - 1]
        return rational_quadratic(numbers, outputs, self.bound, inverse=inverse)
