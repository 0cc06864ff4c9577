"""Measured rates of the machine: matrix products and memory bandwidth. Also a description of the machine."""

import importlib.metadata
import platform
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vae_jax.runtime import host

CALLS = 8


class Probe(NamedTuple):
    """A computation of known work.

    Attributes:
      call: Dispatches the computation and returns its result.
      work: The floating-point operations, or the bytes read and written, of one call.
    """

    call: Callable[[], Any]
    work: float

    def seconds(self) -> float:
        """Return the minimum wall time of `CALLS` calls in seconds, each synchronized with the device.

        It is the minimum, because a single product of a few milliseconds can take twice as long as the next one, and an
        underestimate of the machine's rate makes a program look closer to its lower bound than it is.
        """
        times = []
        for _ in range(CALLS):
            start = time.perf_counter()
            jax.block_until_ready(self.call())
            times.append(time.perf_counter() - start)
        return min(times)

    def rate(self) -> float:
        """Return the work per second."""
        return self.work / self.seconds()


def matrix_probe(dtype: Any, *, size: int | None = None) -> Probe:
    """Return a probe of matrix products: two square matrices on the first device, in JAX's default precision.

    Args:
      dtype: The dtype of the matrices.
      size: Their side. By default 1024 on a CPU and 8192 on other devices, which smaller products do not fill.

    Returns:
      The probe, already compiled and run. Its work is in floating-point operations.
    """
    size = size or (1024 if jax.default_backend() == "cpu" else 8192)
    matrix = jnp.full((size, size), 1 / size, dtype)
    product = jax.jit(lambda a: a @ a)
    return _warmed_up(Probe(lambda: product(matrix), 2.0 * size**3))


def bandwidth_probe(working_set: int) -> Probe:
    """Return a probe of memory bandwidth: repeated y = a x + b over an array, each repetition reads and writes it once.

    The working set should have the size of the traffic in question, because data in a cache are read faster.

    Args:
      working_set: The size of the array in bytes.

    Returns:
      The probe, already compiled and run. Its work is in bytes.
    """
    array = jnp.ones((max(1, working_set // 4),), jnp.float32)
    repeats = max(4, 2**27 // array.nbytes)
    stream = jax.jit(lambda x: jax.lax.fori_loop(0, repeats, lambda _, x: 0.5 * x + 0.5, x))
    return _warmed_up(Probe(lambda: stream(array), 2.0 * array.nbytes * repeats))


def _warmed_up(probe: Probe) -> Probe:
    jax.block_until_ready(probe.call())
    jax.block_until_ready(probe.call())
    return probe


def machine_description() -> dict[str, Any]:
    """Return the device, the platform, the numbers of devices and cores, and the versions of Python, JAX and jaxlib."""
    return {
        "device": jax.devices()[0].device_kind,
        "platform": jax.default_backend(),
        "devices": len(jax.devices()),
        "cores": host.cores(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "jaxlib": importlib.metadata.version("jaxlib"),
    }
