"""Default values that depend on the device: evaluation chunk, microbatches, and number of CPU devices."""

import contextlib
import os

import jax
from jax.sharding import Mesh

from vae_jax.runtime import host

SAMPLES_PER_MICROBATCH = 1000  # latent samples that a CPU decodes at a time in a training step
EXAMPLES_PER_DEVICE = 20  # examples of an evaluation batch that make the matrix products worth a separate CPU device


def effective_devices(mesh: Mesh) -> int:
    """Return how many times the rate of one device a mesh reaches.

    CPU devices share the cores of one machine, so a mesh of them reaches the rate of one device.
    """
    return 1 if jax.default_backend() == "cpu" else mesh.size


def evaluation_chunk(chunk: int) -> int:
    """Return `evaluation.chunk`; if it is 0, return 20 on a CPU and 100 on another device."""
    return chunk or (20 if jax.default_backend() == "cpu" else 100)


def num_microbatches(microbatches: int, *, batch_size: int, num_samples: int, divisible: bool, mesh: Mesh) -> int:
    """Return `train.microbatches`; if it is 0, return the number that suits the mesh.

    On one CPU device a batch is split into as many equal microbatches as keep `SAMPLES_PER_MICROBATCH` latent samples
    or more in each. The number is 1 for a batch that cannot be divided, and on any other mesh.

    Args:
      microbatches: The setting; 0 for a number that suits the mesh.
      batch_size: The number of examples in a batch.
      num_samples: The number of posterior samples of each example.
      divisible: Whether the objective is a mean over independent examples.
      mesh: The mesh that trains the model.

    Returns:
      The number of microbatches, a divisor of `batch_size` where it is chosen here.
    """
    if microbatches:
        return microbatches
    if mesh.size > 1 or mesh.devices.flat[0].platform != "cpu" or not divisible:
        return 1
    limit = batch_size * num_samples // SAMPLES_PER_MICROBATCH
    return max((n for n in range(1, limit + 1) if batch_size % n == 0), default=1)


def use_cores_as_devices(batch_size: int) -> None:
    """Configure JAX to expose the CPU's cores as separate devices, for batches of independent examples.

    Separate devices wait less for each other than the threads that share the work of one device (docs/measurements.md).
    The number of devices is the largest that divides the batch, with at least `EXAMPLES_PER_DEVICE` examples on each
    and at most one device a core. If XLA_FLAGS already sets the number, or JAX has started, nothing changes.

    Args:
      batch_size: The number of examples in a batch.
    """
    if "host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        return
    limit = max(1, min(host.cores(), batch_size // EXAMPLES_PER_DEVICE))
    count = max(n for n in range(1, limit + 1) if batch_size % n == 0)
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", count)
