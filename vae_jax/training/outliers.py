"""Gradients whose norm is an outlier among those of the last updates: the step does not apply them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from vae_jax import kernels


class NormHistory(NamedTuple):
    """The norms of the gradients of the last updates, a part of the optimizer's state.

    Attributes:
      norms: float32 [N], in a ring.
      num_norms: int32 [], the number of norms so far; the next one is written at this number modulo N.
      is_outlier: bool [], whether the gradient of this update is an outlier.
    """

    norms: Array
    num_norms: Array
    is_outlier: Array


class WithHistory(NamedTuple):
    """The state of an optimizer with the history of its gradients.

    Attributes:
      history: the norms.
      inner: the state of the optimizer itself.
    """

    history: NormHistory
    inner: optax.OptState


def mark_outliers(
    optimizer: optax.GradientTransformation, *, quantile: float, factor: float, window: int
) -> optax.GradientTransformation:
    """Return an optimizer that marks a gradient whose norm is above `factor` times the quantile of the last norms.

    The updates are those of `optimizer`; a step of `make_train_step` skips those that are marked. Norms that are marked
    or not finite do not enter the history. Nothing is marked before the history has N norms.

    Args:
      optimizer: an optax gradient transformation.
      quantile: of the norms of the last N updates, in [0, 1].
      factor: by which a norm may exceed the quantile.
      window: N.

    Returns:
      An optax gradient transformation.
    """

    def init(params: optax.Params) -> WithHistory:
        history = NormHistory(jnp.zeros(window), jnp.zeros((), jnp.int32), jnp.zeros((), bool))
        return WithHistory(history, optimizer.init(params))

    def update(
        updates: optax.Updates, state: Any, params: optax.Params | None = None
    ) -> tuple[optax.Updates, WithHistory]:
        norms, count, _ = state.history
        norm = kernels.global_norm(updates).astype(norms.dtype)
        is_outlier = (count >= window) & (norm > factor * jnp.quantile(norms, quantile))
        enters = jnp.isfinite(norm) & ~is_outlier
        written = norms.at[count % window].set(norm)
        # A count of N is enough to be ready; it stays below 2 N, so that it cannot overflow.
        advanced = jnp.where(count + 1 < 2 * window, count + 1, window)
        history = NormHistory(jnp.where(enters, written, norms), jnp.where(enters, advanced, count), is_outlier)
        updates, inner = optimizer.update(updates, state.inner, params)
        return updates, WithHistory(history, inner)

    return optax.GradientTransformation(init, update)


def outlier_of(opt_state: optax.OptState) -> Array | None:
    """Return whether an update was marked by `mark_outliers`, bool []; None if the optimizer marks none."""
    nodes = jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, NormHistory))
    marks = [node.is_outlier for node in nodes if isinstance(node, NormHistory)]
    return jnp.any(jnp.stack(marks)) if marks else None
