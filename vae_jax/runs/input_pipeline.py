"""What each dispatch reads: all images, which lie on the devices, or its own batches, which were read ahead of it."""

import contextlib
from collections.abc import Callable, Iterator

import jax
import numpy as np

from vae_jax import random
from vae_jax.data import BatchOrder, Images, Records, stream_batches
from vae_jax.errors import VaeJaxError
from vae_jax.runs.run import Run
from vae_jax.runtime import multihost, sharding

NextImages = Callable[[int], jax.Array]


@contextlib.contextmanager
def open_input_pipeline(run: Run, images: Images, *, first_step: int) -> Iterator[NextImages]:
    """Gives feed(count): the images that the program of a run takes for its next `count` steps, on its devices.

    Of a streamed run each process reads the rows that its own devices take. The next batches are on their way to the
    devices while these compute: `feed` does not wait for them. It raises StorageError where a file is damaged; with
    several processes `processes.OwnError`, since each reads files of its own.
    """
    if not isinstance(images, Records):
        placed = sharding.to_global_array(images, run.images_sharding)
        yield lambda count: placed
        return
    config = run.config.train
    shape = run.images_shape  # [max_steps, B, H, W, C], or with parts [max_steps, M, B/M, H, W, C]
    size = shape[-4]
    rows = sharding.local_rows(run.mesh, size)
    of_batch = (np.arange(0, config.batch_size, size)[:, np.newaxis] + rows).reshape(-1)  # of all parts
    order_key = jax.random.fold_in(run.key, random.DATA_STREAM)
    steps = range(first_step, config.steps)
    order = BatchOrder(order_key, steps, num_examples=len(images), batch_size=config.batch_size) if steps else None
    with stream_batches(images, order, steps, of_batch, workers=run.config.data.workers) as stream:

        def feed(count: int) -> jax.Array:
            local = np.zeros((shape[0], len(of_batch), *shape[-3:]), np.uint8)
            for i in range(count):
                try:
                    local[i] = next(stream)
                except VaeJaxError as error:
                    if multihost.is_single_process():
                        raise
                    raise multihost.LocalError from error
            local = local.reshape(*shape[:-4], len(rows), *shape[-3:])
            return sharding.rows_to_global_array(local, run.images_sharding, shape, rows)

        yield feed
