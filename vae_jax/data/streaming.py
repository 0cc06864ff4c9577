"""Batches of examples that do not fit in memory, read ahead of training by Grain."""

import contextlib
import dataclasses
import gc
from collections.abc import Generator, Iterator

import numpy as np

from vae_jax.data.files import one_line
from vae_jax.data.order import BatchOrder
from vae_jax.data.records import Records, damaged_error
from vae_jax.errors import VaeJaxError
from vae_jax.runtime import host

# Examples read at a time, because array_record reads many faster than few; rounded down to a number of steps.
CHUNK_EXAMPLES = 1024
CHUNK_BYTES = 2**23


@dataclasses.dataclass(frozen=True, eq=False)
class _Reader:
    """A function of i that returns the examples of the i-th chunk of the steps, {name: [steps, n, ...]}.

    It is sent to the processes that read.
    """

    records: Records
    order: BatchOrder
    steps: range
    rows: np.ndarray  # positions in a batch, [n]

    def __len__(self) -> int:
        return -(-len(self.steps) // self._chunk_steps)

    @property
    def _chunk_steps(self) -> int:
        size = self.records.nbytes // len(self.records)
        return max(1, min(CHUNK_EXAMPLES, CHUNK_BYTES // size) // len(self.rows))

    def __call__(self, i: int) -> dict[str, np.ndarray]:
        steps = self.steps[i * self._chunk_steps : (i + 1) * self._chunk_steps]
        arrays = self.records.read(np.concatenate([self.order(step, self.rows) for step in steps]))
        return {name: a.reshape(len(steps), len(self.rows), *a.shape[1:]) for name, a in arrays.items()}


@contextlib.contextmanager
def stream_batches(
    records: Records, order: BatchOrder, steps: range, rows: np.ndarray, *, workers: int = 0
) -> Iterator[Iterator[dict[str, np.ndarray]]]:
    """Open an iterator over the batches of some steps, which are read ahead by threads or processes.

    The examples of a step are a function of the step alone, whichever thread or process reads them, so the step is all
    that is needed to resume.

    Args:
      records: The examples.
      order: The order of the examples; it must contain the steps.
      steps: The steps, in the order of the batches.
      rows: The positions in each batch that this process reads, integers [n].
      workers: The number of reading processes; 0 reads with threads in this process.

    Yields:
      An iterator with the examples of each step, {name: [n, ...]} as `Records.read` returns them. The iterator raises
      the errors of `Records.read`, also those of reading processes.
    """
    import grain
    from absl import flags

    reader = _Reader(records, order, steps, rows)
    threads = 1 if workers else max(2, host.cores() // 2)
    read = grain.MapDataset.range(len(reader)).map(reader)
    chunks = read.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads))
    if workers:
        flags.FLAGS.mark_as_parsed()  # of the flags that Grain defines and this package does not set
        chunks = chunks.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2))
    iterator = iter(chunks)
    stream = _batches(iterator, records)
    try:
        yield stream
    finally:
        stream.close()
        iterator.close()
        if workers:  # Grain's iterators are a reference cycle that holds the shared memory of the last chunk
            del iterator
            gc.collect()


def _batches(chunks: Iterator[dict[str, np.ndarray]], records: Records) -> Generator[dict[str, np.ndarray], None, None]:
    """Yield the batches of each chunk; convert an error of Grain, also one from another process, to a StorageError."""
    while True:
        try:  # copies: a worker process waits for the return of its shared memory
            arrays = {name: np.array(array) for name, array in next(chunks).items()}
        except StopIteration:
            return
        except VaeJaxError:
            raise
        except Exception as error:
            raise damaged_error(records.prepared, records.part, one_line(error)) from None
        for i in range(len(arrays["x"])):
            yield {name: array[i] for name, array in arrays.items()}
