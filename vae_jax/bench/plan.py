"""What a training will cost, before it runs: from shapes alone, without data on the device and without a step."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from vae_jax.bench import cost_analysis, probes
from vae_jax.bench.batch_search import largest_batch
from vae_jax.config import Config, override
from vae_jax.errors import InputError
from vae_jax.runs import Run, compile_program
from vae_jax.runtime import defaults, host, sharding


@dataclasses.dataclass(frozen=True)
class Costs:
    """What one step of a run costs, by hand count and by XLA."""

    parameters: int
    flops: float  # of matrix products and convolutions, over all devices
    xla_flops: float | None  # of every operation, by XLA's analysis
    traffic: int  # bytes that a step cannot avoid moving on each device: see `traffic`
    state_bytes: int  # the training state, on each device
    images_bytes: int  # the training images, on each device


def abstract_arguments(run: Run) -> tuple[Any, jax.ShapeDtypeStruct]:
    """The shapes of (state, training images) of a run, placed on its mesh."""
    state = sharding.abstract_arrays(jax.eval_shape(run.initial_state, run.key), run.state_shardings)
    return state, jax.ShapeDtypeStruct(run.images_shape, jnp.uint8, sharding=run.images_sharding)


def trace_program(run: Run) -> Any:
    """The program that trains a run, traced for its shapes: no data, nothing compiled."""
    return compile_program(run).trace(*abstract_arguments(run), run.config.train.log_every)


@functools.lru_cache(maxsize=4)  # each row of a benchmark asks for the baseline's
def step_costs(run: Run) -> Costs:
    """The costs of one step of a run, from its trace."""
    state, _ = abstract_arguments(run)
    whole = trace_program(override_run(run, train__microbatches=1))  # XLA counts the body of the parts' loop once
    counted = (
        run.config.train.log_every if sharding.needs_static_step_count(run.mesh) else 1
    )  # turns of the loop over steps
    return Costs(
        parameters=sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        flops=cost_analysis.total_flops(cost_analysis.matrix_products(whole.jaxpr)) / counted,
        xla_flops=cost_analysis.xla_costs(whole.lower()).get("flops"),
        traffic=memory_traffic(run),
        state_bytes=cost_analysis.tree_bytes(state, on_device=True),
        images_bytes=_images_bytes(run),
    )


def _images_bytes(run: Run) -> int:
    """Bytes of images on each device; of a streamed run, of those of two dispatches, since one is placed meanwhile."""
    return cost_analysis.tree_bytes(abstract_arguments(run)[1], on_device=True) * (2 if run.streamed else 1)


def memory_traffic(run: Run) -> int:
    """Bytes that a step cannot avoid moving on each device: 2 S + 2 G + 5 X / devices.

    S, a device's part of the training state (parameters, moments, averages), is read and written; the gradients G of
    all parameters are written and read; of the X pixels of a batch each is read as one byte and written as a float32.
    Activations may stay in caches.
    """
    state, _ = abstract_arguments(run)
    pixels = run.config.train.batch_size * run.image_shape[0] * run.image_shape[1] * run.image_shape[2]
    own = cost_analysis.tree_bytes(state, on_device=True)
    return 2 * own + 2 * cost_analysis.tree_bytes(state.params) + 5 * pixels // run.mesh.size


def override_run(run: Run, **settings: Any) -> Run:
    """`run` with other settings, by path as in `settings.override`."""
    return dataclasses.replace(run, config=override(run.config, **settings))


def program_memory(run: Run) -> dict[str, int]:
    """`costs.memory` of the program that trains a run: exact, by compiling it for its shapes."""
    return cost_analysis.memory(trace_program(run).lower().compile())


def memory_of_mesh_row(run: Run) -> dict[str, int]:
    """`program_memory` where a run stands for one row of a larger mesh: a device's gradients lie there once more,
    summed over the rows."""
    found = program_memory(run)
    summed = cost_analysis.tree_bytes(abstract_arguments(run)[0].params, on_device=True)
    return found and found | {name: found[name] + summed for name in ("temporary", "total")}


def planned_run(config: Config, data: dict[str, Any], *, streamed: bool = False) -> tuple[Run, int, bool]:
    """(a run to be compiled here, devices planned for, whether these are here).

    Where the machine has fewer devices, the run is that of one row of `mesh.fsdp` devices (which must be here) with
    its share of the batch: the program that each of them would run, without the sums over `mesh.data`.
    """
    here, fsdp = len(jax.devices()), config.mesh.fsdp
    devices = config.mesh.data * fsdp or here
    parts = config.train.microbatches or 1  # where it is 0, on one CPU device more, of any size
    if config.train.batch_size // parts % devices:
        raise InputError(
            f"train.batch_size: {config.train.batch_size} given in {parts} part(s), "
            f"each must be a multiple of the {devices} devices"
        )
    if devices <= here:
        mesh = sharding.make_mesh(config.mesh.data, fsdp)
        return Run(config, data, Path(), mesh, streamed=streamed), devices, True
    size = config.train.batch_size // config.mesh.data
    part = override(config, mesh__data=1, train__batch_size=size, train__microbatches=parts)
    return Run(part, data, Path(), sharding.make_mesh(1, fsdp), streamed=streamed), devices, False


def plan_training(
    config: Config, data: dict[str, Any], *, streamed: bool = False, limit: int | None = None
) -> dict[str, Any]:
    """What training by `config` costs on `data` (`reading.describe`): sizes, work, memory, time and the largest batch.

    `limit` is the memory of a device in bytes, the machine's own if not given. The time is the least that the machine
    could take: the matrix products at its measured rate, and `traffic` at its measured bandwidth.
    """
    run, devices, here = planned_run(config, data, streamed=streamed)
    found = step_costs(run)
    copy = found.state_bytes
    limit = host.memory_limit(devices if jax.default_backend() == "cpu" else 1) if limit is None else limit
    memory = program_memory if here else memory_of_mesh_row
    used = memory(run)
    matrix = probes.matrix_probe(run.config.model.compute_dtype).rate() * defaults.effective_devices(run.mesh)
    bandwidth = probes.bandwidth_probe(found.traffic // 2).rate()
    parts = run.microbatches
    share = devices // run.mesh.size

    def memory_of(batch: int) -> int:
        return memory(override_run(run, train__batch_size=batch // share)).get("total", 0) + copy

    return {
        "devices": devices,
        "compiled_for": f"{run.mesh.size} device(s)"
        + ("" if here else f" and their share of the batch; {devices} asked"),
        "batch_size": config.train.batch_size,
        "microbatches": parts,
        "num_examples": data["num_examples"],
        "parameters": found.parameters,
        "flops_per_step": found.flops * share,
        "xla_flops_per_step": None if found.xla_flops is None else found.xla_flops * share,
        "bytes_per_step_and_device": found.traffic,
        "state_bytes": found.state_bytes,
        "images_bytes": found.images_bytes,
        "gradient_bytes_over_devices": cost_analysis.tree_bytes(abstract_arguments(run)[0].params) * parts
        if devices > 1
        else 0,
        "memory_per_device": used,
        "copy_while_saving_bytes": copy,
        "memory_limit": limit,
        "fits": None if limit is None or not used else used["total"] + copy <= limit,
        "largest_batch": None
        if limit is None or not used
        else largest_batch(
            memory_of,
            start=config.train.batch_size,
            limit=limit,
            multiple=devices * (config.train.microbatches or 1),
            at_most=data["num_examples"],
        ),
        "matrix_rate": matrix,
        "bandwidth": bandwidth,
        "seconds_per_step_at_least": found.flops / matrix + found.traffic / bandwidth,
    }


def memory_lower_bound(run: Run) -> int:
    """Bytes that each device must hold in a step, whatever the compiler does, from shapes alone: nothing is compiled.

    The state, the images, and half of what the matrix products put out beside the gradients: its forward half is kept,
    after the nonlinearity, until the backward half reads it. With `model.remat` it is not, and does not count.
    """
    held = cost_analysis.tree_bytes(abstract_arguments(run)[0], on_device=True) + _images_bytes(run)
    if run.config.model.remat:
        return held
    put_out = sum(product.output_bytes for product in cost_analysis.matrix_products(trace_program(run).jaxpr))
    return held + max(0, put_out - cost_analysis.tree_bytes(abstract_arguments(run)[0].params)) // 2 // run.mesh.size


def check_memory(run: Run) -> None:
    """Refuses a run whose step cannot fit the devices' memory: by `at_least`, before anything is compiled or placed.

    Beside a step a copy of the state must fit, which is there while a checkpoint is written. Where a quarter of the
    memory or more is needed, the program is compiled for its shapes and its memory is exact; it is the program that
    training runs, and comes from JAX's cache there. Raises InputError.
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
            f"train.batch_size: {run.config.train.batch_size} given, a step and a copy of the state need "
            f"{needed / probes.GIB:.2f} GiB or more on each of {run.mesh.size} device(s) that have "
            f"{limit / probes.GIB:.2f} GiB left; `vae-jax plan` "
            "finds the largest batch that fits, and train.microbatches makes a step of several smaller ones"
        )
