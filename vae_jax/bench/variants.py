"""The rows of a benchmark: the program that trains a run, and small changes put on it from outside."""

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

from vae_jax import random
from vae_jax.bench.plan import override_run, step_costs
from vae_jax.config import Config, steps_only, suggestion, validate
from vae_jax.errors import InputError
from vae_jax.runs import Run, build_program, build_step, compile_program
from vae_jax.runtime import defaults, sharding
from vae_jax.training import make_loss

BASELINE = "program"
EAGER_STEPS = 2


class Row(NamedTuple):
    """One way to train: call(state, images, count) -> (state, metrics) makes `count` steps."""

    name: str
    run: Run  # whose settings it follows
    call: Callable[[Any, Any, int], tuple[Any, Any]]
    arguments: Callable[[], tuple[Any, Any]]  # a new (state, images), placed where `call` takes them
    steps: int  # in one dispatch
    donates: bool = True  # the state that is handed over is gone afterwards
    compiled: bool = True  # `call` is jitted


def program_row(name: str, run: Run, images: np.ndarray) -> Row:
    """The program that `vae-jax train` runs: train.log_every steps in a dispatch, the state donated."""
    return Row(name, run, compile_program(run), functools.partial(_placed, run, images), run.config.train.log_every)


def _placed(run: Run, images: np.ndarray, key: jax.Array | None = None) -> tuple[Any, Any]:
    everywhere = sharding.replicated(run.mesh)
    state = jax.jit(run.initial_state, out_shardings=run.state_shardings)(run.key)
    if key is not None:
        state = state._replace(key=jax.device_put(key, everywhere))
    return state, jax.device_put(images, everywhere)


def _eager(name: str, run: Run, images: np.ndarray) -> Row:
    """Every operation of the step dispatched by itself, on one batch."""
    step, shape = build_step(run), images.shape[1:]
    batch_size, parts = run.config.train.batch_size, run.microbatches

    def call(state: Any, batch: Any, count: int) -> tuple[Any, Any]:
        for _ in range(count):
            state, metrics = step(state, batch)
        return state, metrics

    def arguments() -> tuple[Any, Any]:
        batch = images[:batch_size]
        return jax.jit(run.initial_state)(run.key), jnp.asarray(
            batch.reshape(parts, -1, *shape) if parts > 1 else batch
        )

    return Row(name, run, call, arguments, EAGER_STEPS, donates=False, compiled=False)


def _not_donated(name: str, run: Run, images: np.ndarray) -> Row:
    """The state is left as it was, and the new one lies beside it."""
    return program_row(name, run, images)._replace(call=compile_program(run, donate=False), donates=False)


def _highest(name: str, run: Run, images: np.ndarray) -> Row:
    """Matrix products in the highest precision that the device has."""
    program = build_program(run, sharding.place_batch(run.mesh))

    def precise(*arguments: Any) -> Any:
        with jax.default_matmul_precision("highest"):
            return program(*arguments)

    return program_row(name, run, images)._replace(call=compile_program(run, precise))


def _rbg(name: str, run: Run, images: np.ndarray) -> Row:
    """Random bits from XLA's own generator in place of Threefry."""
    key = jax.random.key(run.config.seed, impl="rbg")
    return program_row(name, run, images)._replace(arguments=functools.partial(_placed, run, images, key))


def _by_rows(run: Run, size: int) -> Callable[..., Any]:
    """The program as each of `size` devices runs it on its rows of a batch, the gradients averaged by hand over "data".

    Each device draws the noise of its own rows, so the numbers are those of one device.
    """
    if run.microbatches > 1:
        raise InputError("train.microbatches: must be 1 for a batch that is split by hand")
    if run.config.mesh.fsdp > 1:
        raise InputError("mesh.fsdp: must be 1 for a batch that is split by hand")
    config, rows = run.config, run.config.train.batch_size // size
    own = make_loss(run.training_model, config.objective, config.data, run.data["num_examples"])
    average = functools.partial(lax.pmean, axis_name="data")
    first = lambda: lax.axis_index("data") * rows  # noqa: E731

    def loss(params: Any, key: Any, batch: Any, step: Any) -> Any:
        return own(params, random.RowsKey(key, first(), rows * size), batch, step)

    optimizer = optax.GradientTransformation(
        run.optimizer.init, lambda grads, *rest: run.optimizer.update(average(grads), *rest)
    )
    step = build_step(run, loss=loss, optimizer=optimizer)

    def averaged(state: Any, batch: Any) -> tuple[Any, Any]:
        state, metrics = step(state, batch)
        return state, average(metrics)

    return build_program(run, lambda batch: lax.dynamic_slice_in_dim(batch, first(), rows), step=averaged)


