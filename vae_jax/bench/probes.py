"""What the machine can do, measured: its rate of matrix products, its memory's bandwidth; and how much it can hold."""

import platform
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vae_jax.runtime import host

GIB = 2**30
CALLS = 8


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


def machine_description() -> dict[str, Any]:
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
