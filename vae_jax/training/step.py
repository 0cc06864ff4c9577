"""One training step as a pure function: gradient, update, and the treatment of numbers that are not finite.

The step does not depend on devices, files or time. Shardings are applied by `jax.jit`, and the training loop of
`vae_jax.runs` saves and reports.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from vae_jax import kernels, random
from vae_jax.distributions import Batch
from vae_jax.inference import Metrics, Params, Statistics, batch_size
from vae_jax.training.loss import Loss
from vae_jax.training.outliers import outlier_of
from vae_jax.training.state import TrainState

Step = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
LossAndGradient = tuple[tuple[Array, tuple[Metrics, Statistics]], Params]
GradientFunction = Callable[[Params, Statistics, Array, Batch, Array], LossAndGradient]


class _Updated(NamedTuple):
    """The parts of a state that a step computes."""

    params: Params
    statistics: Statistics
    opt_state: optax.OptState
    ema_params: Params


def make_train_step(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    *,
    ema_decay: float = 0.0,
    max_skips: int = 0,
    microbatches: int = 1,
    first_example: Callable[[], int | Array] = lambda: 0,
    schedule: optax.Schedule | None = None,
) -> Step:
    """Return a pure function step(state, batch) -> (state, metrics), which is not jitted.

    The loss receives a key for each example, [B]: a function of (state.key, state.step, position in the global batch).

    A step fails if its loss or gradient is not finite, if `mark_outliers` marks its gradient, or, with `max_skips`, if
    the new parameters or statistics are not finite. It increases `skipped`, which another step sets to 0. Up to
    `max_skips` consecutive failed updates are not applied; of the optimizer only the schedule counts them. After one
    more, the state stays unchanged and its `step` is the index of the failed step. With `max_skips` = 0 every update is
    applied, so that XLA can update layers during other gradients; after a failed step the state is unusable.

    Args:
      loss: (params, statistics, keys, batch, step) -> (loss, (metrics, statistics)).
      optimizer: an optax gradient transformation.
      ema_decay: largest decay of the moving average of the parameters, not of the statistics; 0 for none.
      max_skips: how many consecutive steps that are not finite may be skipped.
      microbatches: M. With M > 1 the arrays of a batch are [M, B/M, ...]; see `accumulate_gradients`.
      first_example: () -> position of the batch's first example in the global batch, for a step on a part of it.
      schedule: step -> learning rate, for the metrics; None if it is unknown.

    Returns:
      The step. Its metrics, each [], are those of the loss, `loss`, `grad_norm`, `skipped`, `learning_rate` with a
      schedule, and `outlier` with marks. It raises ValueError for a batch without M parts and a metric that is not [].
    """
    gradient = accumulate_gradients(loss, microbatches) if microbatches > 1 else jax.value_and_grad(loss, has_aux=True)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        _check_parts(batch, microbatches)
        keys = _example_keys(state, batch, microbatches, first_example())
        (value, (metrics, statistics)), grads = _loss_and_gradient(gradient, state, batch, keys)
        params, opt_state = _update(optimizer, grads, state)
        grad_norm = kernels.global_norm(grads)
        applies, marks = _applies(value, grad_norm, opt_state)
        ema_params = _moving_average(params, state, ema_decay) if ema_decay else ()
        new_state = _next_state(state, _Updated(params, statistics, opt_state, ema_params), applies, max_skips)
        metrics = metrics | marks | {"loss": value, "grad_norm": grad_norm, "skipped": new_state.skipped}
        if schedule is not None:
            metrics["learning_rate"] = jnp.asarray(schedule(state.step), jnp.float32)
        return new_state, metrics

    return train_step


def _moving_average(params: Params, state: TrainState, decay: float) -> Params:
    """Return the next average; its decay in step t is at most (1 + t)/(10 + t), to forget the initial parameters."""
    limited = jnp.minimum(decay, (1 + state.step) / (10 + state.step))
    return optax.incremental_update(params, state.ema_params, 1 - limited)


def _applies(value: Array, grad_norm: Array, opt_state: optax.OptState) -> tuple[Array, Metrics]:
    """Return whether loss and gradient allow an update, bool [], and the mark of the optimizer as a metric, if any."""
    applies, is_outlier = jnp.isfinite(value) & jnp.isfinite(grad_norm), outlier_of(opt_state)
    if is_outlier is None:
        return applies, {}
    return applies & ~is_outlier, {"outlier": is_outlier.astype(jnp.int32)}


def _check_parts(batch: Batch, microbatches: int) -> None:
    parts = batch_size(batch)
    if microbatches > 1 and parts != microbatches:
        shape, expected = list(batch["x"].shape), f"[{microbatches}, B/{microbatches}, ...]"
        raise ValueError(f'batch["x"] has shape {shape}; pass {expected} for microbatches={microbatches}')


def _example_keys(state: TrainState, batch: Batch, microbatches: int, first: int | Array) -> Array:
    """Return the keys of the examples of a step, [B], or [M, B/M] for microbatches."""
    key = jax.random.fold_in(jax.random.fold_in(state.key, random.NOISE_STREAM), state.step)
    lead = batch["x"].shape[: 2 if microbatches > 1 else 1]
    return random.example_keys(key, math.prod(lead), first=first).reshape(lead)


def _loss_and_gradient(gradient: GradientFunction, state: TrainState, batch: Batch, keys: Array) -> LossAndGradient:
    """Return the loss, its other results and the gradient; raise ValueError for a metric not []."""
    with jax.named_scope("loss_and_gradient"):
        (value, (metrics, statistics)), grads = gradient(state.params, state.statistics, keys, batch, state.step)
    for name, metric in metrics.items():
        if jnp.shape(metric) != ():
            raise ValueError(f"metrics[{name!r}] has shape {list(jnp.shape(metric))}; return a scalar")
    return (value, (metrics, statistics)), grads


def _update(optimizer: optax.GradientTransformation, grads: Params, state: TrainState) -> tuple[Params, optax.OptState]:
    """Return parameters and optimizer state after one update."""
    # Optax promotes dtypes, also where `jax_numpy_dtype_promotion` is strict.
    with jax.named_scope("optimizer"), jax.numpy_dtype_promotion("standard"):
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        return optax.apply_updates(state.params, updates), opt_state


def _next_state(state: TrainState, updated: _Updated, finite: Array, max_skips: int) -> TrainState:
    """Return the state after the step, with the updated values, or with the old ones if the step is skipped.

    Args:
      state: the state before the step.
      updated: the values after the update.
      finite: bool [], whether loss and gradient are finite, and the gradient is no outlier.
      max_skips: how many consecutive steps that are not finite may be skipped.

    Returns:
      The state after the step.
    """
    if max_skips:
        finite &= jnp.isfinite(kernels.global_norm(updated.params))
        for leaf in jax.tree.leaves(updated.statistics):
            finite &= jnp.all(jnp.isfinite(leaf))
    skipped = jnp.where(finite, 0, state.skipped + 1)
    advances = skipped <= max_skips
    if max_skips:
        updated = jax.tree.map(
            lambda new, old: _select(advances if _is_schedule(new) else finite, new, old),
            updated,
            _Updated(state.params, state.statistics, state.opt_state, state.ema_params),
            is_leaf=_is_schedule,
        )
    step = state.step + advances.astype(state.step.dtype)
    return TrainState(step=step, key=state.key, skipped=skipped, **updated._asdict())


def _is_schedule(node: Any) -> bool:
    """Return whether a node of an optimizer's state counts the steps of a schedule, not the applied updates."""
    return isinstance(node, optax.ScaleByScheduleState)


