"""Cost of a training before it runs: work, memory and a lower bound on step time, from shapes alone."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from vae_jax.bench import cost_analysis, probes
from vae_jax.bench.batch_search import largest_batch
from vae_jax.bench.tables import GIB
from vae_jax.config import Config
from vae_jax.errors import InputError
from vae_jax.runs import (
    Experiment,
    build_experiment,
    cache_on_experiment,
    compile_program,
    data_shapes,
    is_streamed,
    num_microbatches,
    state_shapes,
    with_training,
)
from vae_jax.runtime import Placement, defaults, host, sharding


@dataclasses.dataclass(frozen=True)
class Costs:
    """The costs of one training step.

    Attributes:
      parameters: the number of parameters.
      flops: floating-point operations of matrix products and convolutions, over all devices.
      dtype: the dtype in which most of them are computed, float32 or bfloat16 for example.
      xla_flops: floating-point operations of every kind, by XLA's cost model; None if it has none.
      traffic: the lower bound on memory traffic of each device in bytes, from `memory_traffic`.
      state_bytes: the size of the training state on each device.
      data_bytes: the size of the training examples on each device.
    """

    parameters: int
    flops: float
    dtype: str
    xla_flops: float | None
    traffic: int
    state_bytes: int
    data_bytes: int


def trace_program(experiment: Experiment, placement: Placement) -> Any:
    """Return the `jax.stages.Traced` of the program that trains: it needs no data, and nothing is compiled."""
    program: Any = compile_program(experiment, placement)  # jitted, so it has `trace`
    state, data = state_shapes(experiment, placement), data_shapes(experiment, placement)
    return program.trace(state, data, experiment.training.log_every)


@cache_on_experiment  # Each row of a benchmark needs the costs of the baseline.
def step_costs(experiment: Experiment, placement: Placement) -> Costs:
    """Return the costs of one training step, from the trace of its program."""
    state = state_shapes(experiment, placement)
    # Without microbatches, because XLA's cost model counts the body of the loop over them once.
    traced = trace_program(with_training(experiment, microbatches=1), placement)
    products = list(cost_analysis.matrix_products(traced.jaxpr))
    # The iterations of the loop over steps that the trace contains.
    steps = experiment.training.log_every if placement.static_step_count else 1
    return Costs(
        parameters=sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        flops=cost_analysis.total_flops(products) / steps,
        dtype=cost_analysis.main_dtype(products),
        xla_flops=cost_analysis.xla_costs(traced.lower()).get("flops"),
        traffic=memory_traffic(experiment, placement),
        state_bytes=cost_analysis.tree_bytes(state, on_device=True),
        data_bytes=_data_bytes(experiment, placement),
    )


def _data_bytes(experiment: Experiment, placement: Placement) -> int:
    """Return the bytes of examples on each device; of streamed ones those of two dispatches, because of prefetching."""
    size = cost_analysis.tree_bytes(data_shapes(experiment, placement), on_device=True)
    return size * (2 if is_streamed(experiment) else 1)


def memory_traffic(experiment: Experiment, placement: Placement) -> int:
    """Return the lower bound on the memory traffic of a step in bytes on each device: 2 S + 2 G + X / devices.

    S is the device's part of the training state (parameters, moments, averages), which is read and written. G is the
    gradient of all parameters, which is written and read. X is the size of x of a batch, which is read as it is stored
    and written as the model reads it; for images that is one byte and four bytes for each pixel. Activations do not
    count, because they may stay in caches.
    """
    state = state_shapes(experiment, placement)
    x = experiment.training_data.spec["x"], experiment.example_batch["x"]  # as stored, and as the model reads it
    batch_bytes = experiment.training.batch_size * cost_analysis.tree_bytes(x)
    state_bytes = cost_analysis.tree_bytes(state, on_device=True)
    return 2 * state_bytes + 2 * cost_analysis.tree_bytes(state.params) + batch_bytes // placement.mesh.size


def program_memory(experiment: Experiment, placement: Placement) -> dict[str, int]:
    """Return `cost_analysis.memory` of the program that trains. It is exact: the program is compiled.

    The arguments of a streamed run include the examples of the next dispatch, which are placed while this one runs.
    """
    memory = cost_analysis.memory(trace_program(experiment, placement).lower().compile())
    if not memory or not is_streamed(experiment):
        return memory
    ahead = cost_analysis.tree_bytes(data_shapes(experiment, placement), on_device=True)
    return memory | {name: memory[name] + ahead for name in ("arguments", "total")}


def memory_of_mesh_row(experiment: Experiment, placement: Placement) -> dict[str, int]:
    """Return `program_memory` of an experiment that stands for one row of a larger mesh.

    The all-reduce over the rows needs a second copy of the device's gradients, which is added.
    """
    memory = program_memory(experiment, placement)
    gradients = cost_analysis.tree_bytes(state_shapes(experiment, placement).params, on_device=True)
    return memory and memory | {name: memory[name] + gradients for name in ("temporary", "total")}


def plan_training(config: Config, *, limit: int | None = None) -> dict[str, Any]:
    """Return what the training of a config costs, as `plan_experiment`.

    If the machine has fewer devices than planned, the program is compiled for one row of `mesh.fsdp` devices, which the
    machine must have, with its share of the batch: the program of each device without the all-reduce over `mesh.data`.

    Args:
      config: the settings.
      limit: the memory of a device in bytes; None for that of this machine's devices.

    Returns:
      The result of `plan_experiment`.

    Raises:
      InputError: the devices do not divide a microbatch, the machine has fewer than `mesh.fsdp` devices, or the data
        cannot be used.
      StorageError: the data are damaged.
    """
    fsdp, available = config.mesh.fsdp, len(jax.devices())
    devices = config.mesh.data * fsdp or available
    _check_batch_size(config, devices)
    experiment = build_experiment(config)
    if devices <= available:
        return plan_experiment(experiment, Placement(sharding.make_mesh(config.mesh.data, fsdp)), limit=limit)
    rows = config.mesh.data
    row = with_training(
        experiment,
        batch_size=config.train.batch_size // rows,
        microbatches=config.train.microbatches or 1,
    )
    return plan_experiment(row, Placement(sharding.make_mesh(1, fsdp)), rows=rows, limit=limit)


def _check_batch_size(config: Config, devices: int) -> None:
    """Raise InputError if the devices do not divide a microbatch."""
    size, microbatches = config.train.batch_size, config.train.microbatches or 1  # 0: on one CPU device, any divisor
    if size // microbatches % devices:
        multiple = devices * microbatches
        raise InputError(
            f"train.batch_size={size} must be a multiple of the {devices} devices"
            + (f" in each of the {microbatches} microbatches" if microbatches > 1 else "")
            + f", for example {max(1, round(size / multiple)) * multiple}"
        )


def plan_experiment(
    experiment: Experiment, placement: Placement, *, rows: int = 1, limit: int | None = None
) -> dict[str, Any]:
    """Return what a training costs: sizes, work, memory, a lower bound on step time, and the largest batch that fits.

    The lower bound on step time is FLOPs / rate + traffic / bandwidth, with the FLOPs of the matrix products, the bytes
    of `memory_traffic`, and the measured rates of this machine.

    Args:
      experiment: what is trained. Only the number, shapes and dtypes of its training examples are used.
      placement: the devices that the program is compiled for.
      rows: how many such groups of devices are planned, each with the batch of `experiment`; 1 for `placement` alone.
      limit: the memory of a device in bytes; None for that of this machine's devices.

    Returns:
      A dictionary of JSON values. Times are in seconds, sizes in bytes on each device, rates in units per second.
    """
    costs, devices = step_costs(experiment, placement), rows * placement.mesh.size
    microbatches = num_microbatches(experiment, placement)
    if limit is None:
        limit = host.memory_limit(devices if jax.default_backend() == "cpu" else 1)
    gradients = cost_analysis.tree_bytes(state_shapes(experiment, placement).params) * microbatches
    return {
        "devices": devices,
        "compiled_for": f"{placement.mesh.size} device(s)"
        + (f" with their share of the batch, of {devices} requested" if rows > 1 else ""),
        "batch_size": rows * experiment.training.batch_size,
        "microbatches": microbatches,
        "num_examples": len(experiment.training_data),
        "parameters": costs.parameters,
        "flops_per_step": costs.flops * rows,
        "xla_flops_per_step": None if costs.xla_flops is None else costs.xla_flops * rows,
        "bytes_per_step_and_device": costs.traffic,
        "state_bytes": costs.state_bytes,
        "data_bytes": costs.data_bytes,
        "gradient_bytes_over_devices": gradients if devices > 1 else 0,
        **_planned_memory(experiment, placement, limit, rows),
        **_planned_time(placement, costs),
    }


def _planned_memory(
    experiment: Experiment, placement: Placement, limit: int | None, rows: int
) -> dict[str, dict[str, int] | int | bool | None]:
    """Return the memory entries of a plan: memory of the program, whether it fits, and the largest batch."""
    memory: Callable[[Experiment, Placement], dict[str, int]] = memory_of_mesh_row if rows > 1 else program_memory
    used = memory(experiment, placement)
    # A copy of the state is made while a checkpoint is written.
    copy = cost_analysis.tree_bytes(state_shapes(experiment, placement), on_device=True)

    start = experiment.training.batch_size * rows

    def memory_of(batch: int) -> int:
        of_batch = used  # its program is compiled already
        if batch != start:
            of_batch = memory(with_training(experiment, batch_size=batch // rows), placement)
        return of_batch.get("total", 0) + copy

    fits = batch = None
    if limit is not None and used:
        fits = used["total"] + copy <= limit
        batch = largest_batch(
            memory_of,
            start=start,
            limit=limit,
            multiple=rows * placement.mesh.size * (experiment.training.microbatches or 1),
            max_batch=len(experiment.training_data),
        )
    return {
        "memory_per_device": used,
        "checkpoint_copy_bytes": copy,
        "memory_limit": limit,
        "fits": fits,
        "largest_batch": batch,
    }


def _planned_time(placement: Placement, costs: Costs) -> dict[str, float]:
    """Return the time entries of a plan: the measured rates, and the lower bound on step time."""
    matrix_rate = probes.matrix_probe(costs.dtype).rate() * defaults.effective_devices(placement.mesh)
    bandwidth = probes.bandwidth_probe(costs.traffic // 2).rate()
    return {
        "matrix_rate": matrix_rate,
        "bandwidth": bandwidth,
        "seconds_per_step_lower_bound": costs.flops / matrix_rate + costs.traffic / bandwidth,
    }


def memory_lower_bound(experiment: Experiment, placement: Placement) -> int:
    """Return a lower bound on the memory of a step in bytes on each device, from shapes alone: nothing is compiled.

    It is the sum of the state, the examples, and half of the outputs of the matrix products without the gradients. That
    half belongs to the forward pass and is stored, after the nonlinearity, until the backward pass uses it. If layers
    are rematerialized, as with `network.remat`, it is not stored and does not count.
    """
    state = state_shapes(experiment, placement)
    stored = cost_analysis.tree_bytes(state, on_device=True) + _data_bytes(experiment, placement)
    jaxpr = trace_program(experiment, placement).jaxpr
    if cost_analysis.rematerializes(jaxpr):
        return stored
    outputs = sum(product.output_bytes for product in cost_analysis.matrix_products(jaxpr))
    return stored + max(0, outputs - cost_analysis.tree_bytes(state.params)) // 2 // placement.mesh.size


def check_memory(experiment: Experiment, placement: Placement) -> None:
    """Raise an error if a training step cannot fit the devices' memory, before anything is placed on them.

    In addition to a step, a copy of the state must fit, which exists while a checkpoint is written. The check uses
    `memory_lower_bound`. Only if that is a quarter of the memory or more, the program is compiled for its shapes, and
    its memory is exact. Training runs the same program and takes it from JAX's compilation cache.

    Args:
      experiment: what is trained.
      placement: the devices.

    Raises:
      InputError: the memory is known and not sufficient.
    """
    devices = placement.mesh.size
    limit = host.memory_limit(devices if jax.default_backend() == "cpu" else 1)
    if limit is None:
        return
    copy = cost_analysis.tree_bytes(state_shapes(experiment, placement), on_device=True)
    needed = memory_lower_bound(experiment, placement) + copy
    if needed <= limit < 4 * needed:
        needed = program_memory(experiment, placement).get("total", needed - copy) + copy
    if needed > limit:
        raise InputError(
            f"train.batch_size={experiment.training.batch_size} needs {needed / GIB:.2f} GiB or more for a step and a "
            f"copy of the state, on each of {devices} device(s) with {limit / GIB:.2f} GiB of free memory; run "
            "`vae-jax plan` to find the largest batch that fits, or set train.microbatches to split the batch"
        )
