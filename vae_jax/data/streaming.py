"""The batches of a training whose images memory does not hold, read ahead by Grain."""

import contextlib
import dataclasses
import gc
from collections.abc import Iterator

import numpy as np

from vae_jax.data.files import one_line
from vae_jax.data.order import BatchOrder
from vae_jax.data.records import Records, damaged_error
from vae_jax.errors import VaeJaxError
from vae_jax.runtime import host

AT_ONCE = 1024  # images read at a time, since array_record reads many faster than few; whole steps, so about as many
AT_ONCE_BYTES = 2**23


@dataclasses.dataclass(frozen=True, eq=False)
class _Reader:
    """part(i) -> the i-th part of the steps, uint8 [steps, n, H, W, C]. It is sent to the processes that read."""

    records: Records
    order: BatchOrder
    steps: range
    rows: np.ndarray  # [n], which of a batch

    def __len__(self) -> int:
        return -(-len(self.steps) // self._at_once)

    @property
    def _at_once(self) -> int:
        """Steps in a part."""
        size = self.records.nbytes // len(self.records)
        return max(1, min(AT_ONCE, AT_ONCE_BYTES // size) // len(self.rows))

    def __call__(self, i: int) -> np.ndarray:
        steps = self.steps[i * self._at_once : (i + 1) * self._at_once]
        images = self.records.read(np.concatenate([self.order(step, self.rows) for step in steps]))
        return images.reshape(len(steps), len(self.rows), *images.shape[1:])


@contextlib.contextmanager
def stream_batches(
    records: Records, order: BatchOrder, steps: range, rows: np.ndarray, *, workers: int = 0
) -> Iterator[Iterator[np.ndarray]]:
    """Gives the rows [n] of the batch of each step in turn, uint8 [n, H, W, C], read ahead of the one asked for.

    By threads, or by `workers` processes. What a step reads is a function of the step alone, whoever reads it and
    however often, so nothing but the step is needed to go on. The iterator raises StorageError that names a file which
    is damaged or missing.
    """
    import grain
    from absl import flags

    reader = _Reader(records, order, steps, rows)
    threads = 1 if workers else max(2, host.cores() // 2)
    read = grain.MapDataset.range(len(reader)).map(reader)
    ahead = read.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads))
    if workers:
        flags.FLAGS.mark_as_parsed()  # Grain has flags of its own, which no command line of ours sets
        ahead = ahead.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2))
    parts = iter(ahead)
    stream = _batch_by_batch(parts, records)
    try:
        yield stream
    finally:
        stream.close()
        parts.close()
        if workers:  # Grain's iterators refer to each other, and the last part's shared memory is theirs
            del parts
            gc.collect()


def _batch_by_batch(parts: Iterator[np.ndarray], records: Records) -> Iterator[np.ndarray]:
    """What goes wrong in another process reaches this one as an error of Grain's, which is told as ours."""
    while True:
        try:
            copied = list(np.array(next(parts)))  # what it came in is shared with a worker, who waits for its return
        except StopIteration:
            return
        except VaeJaxError:
            raise
        except Exception as error:
            raise damaged_error(records.prepared, records.part, one_line(error)) from None
        yield from copied
