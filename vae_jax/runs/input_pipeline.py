"""The examples that each dispatch reads: all of them, placed on the devices once, or batches read ahead from disk."""

import contextlib
from collections.abc import Callable, Iterator
from typing import cast

import jax
import numpy as np

from vae_jax import random
from vae_jax.data import BatchOrder, Records, stream_batches
from vae_jax.errors import VaeJaxError
from vae_jax.runs.experiment.experiment import Experiment
from vae_jax.runs.experiment.programs import Data, data_shapes, is_streamed
from vae_jax.runtime import Placement, multihost, sharding

NextData = Callable[[int], Data]


@contextlib.contextmanager
def open_input_pipeline(experiment: Experiment, placement: Placement, *, first_step: int) -> Iterator[NextData]:
    """Open the source of the examples that the program of an experiment reads.

    If the data are streamed, each process reads only the rows for its devices. Batches are read ahead while the devices
    compute, so a call does not wait for the disk as long as reading keeps up.

    Args:
      experiment: the experiment.
      placement: the devices.
      first_step: the first step of this start.

    Yields:
      A function next_data(count) that returns the examples for the next `count` steps, arrays of the shapes of
      `data_shapes`, placed on the devices. It raises StorageError if a file is damaged. With several processes it
      raises `multihost.LocalError` with that cause, since only this process reads the file.
    """
    shapes = data_shapes(experiment, placement)
    if not is_streamed(experiment):
        arrays = experiment.training_data.read_all()
        placed = {name: sharding.to_global_array(a, shapes[name].sharding) for name, a in arrays.items()}
        yield lambda count: placed
        return
    records, training = cast(Records, experiment.training_data), experiment.training
    lead = shapes["x"].shape[: len(shapes["x"].shape) - len(records.spec["x"].shape)]  # [max_steps, (M,) rows]
    size = lead[-1]
    rows = sharding.local_rows(placement.mesh, size)
    batch_rows = (np.arange(0, training.batch_size, size)[:, np.newaxis] + rows).reshape(-1)  # in all microbatches
    order_key = jax.random.fold_in(experiment.key, random.DATA_STREAM)
    steps = range(first_step, training.steps)
    order = BatchOrder(order_key, steps, num_examples=len(records), batch_size=training.batch_size) if steps else None
    workers = 0 if experiment.config is None else experiment.config.data.workers
    with stream_batches(
        records,
        order,  # pyright: ignore[reportArgumentType]  # None only for zero steps, for which no order is called
        steps,
        batch_rows,
        workers=workers,
    ) as stream:

        def next_data(count: int) -> Data:
            batches = [_next(stream) for _ in range(count)]
            placed = {}
            for name, shape in shapes.items():
                local = np.zeros((lead[0], len(batch_rows), *records.spec[name].shape), shape.dtype)
                local[:count] = np.stack([batch[name] for batch in batches])
                local = local.reshape(*lead[:-1], len(rows), *records.spec[name].shape)
                placed[name] = sharding.rows_to_global_array(local, shape.sharding, shape.shape, rows)
            return placed

        yield next_data


def _next(stream: Iterator[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    try:
        return next(stream)
    except VaeJaxError as error:
        if multihost.is_single_process():
            raise
        raise multihost.LocalError from error
