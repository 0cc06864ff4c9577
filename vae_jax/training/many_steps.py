"""Many training steps in one program, over images that are in the memory of the device."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array, lax

from vae_jax import random
from vae_jax.data import batch_indices
from vae_jax.inference import Metrics
from vae_jax.training.state import TrainState
from vae_jax.training.step import Step


def train_steps(
    state: TrainState,
    images: Array,
    num_steps: Array | int,
    *,
    step: Step,
    batch_size: int,
    max_steps: int,
    microbatches: int = 1,
    streamed: bool = False,
    place_batch: Callable[[Array], Array] = lambda batch: batch,
) -> tuple[TrainState, Metrics]:
    """Run up to `max_steps` updates in one program.

    If `num_steps` is an argument of the compiled program, one compilation serves every dispatch, including the last,
    shorter one. If it is a Python number, the compiler can use it. A resumed run dispatches the same programs as an
    uninterrupted run.

    Args:
      state: the state before the first of the steps.
      images: uint8 [N, H, W, C], the data set. If `streamed`, the batches of the steps in their order,
        [max_steps, B, H, W, C], or with M > 1 microbatches [max_steps, M, B/M, H, W, C].
      num_steps: the number of updates, at most `max_steps`. A traced number above `max_steps` is reduced to it, because
        there are no further batches.
      step: a function of `make_train_step`.
      batch_size: B.
      max_steps: the length of the metrics.
      microbatches: M, the number of parts of a batch.
      streamed: whether `images` contains batches instead of the data set.
      place_batch: applied to a batch, or to each of its microbatches, for example a sharding constraint.

    Returns:
      The state after the last update, and the metrics of each step, [max_steps], NaN from `num_steps` on.

    Raises:
      ValueError: `num_steps` is a Python number above `max_steps`.
    """
    num_steps = _limited(num_steps, max_steps)
    if microbatches > 1:
        place_batch = jax.vmap(place_batch)
    batch = (lambda i: images[i]) if streamed else _shuffled_batches(state, images, batch_size, max_steps, microbatches)

    def body(i: Array, carry: tuple[TrainState, Metrics]) -> tuple[TrainState, Metrics]:
        state, rows = carry
        state, metrics = step(state, place_batch(batch(i)))
        return state, jax.tree.map(lambda row, value: row.at[i].set(value), rows, metrics)

    _, shapes = jax.eval_shape(lambda: step(state, batch(0)))
    rows = jax.tree.map(lambda s: jnp.full((max_steps,), jnp.nan, jnp.float32), shapes)
    return lax.fori_loop(0, num_steps, body, (state, rows))


def _limited(num_steps: Array | int, max_steps: int) -> Array | int:
    """Return a number of steps that is at most `max_steps`; raise ValueError for a Python number above it."""
    if not isinstance(num_steps, int):
        return jnp.minimum(num_steps, max_steps)
    if num_steps > max_steps:
        raise ValueError(f"num_steps={num_steps} must be at most max_steps={max_steps}; split the dispatch")
    return num_steps


def _shuffled_batches(
    state: TrainState, images: Array, batch_size: int, max_steps: int, microbatches: int
) -> Callable[[Array | int], Array]:
    """Return batch(i), the batch of the i-th of the next `max_steps` steps, in the order of the run's epochs."""
    order_key = jax.random.fold_in(state.key, random.DATA_STREAM)
    indices = functools.partial(batch_indices, num_examples=images.shape[0], batch_size=batch_size)
    # The indices of all steps at once, [max_steps, batch_size]: they are small, and a loop over them has latency.
    order = jax.vmap(indices, in_axes=(None, 0))(order_key, state.step + jnp.arange(max_steps))
    if microbatches > 1:
        order = order.reshape(max_steps, microbatches, -1)
    return lambda i: images[order[i]]
