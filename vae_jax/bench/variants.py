"""The rows of a benchmark: the training program of a run, and variants that change one thing."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import PartitionSpec

from vae_jax.bench.plan import override_run, step_costs
from vae_jax.config import Config, steps_only, suggestion, validate
from vae_jax.errors import InputError
from vae_jax.runs import Run, build_program, build_step, compile_program
from vae_jax.runtime import defaults, sharding
from vae_jax.training import make_loss

BASELINE = "program"
EAGER_STEPS = 2


class Row(NamedTuple):
    """One way to train.

    Attributes:
      name: The name of the variant.
      run: The run with the variant's settings.
      call: A function call(state, images, count) -> (state, metrics) that trains `count` steps.
      arguments: Returns a new (state, images), placed on the devices as `call` needs them.
      steps: The number of steps in one dispatch.
      donates: Whether `call` donates the state.
      compiled: Whether `call` is jitted.
    """

    name: str
    run: Run
    call: Callable[[Any, Any, int], tuple[Any, Any]]
    arguments: Callable[[], tuple[Any, Any]]
    steps: int
    donates: bool = True
    compiled: bool = True


def program_row(name: str, run: Run, images: np.ndarray) -> Row:
    """Return the row of the program of `vae-jax train`: train.log_every steps in a dispatch, the state donated."""
    return Row(name, run, compile_program(run), functools.partial(_placed, run, images), run.config.train.log_every)


def _placed(run: Run, images: np.ndarray, key: jax.Array | None = None) -> tuple[Any, Any]:
    replicated = sharding.replicated(run.mesh)
    state = jax.jit(run.initial_state, out_shardings=run.state_shardings)(run.key)
    if key is not None:
        state = state._replace(key=jax.device_put(key, replicated))
    return state, jax.device_put(images, replicated)


def _eager(name: str, run: Run, images: np.ndarray) -> Row:
    """Return the row that dispatches every operation of a step separately, on one batch."""
    step, shape = build_step(run), images.shape[1:]
    batch_size, microbatches = run.config.train.batch_size, run.microbatches

    def call(state: Any, batch: Any, count: int) -> tuple[Any, Any]:
        metrics: Any = {}
        for _ in range(count):
            state, metrics = step(state, batch)
        return state, metrics

    def arguments() -> tuple[Any, Any]:
        batch = images[:batch_size]
        if microbatches > 1:
            batch = batch.reshape(microbatches, -1, *shape)
        return jax.jit(run.initial_state)(run.key), jnp.asarray(batch)

    return Row(name, run, call, arguments, EAGER_STEPS, donates=False, compiled=False)


def _not_donated(name: str, run: Run, images: np.ndarray) -> Row:
    """Return the row without donation: the old state stays in memory in addition to the new one."""
    return program_row(name, run, images)._replace(call=compile_program(run, donate=False), donates=False)


def _highest(name: str, run: Run, images: np.ndarray) -> Row:
    """Return the row with matrix products in the highest precision of the device."""
    program = build_program(run, sharding.place_batch(run.mesh))

    def precise(*arguments: Any) -> Any:
        with jax.default_matmul_precision("highest"):
            return program(*arguments)

    return program_row(name, run, images)._replace(call=compile_program(run, precise))


def _rbg(name: str, run: Run, images: np.ndarray) -> Row:
    """Return the row with random bits from XLA's RNG instead of Threefry."""
    key = jax.random.key(run.config.seed, impl="rbg")
    return program_row(name, run, images)._replace(arguments=functools.partial(_placed, run, images, key))


def _data_parallel_program(run: Run, size: int) -> Callable[..., Any]:
    """Return the program of each of `size` devices on its rows of a batch; gradients are averaged over the axis "data".

    Each device draws the noise of its rows, so the numbers are those of one device.
    """
    for setting, value in (("train.microbatches", run.microbatches), ("mesh.fsdp", run.config.mesh.fsdp)):
        if value > 1:
            raise InputError(f"{setting}={value} must be 1 for the variants shard-map and pmap")
    config, rows = run.config, run.config.train.batch_size // size
    loss = make_loss(run.training_model, config.objective, config.data, run.data["num_examples"])
    average = functools.partial(lax.pmean, axis_name="data")
    first_row = lambda: lax.axis_index("data") * rows  # noqa: E731

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        return run.optimizer.update(average(updates), state, params)

    optimizer = optax.GradientTransformation(run.optimizer.init, update)
    step = build_step(run, loss=loss, optimizer=optimizer, first_example=first_row)

    def averaged(state: Any, batch: Any) -> tuple[Any, Any]:
        state, metrics = step(state, batch)
        return state, average(metrics)

    return build_program(run, lambda batch: lax.dynamic_slice_in_dim(batch, first_row(), rows), step=averaged)


def _shard_map(name: str, run: Run, images: np.ndarray) -> Row:
    """Return the row that shards the batch by `jax.shard_map`."""
    replicated = PartitionSpec()
    program = sharding.shard_map_over_mesh(
        _data_parallel_program(run, run.mesh.size), run.mesh, in_specs=(replicated, replicated), out_specs=replicated
    )
    return program_row(name, run, images)._replace(call=compile_program(run, program))


