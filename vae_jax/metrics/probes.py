"""Linear probe: how well a linear classifier predicts labels from codes."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array


class LinearProbe(NamedTuple):
    """A linear classifier of codes.

    Attributes:
      classes: the labels, sorted, [C].
      weights: [D, C].
      bias: [C].
    """

    classes: np.ndarray
    weights: np.ndarray
    bias: np.ndarray

    def accuracy(self, codes: np.ndarray, labels: np.ndarray) -> float:
        """Return the fraction of correct labels.

        Args:
          codes: [M, D].
          labels: integers [M].
        """
        chex.assert_shape(codes, (len(labels), len(self.weights)))
        found = self.classes[np.argmax(np.asarray(codes, np.float64) @ self.weights + self.bias, axis=1)]
        return float(np.mean(found == labels))


def fit_linear_probe(
    codes: np.ndarray, labels: np.ndarray, *, l2: float = 1e-4, max_steps: int = 200, tolerance: float = 1e-5
) -> LinearProbe:
    """Fit multinomial logistic regression to codes and labels by L-BFGS.

    It minimizes 1/N Σ -log softmax(z W + b)_y + l2/2 |W|² for codes z whose latents are scaled to the mean 0 and the
    variance 1. The scaling is part of the weights that are returned.

    Args:
      codes: [N, D].
      labels: integers [N].
      l2: weight of the penalty.
      max_steps: steps of L-BFGS at most.
      tolerance: it ends when the norm of the gradient is smaller.

    Returns:
      The classifier.

    Raises:
      ValueError: there is only one label.
    """
    chex.assert_rank(codes, 2)
    chex.assert_shape(labels, (len(codes),))
    classes, targets = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"labels are all {classes[0]}; use labels of two classes or more")
    loc, scale = codes.mean(axis=0, dtype=np.float64), codes.std(axis=0, dtype=np.float64)
    scale = np.where(scale > 0, scale, 1)
    scaled = jnp.asarray((codes - loc) / scale, jnp.float32)
    start = jnp.zeros((codes.shape[1], len(classes))), jnp.zeros(len(classes))
    fitted = _minimize(start, scaled, jnp.asarray(targets), l2, max_steps, tolerance)
    weights, bias = (np.asarray(array, np.float64) for array in fitted)
    weights = weights / scale[:, None]
    return LinearProbe(classes, weights, bias - loc @ weights)


@jax.jit
def _minimize(
    start: tuple[Array, Array], codes: Array, targets: Array, l2: float, max_steps: int, tolerance: float
) -> tuple[Array, Array]:
    def loss(params: tuple[Array, Array]) -> Array:
        weights, bias = params
        logits = codes @ weights + bias[None]
        penalty = l2 / 2 * jnp.sum(weights**2)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, targets)) + penalty

    solver, value_and_grad = optax.lbfgs(), optax.value_and_grad_from_state(loss)

    def step(carry: tuple[tuple[Array, Array], optax.OptState, Array]) -> tuple:
        params, state, count = carry
        value, gradient = value_and_grad(params, state=state)
        updates, state = solver.update(gradient, state, params, value=value, grad=gradient, value_fn=loss)
        return optax.apply_updates(params, updates), state, count + 1

    def unfinished(carry: tuple[tuple[Array, Array], optax.OptState, Array]) -> Array:
        _, state, count = carry
        norm = optax.tree.norm(optax.tree.get(state, "grad"))
        return (count == 0) | ((count < max_steps) & (norm > tolerance))

    return jax.lax.while_loop(unfinished, step, (start, solver.init(start), jnp.zeros((), jnp.int32)))[0]
