"""The rows of a benchmark: the training program of an experiment, and variants that change one thing."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax
from jax.sharding import PartitionSpec

from vae_jax.bench.plan import step_costs
from vae_jax.config import apply_overrides, flatten, suggestion, validate
from vae_jax.data import ArraySource
from vae_jax.errors import InputError
from vae_jax.runs import (
    Experiment,
    build_experiment,
    build_program,
    build_step,
    compile_program,
    num_microbatches,
    place_initial_state,
    with_training,
)
from vae_jax.runtime import Placement, sharding

BASELINE = "program"
EAGER_STEPS = 2


class Row(NamedTuple):
    """One way to train.

    Attributes:
      name: the name of the variant.
      experiment: what is trained, with the settings of the variant.
      placement: the devices.
      call: a function call(state, data, count) -> (state, metrics) that trains `count` steps.
      arguments: returns a new (state, data), placed on the devices as `call` needs them.
      steps: the number of steps in one dispatch.
      donates: whether `call` donates the state.
      compiled: whether `call` is jitted.
    """

    name: str
    experiment: Experiment
    placement: Placement
    call: Callable[[Any, Any, int], tuple[Any, Any]]
    arguments: Callable[[], tuple[Any, Any]]
    steps: int
    donates: bool = True
    compiled: bool = True


def program_row(name: str, experiment: Experiment, placement: Placement) -> Row:
    """Return the row of the program of `vae-jax train`: train.log_every steps in a dispatch, the state donated."""
    arguments = functools.partial(_placed, experiment, placement)
    call, steps = compile_program(experiment, placement), experiment.training.log_every
    return Row(name, experiment, placement, call, arguments, steps)


def _placed(experiment: Experiment, placement: Placement, key: Array | None = None) -> tuple[Any, Any]:
    state = place_initial_state(experiment, placement)
    if key is not None:
        state = state._replace(key=jax.device_put(key, placement.replicated))
    return state, jax.device_put(experiment.training_data.read_all(), placement.replicated)


def _initial_state(experiment: Experiment) -> Any:
    """Return the state before the first step on one device."""
    return jax.jit(experiment.initial_state)(experiment.key, experiment.data_mean())


def _eager(name: str, experiment: Experiment, placement: Placement) -> Row:
    """Return the row that dispatches every operation of a step separately, on one batch."""
    step, microbatches = build_step(experiment, placement), num_microbatches(experiment, placement)

    def call(state: Any, batch: Any, count: int) -> tuple[Any, Any]:
        metrics: Any = {}
        for _ in range(count):
            state, metrics = step(state, batch)
        return state, metrics

    def arguments() -> tuple[Any, Any]:
        batch = experiment.training_data.read(np.arange(experiment.training.batch_size))
        if microbatches > 1:
            batch = {n: array.reshape(microbatches, -1, *array.shape[1:]) for n, array in batch.items()}
        return _initial_state(experiment), jax.tree.map(jnp.asarray, batch)

    return Row(name, experiment, placement, call, arguments, EAGER_STEPS, donates=False, compiled=False)


def _not_donated(name: str, experiment: Experiment, placement: Placement) -> Row:
    """Return the row without donation: the old state stays in memory in addition to the new one."""
    call = compile_program(experiment, placement, donate=False)
    return program_row(name, experiment, placement)._replace(call=call, donates=False)


def _highest(name: str, experiment: Experiment, placement: Placement) -> Row:
    """Return the row with matrix products in the highest precision of the device."""
    program = build_program(experiment, placement, placement.place_batch)

    def precise(*arguments: Any) -> Any:
        with jax.default_matmul_precision("highest"):
            return program(*arguments)

    row = program_row(name, experiment, placement)
    return row._replace(call=compile_program(experiment, placement, precise))


def _rbg(name: str, experiment: Experiment, placement: Placement) -> Row:
    """Return the row with random bits from XLA's RNG instead of Threefry."""
    key = jax.random.key(experiment.seed, impl="rbg")
    arguments = functools.partial(_placed, experiment, placement, key)
    return program_row(name, experiment, placement)._replace(arguments=arguments)