def _pmap(name: str, run: Run, images: np.ndarray) -> Row:
    """Return the row that shards the batch by `jax.pmap`."""
    size, sharded = run.mesh.size, sharding.batch_sharding(run.mesh)
    mapped = jax.pmap(
        _data_parallel_program(run, size),
        axis_name="data",
        in_axes=(0, 0, None),
        static_broadcasted_argnums=2 if sharding.needs_static_step_count(run.mesh) else (),
        donate_argnums=0,
        devices=list(run.mesh.devices.flat),
    )

    def arguments() -> tuple[Any, Any]:
        repeat = jax.jit(lambda tree: jax.tree.map(lambda leaf: jnp.stack([leaf] * size), tree), out_shardings=sharded)
        return repeat(jax.jit(run.initial_state)(run.key)), repeat(images)

    return program_row(name, run, images)._replace(call=mapped, arguments=arguments)


Make = Callable[[str, Run, np.ndarray], Row]

# name: (settings that it changes, function that makes its row from the run with these settings)
_FIXED: dict[str, tuple[Mapping[str, Any], Make]] = {
    BASELINE: ({}, program_row),
    "per-step": ({"train__log_every": 1, "train__save_every": 1}, program_row),
    "eager": ({}, _eager),
    "not-donated": ({}, _not_donated),
    "highest": ({}, _highest),
    "bfloat16": ({"model__compute_dtype": "bfloat16"}, program_row),
    "rbg": ({}, _rbg),
    "no-binarization": ({"data__binarization": "none"}, program_row),
    "remat": ({"model__remat": True}, program_row),
}
# name-N: (setting that becomes N, function that makes its row)
_NUMBERED: dict[str, tuple[str, Make]] = {
    "devices": ("mesh__data", program_row),
    "shard-map": ("mesh__data", _shard_map),
    "pmap": ("mesh__data", _pmap),
    "microbatches": ("train__microbatches", program_row),
    "batch": ("train__batch_size", program_row),
    "samples": ("objective__num_samples", program_row),
    "width": ("model__hidden", program_row),  # all widths times N
}
DEFAULT = (
    *_FIXED,
    *(f"{kind}-{count}" for kind in ("devices", "shard-map", "pmap") for count in (1, 2, 4, 8)),
    "microbatches-4", "batch-512", "batch-2048", "width-2",
)  # fmt: skip
KNOWN = (*_FIXED, *(f"{kind}-N" for kind in _NUMBERED))


def check_names(names: list[str]) -> None:
    """Raise an error for an unknown variant.

    Args:
      names: The names of variants.

    Raises:
      InputError: If a name is unknown. The message lists the known ones and suggests a similar one.
    """
    for name in names:
        kind, _, count = name.rpartition("-")
        if name not in _FIXED and not (kind in _NUMBERED and count.isdigit() and int(count)):
            known = [*_FIXED, *(f"{kind}-{count}" for kind in _NUMBERED)] if count.isdigit() else KNOWN
            raise InputError(
                f"--variants={name} must be one of {', '.join(KNOWN)}, with a number for N{suggestion(name, known)}"
            )


def make_row(name: str, base: Run, images: np.ndarray) -> Row:
    """Return the row of a variant.

    Args:
      name: The name of the variant.
      base: The run that it varies.
      images: The training images, uint8 [N, H, W, C]. They are repeated if a batch is larger than N.

    Returns:
      The row.

    Raises:
      InputError: If this machine or model does not support the variant.
    """
    kind, _, count = name.rpartition("-")
    if name in _FIXED:
        settings, make = _FIXED[name]
    else:
        setting, make = _NUMBERED[kind]
        value = int(count)
        settings = {setting: tuple(value * width for width in base.config.model.hidden) if kind == "width" else value}
    run = override_run(base, **settings)
    _check_something_changes(name, base.config, run.config, settings)
    mesh = sharding.make_mesh(run.config.mesh.data, run.config.mesh.fsdp) if "mesh__data" in settings else base.mesh
    sharding.check_batch_size(run.config.train.batch_size // defaults.num_microbatches(run.config, mesh), mesh)
    if run.config.train.batch_size > len(images):
        images = np.resize(images, (run.config.train.batch_size, *images.shape[1:]))
    data = {**base.data, "num_examples": len(images)}
    run = dataclasses.replace(run, mesh=mesh, data=data)
    more_work = kind in _NUMBERED and "mesh__data" not in settings
    return make(name, _limit_dispatch(run, base) if more_work else run, images)


def _limit_dispatch(run: Run, base: Run) -> Run:
    """Return a run with so few steps in a dispatch, at least one, that it has no more work than that of `base`."""
    ratio = max(1.0, step_costs(run).flops / step_costs(base).flops)
    steps = max(1, round(base.config.train.log_every / ratio))
    return dataclasses.replace(run, config=validate(steps_only(run.config, log_every=steps)))


def _check_something_changes(name: str, base: Config, changed: Config, settings: Mapping[str, Any]) -> None:
    if settings and "mesh__data" not in settings and base == changed:
        raise InputError(f"the settings of this variant are those of {BASELINE}; remove it from --variants")
