"""runtime.defaults."""

import contextlib
import os
from typing import Any

import jax

from vae_jax.config import SINGLE_LAYER_OBJECTIVES, Config
from vae_jax.runtime import host

SAMPLES_PER_MICROBATCH = 1000  # that a CPU decodes at a time in a training step
EXAMPLES_PER_DEVICE = 20  # examples of an evaluation's batch, for products that are worth a device


def effective_devices(mesh: Any) -> int:
    """How many times the rate of one device the devices of a mesh have: CPU devices share the cores of one machine."""
    return 1 if jax.default_backend() == "cpu" else mesh.size


def evaluation_chunk(chunk: int) -> int:
    """evaluation.chunk, or where that is 0 what suits the first device: 20 for a CPU, 100 for another."""
    return chunk or (20 if jax.default_backend() == "cpu" else 100)


def num_microbatches(config: Config, mesh: Any) -> int:
    """train.microbatches, or where that is 0 what suits the mesh: on one CPU device as many equal parts as leave each
    of them `CODES` codes, unless the objective compares the codes of a whole batch; one part elsewhere."""
    train, objective = config.train, config.objective
    if train.microbatches:
        return train.microbatches
    if mesh.size > 1 or mesh.devices.flat[0].platform != "cpu" or objective.name in SINGLE_LAYER_OBJECTIVES:
        return 1
    most = train.batch_size * objective.num_samples // SAMPLES_PER_MICROBATCH
    return max((n for n in range(1, most + 1) if train.batch_size % n == 0), default=1)


def use_cores_as_devices(batch_size: int) -> None:
    """Makes a CPU several devices of JAX for batches that do not depend on each other: one for each core.

    Such devices wait less for each other than the threads that share the work of one (docs/performance.md). They are
    as many as divide the batch, and give each at least `SHARE` examples. Nothing happens where XLA_FLAGS says how many
    there are, or JAX has started.
    """
    if "host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        return
    most = max(1, min(host.cores(), batch_size // EXAMPLES_PER_DEVICE))
    count = max(n for n in range(1, most + 1) if batch_size % n == 0)
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", count)