def _select(condition: Array, new: Any, old: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)


def accumulate_gradients(loss: Loss, microbatches: int) -> GradientFunction:
    """Return `value_and_grad(loss, has_aux=True)` of a batch of arrays [M, B/M, ...], computed part by part: 1/M Σ.

    It needs the memory of B/M examples. The result is that of all B examples up to the order of sums, because each part
    receives the keys of its examples, [B/M] of [M, B/M]. The loss must be a mean over independent examples.

    Each part starts from the same old statistics, and the new ones are averaged. That is exact for a moving average of
    the mean over a batch. Integers, such as a counter of steps, are those of the last part.
    """
    gradient = jax.value_and_grad(loss, has_aux=True)

    def accumulated_gradient(
        params: Params, statistics: Statistics, keys: Array, batch: Batch, step: Array
    ) -> LossAndGradient:
        def part_gradient(keys: Array, part: Batch) -> LossAndGradient:
            return gradient(params, statistics, keys, part, step)

        def add(total: Any, part: tuple[Array, Batch]) -> tuple[Any, None]:
            def merge(t: Array, new: Array) -> Array:
                return t + new / microbatches if jnp.issubdtype(t.dtype, jnp.inexact) else new

            return jax.tree.map(merge, total, part_gradient(*part)), None

        parts = keys, batch
        shapes = jax.eval_shape(part_gradient, *jax.tree.map(lambda leaf: leaf[0], parts))
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        return lax.scan(add, zeros, parts)[0]

    return accumulated_gradient