def _data_parallel_program(experiment: Experiment, placement: Placement) -> Callable[..., Any]:
    """Return the program of each device on its rows of a batch; gradients are averaged over the axis "data".

    Each device draws the noise of its rows, so the numbers are those of one device.
    """
    sizes = {
        "train.microbatches": num_microbatches(experiment, placement),
        "mesh.fsdp": placement.mesh.shape["fsdp"],
    }
    for setting, value in sizes.items():
        if value > 1:
            raise InputError(f"{setting}={value} must be 1 for the variants shard-map and pmap")
    rows = experiment.training.batch_size // placement.mesh.size
    average = functools.partial(lax.pmean, axis_name="data")
    first_row = lambda: lax.axis_index("data") * rows  # noqa: E731

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        return experiment.optimizer.update(average(updates), state, params)

    optimizer = optax.GradientTransformation(experiment.optimizer.init, update)
    step = build_step(experiment, placement, optimizer=optimizer, first_example=first_row)

    def average_floats(leaf: Array) -> Array:
        return average(leaf) if jnp.issubdtype(leaf.dtype, jnp.inexact) else leaf

    def averaged(state: Any, batch: Any) -> tuple[Any, Any]:
        state, metrics = step(state, batch)
        return state._replace(statistics=jax.tree.map(average_floats, state.statistics)), average(metrics)

    def rows_of_device(batch: Any) -> Any:
        return jax.tree.map(lambda array: lax.dynamic_slice_in_dim(array, first_row(), rows), batch)

    return build_program(experiment, placement, rows_of_device, step=averaged)


def _shard_map(name: str, experiment: Experiment, placement: Placement) -> Row:
    """Return the row that shards the batch by `jax.shard_map`."""
    replicated, mesh = PartitionSpec(), placement.mesh
    program = _data_parallel_program(experiment, placement)
    program = sharding.shard_map_over_mesh(program, mesh, in_specs=(replicated, replicated), out_specs=replicated)
    row = program_row(name, experiment, placement)
    return row._replace(call=compile_program(experiment, placement, program))


def _pmap(name: str, experiment: Experiment, placement: Placement) -> Row:
    """Return the row that shards the batch by `jax.pmap`."""
    size, sharded = placement.mesh.size, placement.batch
    mapped = jax.pmap(
        _data_parallel_program(experiment, placement),
        axis_name="data",
        in_axes=(0, 0, None),
        static_broadcasted_argnums=2 if placement.static_step_count else (),
        donate_argnums=0,
        devices=list(placement.mesh.devices.flat),
    )

    def arguments() -> tuple[Any, Any]:
        repeat = jax.jit(lambda tree: jax.tree.map(lambda leaf: jnp.stack([leaf] * size), tree), out_shardings=sharded)
        return repeat(_initial_state(experiment)), repeat(experiment.training_data.read_all())

    return program_row(name, experiment, placement)._replace(call=mapped, arguments=arguments)


Make = Callable[[str, Experiment, Placement], Row]

