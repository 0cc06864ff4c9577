"""The images that each dispatch reads: all images, placed on the devices once, or batches read ahead from disk."""

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
    """Open the source of the images that the program of a run reads.

    In a streamed run each process reads only the rows for its devices. Batches are read ahead while the devices
    compute, so a call does not wait for the disk as long as reading keeps up.

    Args:
      run: the run.
      images: its training images: an array, or the `Records` that are streamed.
      first_step: the first step of this start.

    Yields:
      A function next_images(count) that returns the images for the next `count` steps, uint8 of shape
      `run.images_shape`, placed on the devices. It raises StorageError if a file is damaged. With several processes it
      raises `multihost.LocalError` with that cause, since only this process reads the file.
    """
    if not isinstance(images, Records):
        placed = sharding.to_global_array(images, run.images_sharding)
        yield lambda count: placed
        return
    config = run.config.train
    shape = run.images_shape  # [max_steps, B, H, W, C], or with microbatches [max_steps, M, B/M, H, W, C]
    size = shape[-4]
    rows = sharding.local_rows(run.mesh, size)
    batch_rows = (np.arange(0, config.batch_size, size)[:, np.newaxis] + rows).reshape(-1)  # in all microbatches
    order_key = jax.random.fold_in(run.key, random.DATA_STREAM)
    steps = range(first_step, config.steps)
    order = BatchOrder(order_key, steps, num_examples=len(images), batch_size=config.batch_size) if steps else None
    with stream_batches(
        images,
        order,  # pyright: ignore[reportArgumentType]  # None only for zero steps, for which no order is called
        steps,
        batch_rows,
        workers=run.config.data.workers,
    ) as stream:

        def next_images(count: int) -> jax.Array:
            local = np.zeros((shape[0], len(batch_rows), *shape[-3:]), np.uint8)
            for i in range(count):
                try:
                    local[i] = next(stream)
                except VaeJaxError as error:
                    if multihost.is_single_process():
                        raise
                    raise multihost.LocalError from error
            local = local.reshape(*shape[:-4], len(rows), *shape[-3:])
            return sharding.rows_to_global_array(local, run.images_sharding, shape, rows)

        yield next_images
