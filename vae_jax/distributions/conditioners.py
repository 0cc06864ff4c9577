"""The networks of flows, from some numbers of a code to the parameters of a transform of the others."""

import dataclasses
from collections.abc import Sequence

import chex
import jax
import jax.numpy as jnp
import numpy as np

from vae_jax.distributions.base import Array

LOG_SCALE_BOUND = 2.0  # the log scales of one transform


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Conditioner:
    """Dense layers with relu between them, as a pytree of arrays.

    Attributes:
      kernels: arrays [I, H_1], [H_1, H_2], ..., [H_L, O].
      biases: arrays [H_1], ..., [O].
      context: [*batch, H_1], added to the result of the first kernel, for a network that also depends on an example;
        None if it does not.
    """

    kernels: tuple[Array, ...]
    biases: tuple[Array, ...]
    context: Array | None = None

    def __call__(self, numbers: Array, masks: Sequence[np.ndarray] | None = None) -> Array:
        """Return the outputs for numbers, with the kernels multiplied by masks.

        Args:
          numbers: floats [..., I]; the axes `batch` of the context are the last ones before I.
          masks: arrays of the shapes of the kernels; None for no masks.

        Returns:
          [..., O].

        Raises:
          AssertionError: there are not as many biases, or masks, as kernels; or the numbers are not floats.
        """
        chex.assert_type(numbers, float)
        chex.assert_equal(len(self.kernels), len(self.biases))
        h = numbers
        for i, (kernel, bias) in enumerate(zip(self.kernels, self.biases, strict=True)):
            h = jax.nn.relu(h) if i else h
            h = h @ (kernel if masks is None else kernel * masks[i])
            h = h + jnp.broadcast_to(bias, h.shape)
            if i == 0 and self.context is not None:
                h = h + jnp.broadcast_to(self.context, h.shape)
        return h


def shift_and_log_scale(outputs: Array) -> tuple[Array, Array]:
    """Return a shift m = a and a log scale s = 2 tanh(b / 2), so that |s| < 2, from outputs (a, b) of a network.

    Bounded log scales keep a flow and its inverse finite early in training.

    Args:
      outputs: floats [..., 2 D].

    Returns:
      m and s, each [..., D].
    """
    shift, raw = jnp.split(outputs, 2, axis=-1)
    return shift, LOG_SCALE_BOUND * jnp.tanh(raw / LOG_SCALE_BOUND)
