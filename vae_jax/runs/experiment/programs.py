"""The compiled programs of an experiment: its training step, many steps in one program, and traces of them."""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import optax
from jax import Array
from jax.sharding import NamedSharding

from vae_jax.data import Records
from vae_jax.inference import Metrics
from vae_jax.runs.experiment.experiment import Experiment, max_skips, with_data_of
from vae_jax.runs.experiment.labels import num_classes
from vae_jax.runs.experiment.program_cache import cache_on_experiment
from vae_jax.runtime import Placement, defaults
from vae_jax.training import Loss, Step, TrainState, make_train_step, train_steps

Data = Mapping[str, Array]  # the training examples, or the batches of one dispatch
LONG_DISPATCH = 5.0  # seconds
GPU_LATENCY = 5e-4  # seconds of the smallest step
GPU_OPERATIONS_PER_SECOND = 1e13  # of a slow GPU in float32
Program = Callable[[TrainState, Data, Array | int], tuple[TrainState, Metrics]]


def num_microbatches(experiment: Experiment, placement: Placement) -> int:
    """Return the number of microbatches of a step: train.microbatches, or the number that suits the devices.

    A model with a classifier decodes each sample once for each class.
    """
    parts = experiment.objective, experiment.model
    unknown = (None, False)  # a plain function may compare examples; a model does so if it states it
    compares = [getattr(part, "compares_examples", default) for part, default in zip(parts, unknown, strict=True)]
    classes = num_classes(experiment.model) if hasattr(experiment.model, "classify") else None
    return defaults.num_microbatches(
        experiment.training.microbatches,
        batch_size=experiment.training.batch_size,
        num_samples=experiment.num_samples * (classes or 1),
        divisible=compares == [False, False],
        mesh=placement.mesh,
    )


def is_streamed(experiment: Experiment) -> bool:
    """Return whether training streams its examples from disk."""
    return isinstance(experiment.training_data, Records)


def data_shapes(experiment: Experiment, placement: Placement) -> dict[str, jax.ShapeDtypeStruct]:
    """Return the shapes of the data argument of the training program, with their shardings.

    All examples, [N, ...] each, or for streamed data the batches of one dispatch: [log_every, B, ...], or with M > 1
    microbatches [log_every, M, B/M, ...].
    """
    lead, sharding = _data_layout(experiment, placement)
    spec = experiment.training_data.spec
    return {name: jax.ShapeDtypeStruct((*lead, *s.shape), s.dtype, sharding=sharding) for name, s in spec.items()}


def _data_layout(experiment: Experiment, placement: Placement) -> tuple[tuple[int, ...], NamedSharding]:
    training, microbatches = experiment.training, num_microbatches(experiment, placement)
    if not is_streamed(experiment):
        return (len(experiment.training_data),), placement.replicated
    parts = (microbatches,) if microbatches > 1 else ()
    return (training.log_every, *parts, training.batch_size // microbatches), placement.steps(microbatches)


def state_shapes(experiment: Experiment, placement: Placement) -> TrainState:
    """Return the shapes of the training state, with their shardings."""
    shapes = experiment.abstract_state
    shardings = placement.state(shapes)
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)


def place_initial_state(experiment: Experiment, placement: Placement) -> TrainState:
    """Return the state before the first step, made on the devices that hold it."""
    shardings = placement.state(experiment.abstract_state)
    return jax.jit(experiment.initial_state, out_shardings=shardings)(experiment.key, experiment.data_mean())


def build_step(
    experiment: Experiment,
    placement: Placement,
    *,
    loss: Loss | None = None,
    optimizer: optax.GradientTransformation | None = None,
    first_example: Callable[[], int | Array] = lambda: 0,
) -> Step:
    """Return the training step: a pure function step(state, batch) -> (state, metrics), not jitted.

    Args:
      experiment: the experiment.
      placement: the devices, for the number of microbatches and for sharded parameters.
      loss: replaces the loss of the experiment.
      optimizer: replaces its optimizer.
      first_example: see `make_train_step`.
    """
    return make_train_step(
        placement.gather_params(loss or experiment.loss()),
        optimizer or experiment.optimizer,
        ema_decay=experiment.training.ema_decay,
        max_skips=max_skips(experiment.training),
        microbatches=num_microbatches(experiment, placement),
        first_example=first_example,
        schedule=experiment.schedule,
    )


