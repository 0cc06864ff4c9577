"""Many training steps in one program, over examples that are in the memory of the device."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec, auto_axes

from vae_jax import random
from vae_jax.data import LabelledRows, batch_indices
from vae_jax.distributions import Batch, label_mask
from vae_jax.inference import Metrics, batch_size as num_rows
from vae_jax.training.state import TrainState
from vae_jax.training.step import Step


def train_steps(
    state: TrainState,
    data: Batch,
    num_steps: Array | int,
    *,
    step: Step,
    batch_size: int,
    max_steps: int,
    microbatches: int = 1,
    streamed: bool = False,
    labelled: LabelledRows | None = None,
    place_batch: Callable[[Batch], Batch] = lambda batch: batch,
) -> tuple[TrainState, Metrics]:
    """Run up to `max_steps` updates in one program.

    If `num_steps` is an argument of the compiled program, one compilation serves every dispatch, including the last,
    shorter one. A resumed run dispatches the same programs as an uninterrupted run.

    Args:
      state: the state before the first of the steps.
      data: {"x": [N, ...], ...}, the stored examples of the data set. If `streamed`, the batches of the steps in their
        order, arrays [max_steps, B, ...], or with M > 1 microbatches [max_steps, M, B/M, ...].
      num_steps: the number of updates; a traced number above `max_steps` is reduced to it.
      step: a function of `make_train_step`.
      batch_size: B.
      max_steps: the length of the metrics.
      microbatches: M, the number of parts of a batch.
      streamed: whether `data` contains batches instead of the data set.
      labelled: the labels that training sees, if not all: the mask [B] of a batch is True in its labelled rows alone.
        The data are not streamed then, and have labels "y".
      place_batch: applied to a batch or to each of its microbatches, such as a sharding constraint.

    Returns:
      The last state, and the metrics of each step, [max_steps], NaN from `num_steps` on.

    Raises:
      ValueError: `num_steps` is a Python number above `max_steps`, or arrays differ in length.
    """
    num_steps = _limited(num_steps, max_steps)
    place_batch = jax.vmap(place_batch) if microbatches > 1 else place_batch
    train = functools.partial(
        _train_steps, step=step, batch_size=batch_size, max_steps=max_steps, microbatches=microbatches,
        streamed=streamed, labelled=labelled, place_batch=place_batch,
    )  # fmt: skip
    mesh = _explicit_mesh((state, data))
    if mesh is not None:  # XLA infers the shardings inside, also of a gather whose positions `vmap` shards
        train: Any = auto_axes(train, out_sharding=NamedSharding(mesh, PartitionSpec()))
    return train(state, data, num_steps)


def _train_steps(
    state: TrainState,
    data: Batch,
    num_steps: Array | int,
    *,
    step: Step,
    batch_size: int,
    max_steps: int,
    microbatches: int,
    streamed: bool,
    labelled: LabelledRows | None,
    place_batch: Callable[[Batch], Batch],
) -> tuple[TrainState, Metrics]:
    """Return `train_steps` for arrays without explicit shardings."""
    order = None if streamed else _shuffled_order(state, data, batch_size, max_steps, microbatches, labelled)

    def batch(i: Array | int) -> Batch:
        rows = jax.tree.map(lambda array: array[i if order is None else order[i]], data)
        if order is None or labelled is None:
            return rows
        return {**rows, "mask": (jnp.arange(batch_size) < labelled.rows(batch_size)).reshape(order.shape[1:])}

    def body(i: Array, carry: tuple[TrainState, Metrics]) -> tuple[TrainState, Metrics]:
        state, rows = carry
        state, metrics = step(state, place_batch(batch(i)))
        return state, jax.tree.map(lambda row, value: row.at[i].set(value.astype(row.dtype)), rows, metrics)

    _, shapes = jax.eval_shape(lambda: step(state, batch(0)))
    rows = jax.tree.map(lambda s: jnp.full((max_steps,), jnp.nan, jnp.float32), shapes)
    return lax.fori_loop(0, num_steps, body, (state, rows))


def _explicit_mesh(arrays: Any) -> Any:
    """Return the mesh of some arrays if it has explicit axes, as that of `jax.make_mesh`; None otherwise."""
    meshes = (jax.typeof(leaf).sharding.mesh for leaf in jax.tree.leaves(arrays))
    return next((mesh for mesh in meshes if AxisType.Explicit in mesh.axis_types), None)


def _limited(num_steps: Array | int, max_steps: int) -> Array | int:
    """Return a number of steps that is at most `max_steps`; raise ValueError for a Python number above it."""
    if not isinstance(num_steps, int):
        return jnp.minimum(num_steps, max_steps)
    if num_steps > max_steps:
        raise ValueError(f"num_steps={num_steps} must be at most max_steps={max_steps}; split the dispatch")
    return num_steps


def _shuffled_order(
    state: TrainState,
    data: Batch,
    batch_size: int,
    max_steps: int,
    microbatches: int,
    labelled: LabelledRows | None,
) -> Array:
    """Return the positions of the examples of the next `max_steps` steps, [max_steps, B] or [max_steps, M, B/M]."""
    size = {"num_examples": num_rows(data), "batch_size": batch_size}
    if labelled is None:
        order_key, indices = jax.random.fold_in(state.key, random.DATA_STREAM), functools.partial(batch_indices, **size)
    else:
        chosen = labelled.choose(data["y"], label_mask(data))
        order_key, indices = state.key, functools.partial(labelled.batch_indices, chosen=chosen, **size)
    # The indices of all steps at once: they are small, and a loop over them has latency.
    order = jax.vmap(indices, in_axes=(None, 0))(order_key, state.step + jnp.arange(max_steps))
    return order.reshape(max_steps, microbatches, -1) if microbatches > 1 else order
