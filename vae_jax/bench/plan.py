"""Cost of a training before it runs: work, memory and a lower bound on step time, from shapes alone."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from vae_jax.bench import cost_analysis, probes
from vae_jax.bench.batch_search import largest_batch
from vae_jax.bench.tables import GIB
from vae_jax.config import Config, override
from vae_jax.errors import InputError
from vae_jax.runs import Run, compile_program
from vae_jax.runtime import defaults, host, sharding


@dataclasses.dataclass(frozen=True)
class Costs:
    """The costs of one training step.

    Attributes:
      parameters: The number of parameters.
      flops: Floating-point operations of matrix products and convolutions, over all devices.
      xla_flops: Floating-point operations of every kind, by XLA's cost model; None if it has none.
      traffic: The lower bound on memory traffic of each device in bytes, from `memory_traffic`.
      state_bytes: The size of the training state on each device.
      images_bytes: The size of the training images on each device.
    """

    parameters: int
    flops: float
    xla_flops: float | None
    traffic: int
    state_bytes: int
    images_bytes: int


def abstract_arguments(run: Run) -> tuple[Any, jax.ShapeDtypeStruct]:
    """Return the shapes of (state, training images) of a run, with their shardings."""
    state = sharding.abstract_arrays(jax.eval_shape(run.initial_state, run.key), run.state_shardings)
    return state, jax.ShapeDtypeStruct(run.images_shape, jnp.uint8, sharding=run.images_sharding)


def trace_program(run: Run) -> Any:
    """Return the `jax.stages.Traced` of the program that trains a run: it needs no data, and nothing is compiled."""
    program: Any = compile_program(run)  # jitted, so it has `trace`
    return program.trace(*abstract_arguments(run), run.config.train.log_every)


@functools.lru_cache(maxsize=4)  # Each row of a benchmark needs the costs of the baseline.
def step_costs(run: Run) -> Costs:
    """Return the costs of one step of a run, from the trace of its program."""
    state, _ = abstract_arguments(run)
    # Without microbatches, because XLA's cost model counts the body of the loop over them once.
    traced = trace_program(override_run(run, train__microbatches=1))
    # The iterations of the loop over steps that the trace contains.
    steps = run.config.train.log_every if sharding.needs_static_step_count(run.mesh) else 1
    return Costs(
        parameters=sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        flops=cost_analysis.total_flops(cost_analysis.matrix_products(traced.jaxpr)) / steps,
        xla_flops=cost_analysis.xla_costs(traced.lower()).get("flops"),
        traffic=memory_traffic(run),
        state_bytes=cost_analysis.tree_bytes(state, on_device=True),
        images_bytes=_images_bytes(run),
    )


def _images_bytes(run: Run) -> int:
    """Return the bytes of images on each device; for a streamed run those of two dispatches, because of prefetching."""
    return cost_analysis.tree_bytes(abstract_arguments(run)[1], on_device=True) * (2 if run.streamed else 1)


def memory_traffic(run: Run) -> int:
    """Return the lower bound on the memory traffic of a step in bytes on each device: 2 S + 2 G + 5 X / devices.

    S is the device's part of the training state (parameters, moments, averages), which is read and written. G is the
    gradient of all parameters, which is written and read. X is the number of pixels of a batch, each read as one byte
    and written as a float32. Activations do not count, because they may stay in caches.
    """
    state, _ = abstract_arguments(run)
    pixels = run.config.train.batch_size * run.image_shape[0] * run.image_shape[1] * run.image_shape[2]
    state_bytes = cost_analysis.tree_bytes(state, on_device=True)
    return 2 * state_bytes + 2 * cost_analysis.tree_bytes(state.params) + 5 * pixels // run.mesh.size


def override_run(run: Run, **settings: Any) -> Run:
    """Return a run with other settings, whose names are those of `vae_jax.override`, such as train__batch_size."""
    return dataclasses.replace(run, config=override(run.config, **settings))


def program_memory(run: Run) -> dict[str, int]:
    """Return `cost_analysis.memory` of the program that trains a run. It is exact: the program is compiled."""
    return cost_analysis.memory(trace_program(run).lower().compile())


def memory_of_mesh_row(run: Run) -> dict[str, int]:
    """Return `program_memory` of a run that stands for one row of a larger mesh.

    The all-reduce over the rows needs a second copy of the device's gradients, which is added.
    """
    memory = program_memory(run)
    gradients = cost_analysis.tree_bytes(abstract_arguments(run)[0].params, on_device=True)
    return memory and memory | {name: memory[name] + gradients for name in ("temporary", "total")}


def planned_run(config: Config, data: dict[str, Any], *, streamed: bool = False) -> tuple[Run, int, bool]:
    """Return the run that is compiled for a plan.

    If the machine has fewer devices than planned, the run is that of one row of `mesh.fsdp` devices, which the machine
    must have, with its share of the batch: the program of each device without the all-reduce over `mesh.data`.

    Args:
      config: The config of the planned run.
      data: The description of its training data, from `describe_images`.
      streamed: Whether the images are read from disk during training.

    Returns:
      (the run, the number of devices planned for, whether the machine has these devices).

    Raises:
      InputError: If the devices do not divide a microbatch, or the machine has fewer than `mesh.fsdp` devices.
    """
    available, fsdp = len(jax.devices()), config.mesh.fsdp
    devices = config.mesh.data * fsdp or available
    microbatches = config.train.microbatches or 1  # 0 means several on one CPU device, which divides any size
    if config.train.batch_size // microbatches % devices:
        raise InputError(
            f"train.batch_size={config.train.batch_size} must be a multiple of the {devices} devices"
            + (f" in each of the {microbatches} microbatches" if microbatches > 1 else "")
            + f", for example {_nearest_batch_size(config.train.batch_size, devices * microbatches)}"
        )
    if devices <= available:
        mesh = sharding.make_mesh(config.mesh.data, fsdp)
        return Run(config, data, Path(), mesh, streamed=streamed), devices, True
    size = config.train.batch_size // config.mesh.data
    row = override(config, mesh__data=1, train__batch_size=size, train__microbatches=microbatches)
    return Run(row, data, Path(), sharding.make_mesh(1, fsdp), streamed=streamed), devices, False


def _nearest_batch_size(batch_size: int, multiple: int) -> int:
    return max(1, round(batch_size / multiple)) * multiple


def plan_training(
    config: Config, data: dict[str, Any], *, streamed: bool = False, limit: int | None = None
) -> dict[str, Any]:
    """Return what a training costs: sizes, work, memory, a lower bound on step time, and the largest batch that fits.

    The lower bound on step time is FLOPs / rate + traffic / bandwidth, with the FLOPs of the matrix products, the bytes
    of `memory_traffic`, and the measured rates of this machine.

    Args:
      config: The config of the training.
      data: The description of its training data, from `describe_images`.
      streamed: Whether the images are read from disk during training.
      limit: The memory of a device in bytes; by default that of this machine's devices.

    Returns:
      A dictionary of JSON values. Times are in seconds, sizes in bytes on each device, rates in units per second.

    Raises:
      InputError: If the batch does not suit the devices.
    """
    run, devices, available = planned_run(config, data, streamed=streamed)
    costs = step_costs(run)
    if limit is None:
        limit = host.memory_limit(devices if jax.default_backend() == "cpu" else 1)
    rows = devices // run.mesh.size
    gradients = cost_analysis.tree_bytes(abstract_arguments(run)[0].params) * run.microbatches
    return {
        "devices": devices,
        "compiled_for": f"{run.mesh.size} device(s)"
        + ("" if available else f" with their share of the batch, of {devices} requested"),
        "batch_size": config.train.batch_size,
        "microbatches": run.microbatches,
        "num_examples": data["num_examples"],
        "parameters": costs.parameters,
        "flops_per_step": costs.flops * rows,
        "xla_flops_per_step": None if costs.xla_flops is None else costs.xla_flops * rows,
        "bytes_per_step_and_device": costs.traffic,
        "state_bytes": costs.state_bytes,
        "images_bytes": costs.images_bytes,
        "gradient_bytes_over_devices": gradients if devices > 1 else 0,
        **_planned_memory(run, program_memory if available else memory_of_mesh_row, limit, rows),
        **_planned_time(run, costs),
    }


def _planned_memory(
    run: Run, memory: Callable[[Run], dict[str, int]], limit: int | None, rows: int
) -> dict[str, dict[str, int] | int | bool | None]:
    """Return the memory entries of a plan: memory of the program, whether it fits, and the largest batch.

    Args:
      run: The run that is compiled.
      memory: Returns the memory of the program of a run.
      limit: The memory of a device in bytes, or None if it is unknown.
      rows: The number of rows of the planned mesh that the run stands for.

    Returns:
      The entries of the plan.
    """
    used = memory(run)
    copy = cost_analysis.tree_bytes(abstract_arguments(run)[0], on_device=True)  # made while a checkpoint is written

    def memory_of(batch: int) -> int:
        return memory(override_run(run, train__batch_size=batch // rows)).get("total", 0) + copy

    fits = batch = None
    if limit is not None and used:
        fits = used["total"] + copy <= limit
        batch = largest_batch(
            memory_of,
            start=run.config.train.batch_size * rows,
            limit=limit,
            multiple=rows * run.mesh.size * (run.config.train.microbatches or 1),
            max_batch=run.data["num_examples"],
        )
    return {
        "memory_per_device": used,
        "checkpoint_copy_bytes": copy,
        "memory_limit": limit,
        "fits": fits,
        "largest_batch": batch,
    }


def _planned_time(run: Run, costs: Costs) -> dict[str, float]:
    """Return the time entries of a plan: the measured rates, and the lower bound on step time."""
    matrix_rate = probes.matrix_probe(run.config.model.compute_dtype).rate() * defaults.effective_devices(run.mesh)
    bandwidth = probes.bandwidth_probe(costs.traffic // 2).rate()
    return {
        "matrix_rate": matrix_rate,
        "bandwidth": bandwidth,
        "seconds_per_step_lower_bound": costs.flops / matrix_rate + costs.traffic / bandwidth,
    }


def memory_lower_bound(run: Run) -> int:
    """Return a lower bound on the memory of a step in bytes on each device, from shapes alone: nothing is compiled.

    It is the sum of the state, the images, and half of the outputs of the matrix products without the gradients. That
    half belongs to the forward pass and is stored, after the nonlinearity, until the backward pass uses it. With
    `model.remat` it is not stored and does not count.
    """
    stored = cost_analysis.tree_bytes(abstract_arguments(run)[0], on_device=True) + _images_bytes(run)
    if run.config.model.remat:
        return stored
    outputs = sum(product.output_bytes for product in cost_analysis.matrix_products(trace_program(run).jaxpr))
    gradients = cost_analysis.tree_bytes(abstract_arguments(run)[0].params)
    return stored + max(0, outputs - gradients) // 2 // run.mesh.size


def check_memory(run: Run) -> None:
    """Raise an error if a training step cannot fit the devices' memory, before anything is placed on them.

    In addition to a step, a copy of the state must fit, which exists while a checkpoint is written. The check uses
    `memory_lower_bound`. Only if that is a quarter of the memory or more, the program is compiled for its shapes, and
    its memory is exact. Training runs the same program and takes it from JAX's compilation cache.

    Args:
      run: The run to check.

    Raises:
      InputError: If the memory is known and not sufficient.
    """
    limit = host.memory_limit(run.mesh.size if jax.default_backend() == "cpu" else 1)
    if limit is None:
        return
    copy = cost_analysis.tree_bytes(abstract_arguments(run)[0], on_device=True)
    needed = memory_lower_bound(run) + copy
    if needed <= limit < 4 * needed:
        needed = program_memory(run).get("total", needed - copy) + copy
    if needed > limit:
        raise InputError(
            f"train.batch_size={run.config.train.batch_size} needs {needed / GIB:.2f} GiB or more for a step and a "
            f"copy of the state, on each of {run.mesh.size} device(s) with {limit / GIB:.2f} GiB of free memory; run "
            "`vae-jax plan` to find the largest batch that fits, or set train.microbatches to split the batch"
        )
