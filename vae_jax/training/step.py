"""From a loss to a trained state: the state, one pure step, and many steps in one program.

Nothing here knows a device, a file or a clock: shardings are put on `jax.jit` from outside, and `fitting.fit` decides
when to save and what to show.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from vae_jax import kernels, random
from vae_jax.inference import Metrics, Params
from vae_jax.training.loss import Loss
from vae_jax.training.state import TrainState

Step = Callable[["TrainState", Array], tuple["TrainState", Metrics]]


def make_train_step(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    *,
    ema_decay: float = 0.0,
    max_skips: int = 0,
    microbatches: int = 1,
) -> Step:
    """A pure, unjitted step(state, batch) -> (state, metrics).

    The noise of a step is a function of (state.key, state.step) alone. A step whose loss or gradient is not finite is
    counted in `skipped`, which goes back to 0 at the next that is. With `max_skips` its update is not made (nor one
    that gives weights that are not finite): up to `max_skips` such steps in a row are passed over, which the learning
    rate's schedule counts and nothing else of the optimizer does; one more, and the state stays as it is, its `step`
    naming the one that failed. With `max_skips` = 0 nothing is held back, for the updates of some layers then run while
    the gradients of others are computed: the first step with `skipped` = 1 is the one that failed, and the state after
    it is of no use. Metrics are the loss's own, `loss`, `grad_norm` and the new `skipped`, all scalars.

    With `microbatches` M > 1 the batch is [M, B/M, H, W, C] and `accumulated` takes its gradient: the loss is handed
    each part with a `random.RowsKey`, which `vae_jax.random` splits and folds, and jax.random does not.

    Raises ValueError for a batch that is not of so many parts, or a metric of the loss that is not a scalar.
    """
    gradient = accumulate_gradients(loss, microbatches) if microbatches > 1 else jax.value_and_grad(loss, has_aux=True)

    def train_step(state: TrainState, batch: Array) -> tuple[TrainState, Metrics]:
        if microbatches > 1 and batch.shape[0] != microbatches:
            raise ValueError(f"batch={list(batch.shape)} must be [{microbatches}, B/{microbatches}, H, W, C]")
        key = jax.random.fold_in(jax.random.fold_in(state.key, random.NOISE_STREAM), state.step)
        with jax.named_scope("loss_and_gradient"):
            (value, metrics), grads = gradient(state.params, key, batch, state.step)
        for name, metric in metrics.items():
            if jnp.shape(metric) != ():
                raise ValueError(f"metrics: {name} is {list(jnp.shape(metric))}, must be a scalar")
        with jax.named_scope("optimizer"):
            updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
        grad_norm = kernels.global_norm(grads)
        finite = jnp.isfinite(value) & jnp.isfinite(grad_norm)
        ema_params = optax.incremental_update(params, state.ema_params, 1 - ema_decay) if ema_decay else ()
        if max_skips:
            finite &= jnp.isfinite(kernels.global_norm(params))
        skipped = jnp.where(finite, 0, state.skipped + 1)
        passed = skipped <= max_skips
        if max_skips:
            params, opt_state, ema_params = jax.tree.map(
                lambda new, old: _select(passed if _is_schedule(new) else finite, new, old),
                (params, opt_state, ema_params),
                (state.params, state.opt_state, state.ema_params),
                is_leaf=_is_schedule,
            )
        new_state = TrainState(state.step + passed, params, opt_state, ema_params, state.key, skipped)
        return new_state, metrics | {"loss": value, "grad_norm": grad_norm, "skipped": skipped}

    return train_step


def _is_schedule(node: Any) -> bool:
    """Whether a node of an optimizer's state counts the steps of a schedule, not the updates that were made."""
    return isinstance(node, optax.ScaleByScheduleState)


def _select(condition: Array, new: Any, old: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)


def accumulate_gradients(loss: Loss, microbatches: int) -> Callable[..., tuple[tuple[Array, Metrics], Params]]:
    """`value_and_grad(loss, has_aux=True)` of a batch [M, B/M, H, W, C], part by part: 1/M Σ over M = `microbatches`.

    The memory of B/M examples, and the numbers of all B up to the order of sums, since each part is handed the key of
    its rows (`random.RowsKey`), for a loss that is a mean over examples which do not see each other.
    """
    gradient = jax.value_and_grad(loss, has_aux=True)

    def mean_of_parts(params: Params, key: Array, batch: Array, step: Array) -> tuple[tuple[Array, Metrics], Params]:
        size = batch.shape[1]

        def of_part(i: Array, images: Array) -> Any:
            return gradient(params, random.RowsKey(key, i * size, microbatches * size), images, step)

        def add(total: Any, part: tuple[Array, Array]) -> tuple[Any, None]:
            return jax.tree.map(lambda t, new: t + new / microbatches, total, of_part(*part)), None

        parts = jnp.arange(microbatches), batch
        shapes = jax.eval_shape(of_part, *jax.tree.map(lambda leaf: leaf[0], parts))
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        return lax.scan(add, zeros, parts)[0]

    return mean_of_parts