def _shard_map(name: str, run: Run, images: np.ndarray) -> Row:
    whole = PartitionSpec()
    program = sharding.shard_map_over_mesh(
        _by_rows(run, run.mesh.size), run.mesh, in_specs=(whole, whole), out_specs=whole
    )
    return program_row(name, run, images)._replace(call=compile_program(run, program))


def _pmap(name: str, run: Run, images: np.ndarray) -> Row:
    size, spread = run.mesh.size, sharding.batch_sharding(run.mesh)
    mapped = jax.pmap(
        _by_rows(run, size),
        axis_name="data",
        in_axes=(0, 0, None),
        static_broadcasted_argnums=2 if sharding.needs_static_step_count(run.mesh) else (),
        donate_argnums=0,
        devices=list(run.mesh.devices.flat),
    )

    def arguments() -> tuple[Any, Any]:
        repeat = jax.jit(lambda tree: jax.tree.map(lambda leaf: jnp.stack([leaf] * size), tree), out_shardings=spread)
        return repeat(jax.jit(run.initial_state)(run.key)), repeat(images)

    return program_row(name, run, images)._replace(call=mapped, arguments=arguments)


Make = Callable[[str, Run, np.ndarray], Row]

# name: (settings that it changes, how its row is made from the run that has them)
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
# name-N: (setting that becomes N, how its row is made)
_COUNTED: dict[str, tuple[str, Make]] = {
    "devices": ("mesh__data", program_row),
    "shard-map": ("mesh__data", _shard_map),
    "pmap": ("mesh__data", _pmap),
    "microbatches": ("train__microbatches", program_row),
    "batch": ("train__batch_size", program_row),
    "samples": ("objective__num_samples", program_row),
    "width": ("model__hidden", program_row),  # N times as wide
}
DEFAULT = (
    *_FIXED,
    *(f"{kind}-{count}" for kind in ("devices", "shard-map", "pmap") for count in (1, 2, 4, 8)),
    "microbatches-4", "batch-512", "batch-2048", "width-2",
)  # fmt: skip
KNOWN = (*_FIXED, *(f"{kind}-N" for kind in _COUNTED))


def check_names(names: list[str]) -> None:
    """Raises InputError for a variant that there is not."""
    for name in names:
        kind, _, count = name.rpartition("-")
        if name not in _FIXED and not (kind in _COUNTED and count.isdigit() and int(count)):
            known = [*_FIXED, *(f"{kind}-{count}" for kind in _COUNTED)] if count.isdigit() else KNOWN
            raise InputError(
                f"--variants={name} must be one of {', '.join(KNOWN)}, N a number{suggestion(name, known)}"
            )


def make_row(name: str, base: Run, images: np.ndarray) -> Row:
    """The row of a variant of `base`; raises InputError, in one line, where this machine or model cannot have it.

    Images are repeated where a batch would be larger than all of them.
    """
    kind, _, count = name.rpartition("-")
    if name in _FIXED:
        settings, make = _FIXED[name]
    else:
        setting, make = _COUNTED[kind]
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
    sized = kind in _COUNTED and "mesh__data" not in settings
    return make(name, _in_dispatches_no_larger(run, base) if sized else run, images)


def _in_dispatches_no_larger(run: Run, base: Run) -> Run:
    """`run` with so few steps in a dispatch, at least one, that they are no more work than the dispatch of `base`."""
    more = max(1.0, step_costs(run).flops / step_costs(base).flops)
    steps = max(1, round(base.config.train.log_every / more))
    return dataclasses.replace(run, config=validate(steps_only(run.config, log_every=steps)))


def _check_something_changes(name: str, base: Config, changed: Config, settings: Mapping[str, Any]) -> None:
    if settings and "mesh__data" not in settings and base == changed:
        raise InputError(f"the settings are those of {BASELINE} already")