DEVICES = "mesh.data"  # the setting of which the variants change the placement, not the experiment
WIDTHS = "network.hidden"
# name: (settings that it changes, function that makes its row from the experiment with these settings). A model whose
# layers are no network has settings of the same names, such as model.remat of a ladder.
_FIXED: dict[str, tuple[Mapping[str, Any], Make]] = {
    BASELINE: ({}, program_row),
    "per-step": ({"train.log_every": 1, "train.save_every": 1}, program_row),
    "eager": ({}, _eager),
    "not-donated": ({}, _not_donated),
    "highest": ({}, _highest),
    "bfloat16": ({"network.compute_dtype": "bfloat16"}, program_row),
    "rbg": ({}, _rbg),
    "no-binarization": ({"preprocess": "scale"}, program_row),
    "remat": ({"network.remat": True}, program_row),
}
# name-N: (setting that becomes N, function that makes its row)
_NUMBERED: dict[str, tuple[str, Make]] = {
    "devices": (DEVICES, program_row),
    "shard-map": (DEVICES, _shard_map),
    "pmap": (DEVICES, _pmap),
    "microbatches": ("train.microbatches", program_row),
    "batch": ("train.batch_size", program_row),
    "samples": ("objective.num_samples", program_row),
    "width": (WIDTHS, program_row),  # all widths times N
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
      names: the names of variants.

    Raises:
      InputError: a name is unknown. The message lists the known ones and suggests a similar one.
    """
    for name in names:
        kind, _, count = name.rpartition("-")
        if name not in _FIXED and not (kind in _NUMBERED and count.isdigit() and int(count)):
            known = [*_FIXED, *(f"{kind}-{count}" for kind in _NUMBERED)] if count.isdigit() else KNOWN
            raise InputError(
                f"--variants={name} must be one of {', '.join(KNOWN)}, with a number for N{suggestion(name, known)}"
            )


def make_row(name: str, base: Experiment, placement: Placement) -> Row:
    """Return the row of a variant.

    Args:
      name: the name of the variant.
      base: the experiment that it varies, with its training examples in memory. They are repeated if a batch is larger
        than their number.
      placement: the devices of `base`.

    Returns:
      The row.

    Raises:
      InputError: this machine or experiment does not support the variant.
    """
    kind, _, count = name.rpartition("-")
    if name in _FIXED:
        settings, make = _FIXED[name]
    else:
        setting, make = _NUMBERED[kind]
        settings = _wider(base, int(count)) if setting == WIDTHS else {setting: int(count)}
    if DEVICES in settings:
        experiment = base
        placement = Placement(sharding.make_mesh(int(count), placement.mesh.shape["fsdp"]))
    else:
        experiment = with_settings(base, {_path_in(base, path): value for path, value in settings.items()})
    size, parts = experiment.training.batch_size, num_microbatches(experiment, placement)
    if size % parts:
        raise InputError(f"train.microbatches={parts} must be a divisor of train.batch_size={size}")
    sharding.check_batch_size(size // parts, placement.mesh)
    if size > len(experiment.training_data):
        experiment = _repeat_examples(experiment, size)
    if kind in _NUMBERED and DEVICES not in settings:
        experiment = _limit_dispatch(experiment, base, placement)
    return make(name, experiment, placement)


def _path_in(base: Experiment, path: str) -> str:
    """Return the path of a setting of the network, or that of the model if its layers are no network."""
    name = path.removeprefix("network.")
    config = base.config
    if config is None or "network" in config.model.parts or not hasattr(config.model, name):
        return path
    return f"model.{name}"


def _wider(base: Experiment, factor: int) -> dict[str, tuple[int, ...]]:
    """Return the widths of the network, or of the model, times a factor; () without a network that has widths."""
    found = {} if base.config is None else flatten(base.config)
    of_model = [path for path in ("model.channels", "model.bottleneck") if path in found]
    return {path: tuple(factor * width for width in found.get(path, ())) for path in of_model or [WIDTHS]}


def with_settings(base: Experiment, settings: Mapping[str, Any]) -> Experiment:
    """Return an experiment with other settings, on the same examples.

    Args:
      base: the experiment.
      settings: {"section.field": value}, and {"section": name} for a choice.

    Returns:
      The experiment. Settings of `train` and the number of samples need no config.

    Raises:
      InputError: the config does not permit a value or has it already, or there is no config.
    """
    training = {path.removeprefix("train."): value for path, value in settings.items() if path.startswith("train.")}
    if len(training) == len(settings):
        changed = with_training(base, **training) if training else base
        if changed.config is not None:
            validate(changed.config)
    elif base.config is not None:
        config = apply_overrides(base.config, settings)
        changed = build_experiment(config, source=base.source, training_data=base.training_data)
    elif set(settings) == {"objective.num_samples"}:
        changed = dataclasses.replace(base, num_samples=settings["objective.num_samples"])
    else:
        raise InputError(
            f"{', '.join(settings)} cannot be changed in an experiment that is made by hand; build it from a config"
        )
    if settings and changed.description() == base.description():
        raise InputError(f"the settings of this variant are those of {BASELINE}; remove it from --variants")
    return changed


def _repeat_examples(experiment: Experiment, count: int) -> Experiment:
    """Return an experiment with `count` examples, its examples repeated."""
    arrays = {n: np.resize(a, (count, *a.shape[1:])) for n, a in experiment.training_data.read_all().items()}
    return dataclasses.replace(experiment, source=ArraySource({"train": arrays}, experiment.kind, holdout=0))


def _limit_dispatch(experiment: Experiment, base: Experiment, placement: Placement) -> Experiment:
    """Return an experiment with so few steps in a dispatch, at least one, that it has no more work than `base`."""
    ratio = max(1.0, step_costs(experiment, placement).flops / step_costs(base, placement).flops)
    steps = max(1, round(base.training.log_every / ratio))
    return with_training(experiment, log_every=steps, save_every=steps, evaluate_every=0, patience=0)
