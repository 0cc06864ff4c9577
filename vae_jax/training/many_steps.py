"""training.many_steps."""

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
    """`num_steps` <= `max_steps` updates in one program, over uint8 `images` [N, H, W, C] that live on the device.

    Where they are `streamed`, `images` are the batches of the steps themselves, in turn: [max_steps, B, H, W, C], or
    with `microbatches` M > 1 [max_steps, M, B/M, H, W, C].

    Returns the state and the metrics of each step, [max_steps], NaN beyond `num_steps`. Where the number of steps is
    an argument of the program, one compilation serves every dispatch, the last and shorter one too; where it is a
    number of Python's, the compiler knows it. A resumed run dispatches the very programs of one that was not.
    `place_batch` may say over which devices a batch lies, or each of the `microbatches` that the step takes it in.
    Beyond `max_steps` there is no batch: a greater number of Python's raises ValueError, and an argument that is
    greater stops there.
    """
    if not isinstance(num_steps, int):
        num_steps = jnp.minimum(num_steps, max_steps)
    elif num_steps > max_steps:
        raise ValueError(f"num_steps={num_steps} must be at most max_steps ({max_steps})")
    if microbatches > 1:
        place_batch = jax.vmap(place_batch)
    batch = (lambda i: images[i]) if streamed else _in_order(state, images, batch_size, max_steps, microbatches)

    def body(i: Array, carry: tuple[TrainState, Metrics]) -> tuple[TrainState, Metrics]:
        state, rows = carry
        state, metrics = step(state, place_batch(batch(i)))
        return state, jax.tree.map(lambda row, value: row.at[i].set(value), rows, metrics)

    _, shapes = jax.eval_shape(lambda: step(state, batch(0)))
    rows = jax.tree.map(lambda s: jnp.full((max_steps,), jnp.nan, jnp.float32), shapes)
    return lax.fori_loop(0, num_steps, body, (state, rows))


def _in_order(
    state: TrainState, images: Array, batch_size: int, max_steps: int, microbatches: int
) -> Callable[[Array], Array]:
    """batch(i): what the i-th of the next `max_steps` steps reads of `images`."""
    order_key = jax.random.fold_in(state.key, random.DATA_STREAM)
    indices = functools.partial(batch_indices, num_examples=images.shape[0], batch_size=batch_size)
    # The orders of all steps at once, [max_steps, batch_size]: a few integers against a loop's latency.
    order = jax.vmap(indices, in_axes=(None, 0))(order_key, state.step + jnp.arange(max_steps))
    if microbatches > 1:
        order = order.reshape(max_steps, microbatches, -1)
    return lambda i: images[order[i]]