def build_program(
    experiment: Experiment,
    placement: Placement,
    place_batch: Callable[[Any], Any] = lambda batch: batch,
    *,
    step: Step | None = None,
) -> Program:
    """Return many steps: a pure function program(state, data, num_steps) -> (state, metrics), not jitted.

    Args:
      experiment: the experiment.
      placement: the devices.
      place_batch: called inside the program with each batch; constrains its sharding.
      step: replaces the training step.

    Returns:
      `train_steps` with the settings of the experiment; its metrics have shape [train.log_every].
    """
    return functools.partial(
        train_steps,
        step=step or build_step(experiment, placement),
        batch_size=experiment.training.batch_size,
        max_steps=experiment.training.log_every,
        microbatches=num_microbatches(experiment, placement),
        streamed=is_streamed(experiment),
        labelled=experiment.labelled,
        place_batch=place_batch,
    )


def has_fixed_count(experiment: Experiment, placement: Placement, *, models: int = 1) -> bool:
    """Return whether a program is compiled for each number of steps separately, see `Placement.static_step_count`.

    It is not if `train.log_every` steps may take longer than `LONG_DISPATCH` on the devices. Then one program for any
    number of steps loses less time than a step takes, and a dispatch can be shortened.

    Args:
      experiment: the experiment.
      placement: the devices.
      models: how many of its kind a device trains at once.
    """
    seconds = models * experiment.training.log_every * seconds_of_step(experiment)
    return placement.static_step_count and seconds < LONG_DISPATCH


def seconds_of_step(experiment: Experiment) -> float:
    """Return a high estimate of the time of a step on a GPU, from the size of the weights, the batch and the images.

    A weight takes part in at most 6 operations for each sample of each example, and a weight of a convolution in as
    many for each position of an image.
    """
    positions = math.prod(experiment.shape[:2]) if len(experiment.shape) > 2 else 1
    leaves = jax.tree.leaves(experiment.abstract_state.params)
    weights = sum(leaf.size * (positions if len(leaf.shape) == 4 else 1) for leaf in leaves)
    operations = 6 * weights * experiment.training.batch_size * experiment.num_samples
    return GPU_LATENCY + operations / GPU_OPERATIONS_PER_SECOND


@cache_on_experiment  # so that a program that `vae_jax.bench` has traced is not traced again
def compile_program(
    experiment: Experiment, placement: Placement, program: Program | None = None, *, donate: bool = True
) -> Program:
    """Return a program, jitted with the shardings of its devices.

    If `has_fixed_count`, the program is compiled once for each number of steps: that of a full dispatch,
    and that of a shorter last dispatch.

    Args:
      experiment: the experiment.
      placement: the devices.
      program: replaces the `build_program` of the experiment.
      donate: whether the buffers of the state are donated.
    """
    replicated, static = placement.replicated, has_fixed_count(experiment, placement)
    state = placement.state(experiment.abstract_state)
    _, data = _data_layout(experiment, placement)
    run = program or build_program(experiment, placement, placement.place_batch)

    def train_steps(state: TrainState, data: Data, num_steps: Array | int) -> tuple[TrainState, Metrics]:
        return run(state, data, num_steps)

    return jax.jit(
        train_steps,  # not a partial: JAX keeps its signature, and with that the experiment in its keywords
        static_argnums=2 if static else (),
        donate_argnums=0 if donate else (),
        in_shardings=(state, data, *(() if static else (replicated,))),
        out_shardings=(state, replicated),
        compiler_options=placement.compiler_options,
    )


def with_training(experiment: Experiment, **fields: Any) -> Experiment:
    """Return an experiment with other fields of its `TrainConfig`, such as `batch_size`; its config changes too.

    Args:
      experiment: the experiment.
      **fields: the new values, not validated.
    """
    training, config = dataclasses.replace(experiment.training, **fields), experiment.config
    changed = None if config is None else dataclasses.replace(config, train=training)
    return with_data_of(dataclasses.replace(experiment, training=training, config=changed), experiment)


@contextlib.contextmanager
def profile_to(directory: Path | None) -> Iterator[None]:
    """Trace the host and the devices while the context is open.

    The trace is written to plugins/profile/DATE/ in `directory`: perfetto_trace.json.gz for Perfetto, and *.xplane.pb
    for TensorBoard.

    Args:
      directory: the folder; None traces nothing.
    """
    if directory is None:
        yield
        return
    with jax.profiler.trace(directory, create_perfetto_trace=True):
        yield
