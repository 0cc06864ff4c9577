"""What the machine can do, measured: its rate of matrix products, its memory's bandwidth; and how much it can hold."""

import contextlib
import os
import platform
import resource
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vae_jax import host
from vae_jax.config import Config
from vae_jax.settings import OF_ONE_LAYER

GIB = 2**30
CALLS = 8
CODES = 1000  # that a CPU decodes at a time in a training step
SHARE = 20  # examples of an evaluation's batch, for products that are worth a device


class Probe(NamedTuple):
    """A computation whose work is known: `work` floating-point operations, or bytes, in one call."""

    call: Callable[[], Any]
    work: float

    def seconds(self) -> float:
        """The least that one of `CALLS` calls takes by the clock, the device synchronised.

        The least, since a single product of some milliseconds was seen to take twice as long as the next one, and a
        machine that seems slow makes a program seem near to what it could do.
        """
        times = []
        for _ in range(CALLS):
            start = time.perf_counter()
            jax.block_until_ready(self.call())
            times.append(time.perf_counter() - start)
        return min(times)

    def rate(self) -> float:
        """Work in a second."""
        return self.work / self.seconds()


def matrix_probe(dtype: Any, *, size: int | None = None) -> Probe:
    """The product of two square matrices of `dtype`, on the first device, in JAX's default precision; warmed up.

    By default of side 1024 on a CPU and 8192 elsewhere, where smaller ones do not fill the device.
    """
    size = size or (1024 if jax.default_backend() == "cpu" else 8192)
    matrix = jnp.full((size, size), 1 / size, dtype)
    product = jax.jit(lambda a: a @ a)
    return _warm(Probe(lambda: product(matrix), 2.0 * size**3))


def bandwidth_probe(working_set: int) -> Probe:
    """y = a x + b over `working_set` bytes, again and again, each turn reading and writing them once; warmed up.

    What fits a cache is faster than what does not, so the size should be that of the traffic in question.
    """
    numbers = jnp.ones((max(1, working_set // 4),), jnp.float32)
    turns = max(4, 2**27 // numbers.nbytes)
    stream = jax.jit(lambda x: jax.lax.fori_loop(0, turns, lambda _, x: 0.5 * x + 0.5, x))
    return _warm(Probe(lambda: stream(numbers), 2.0 * numbers.nbytes * turns))


def _warm(probe: Probe) -> Probe:
    jax.block_until_ready(probe.call())
    jax.block_until_ready(probe.call())
    return probe


def devices_that_add_up(mesh: Any) -> int:
    """How many times the rate of one device the devices of a mesh have: CPU devices share the cores of one machine."""
    return 1 if jax.default_backend() == "cpu" else mesh.size


def samples_at_a_time(chunk: int) -> int:
    """evaluation.chunk, or where that is 0 what suits the first device: 20 for a CPU, 100 for another."""
    return chunk or (20 if jax.default_backend() == "cpu" else 100)


def parts_of_a_batch(config: Config, mesh: Any) -> int:
    """train.microbatches, or where that is 0 what suits the mesh: on one CPU device as many equal parts as leave each
    of them `CODES` codes, unless the objective compares the codes of a whole batch; one part elsewhere."""
    train, objective = config.train, config.objective
    if train.microbatches:
        return train.microbatches
    if mesh.size > 1 or mesh.devices.flat[0].platform != "cpu" or objective.name in OF_ONE_LAYER:
        return 1
    most = train.batch_size * objective.num_samples // CODES
    return max((n for n in range(1, most + 1) if train.batch_size % n == 0), default=1)


def memory_limit(sharers: int = 1) -> int | None:
    """Bytes that a device can hold: what its runtime says, or, on a CPU, the machine's free memory over `sharers`
    devices; None where nothing tells."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if limit := stats.get("bytes_limit"):
        return int(limit)
    free = host.available_memory()
    return None if free is None else free // sharers


def split_into_devices(batch_size: int) -> None:
    """Makes a CPU several devices of JAX for batches that do not depend on each other: one for each core.

    Such devices wait less for each other than the threads that share the work of one (docs/performance.md). They are
    as many as divide the batch, and give each at least `SHARE` examples. Nothing happens where XLA_FLAGS says how many
    there are, or JAX has started.
    """
    if "host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        return
    most = max(1, min(host.cores(), batch_size // SHARE))
    count = max(n for n in range(1, most + 1) if batch_size % n == 0)
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", count)


def peak_memory() -> dict[str, int]:
    """The most bytes that were in use: by the process, and by the first device where its runtime tells."""
    unit = 1 if platform.system() == "Darwin" else 1024
    found = {"process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    stats = jax.local_devices()[0].memory_stats() or {}
    return found | ({"device": int(stats["peak_bytes_in_use"])} if "peak_bytes_in_use" in stats else {})


def description() -> dict[str, Any]:
    """The machine and the versions that a measurement belongs to."""
    return {
        "device": jax.devices()[0].device_kind,
        "platform": jax.default_backend(),
        "devices": len(jax.devices()),
        "cores": host.cores(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "jaxlib": jax.lib.__version__,
    }
