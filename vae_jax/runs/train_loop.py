"""The training loop around a compiled program, for one model or for the members of a sweep."""

import contextlib
import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import jax
from jax import Array

from vae_jax.errors import NotFiniteError
from vae_jax.inference import Metrics, Params
from vae_jax.runs.callbacks import default_callbacks
from vae_jax.runs.changes import describe_changes
from vae_jax.runs.config_file import write_config
from vae_jax.runs.experiment.experiment import Experiment
from vae_jax.runs.experiment.programs import (
    Data,
    compile_program,
    has_fixed_count,
    is_streamed,
    place_initial_state,
    profile_to,
)
from vae_jax.runs.input_pipeline import NextData, open_input_pipeline
from vae_jax.runs.opening import check_experiment
from vae_jax.runs.pace import Pace
from vae_jax.runs.restoring import restore
from vae_jax.runs.storage.checkpoints import Checkpoints
from vae_jax.runs.storage.checksums import flatten_mapping
from vae_jax.runs.storage.directory import RunDirectory
from vae_jax.runs.training_run import Callback, Dispatch, TrainingRun, steps_to_dispatch
from vae_jax.runtime import Placement, atomic_files, lock, multihost
from vae_jax.training import TrainState


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """The result of `fit`.

    Attributes:
      state: the last state.
      params: its parameters for evaluation.
      step: the number of steps of the run so far.
      status: "done", "stopped early" or "interrupted".
      resumed_from: the step that was restored; None for a new run.
      trained_steps: the number of steps of this call.
    """

    state: TrainState
    params: Params
    step: int
    status: str
    resumed_from: int | None
    trained_steps: int


class CompiledTraining(Protocol):
    """A compiled program with the state that it trains: of one model, or of the members of a sweep.

    `fixed_count` is true if each number of steps is a separate program.
    """

    state: TrainState
    fixed_count: bool

    def __call__(self, state: TrainState, data: Data, count: int) -> tuple[TrainState, Metrics]:
        """Return the state after `count` steps, and their metrics."""
        ...


@dataclasses.dataclass
class Compiled:
    """The compiled program of one model, and its state.

    Attributes:
      program: (state, data, number of steps) -> (state, metrics).
      state: the state, whose buffers the program reuses.
      fixed_count: whether each number of steps is a separate program.
    """

    program: Callable[[TrainState, Data, Array | int], tuple[TrainState, Metrics]]
    state: TrainState
    fixed_count: bool

    def __call__(self, state: TrainState, data: Data, count: int) -> tuple[TrainState, Metrics]:
        """Return the state after `count` steps, and their metrics."""
        return self.program(state, data, count)


def fit(
    experiment: Experiment,
    directory: str | os.PathLike | RunDirectory,
    placement: Placement | None = None,
    callbacks: Sequence[Callback] | None = None,
    *,
    allow_change: Sequence[str] = (),
    profile: Path | None = None,
) -> TrainResult:
    """Train an experiment until its last step, or until a callback stops it; its files are written to a directory.

    Training resumes from the newest checkpoint if there is one: the same call after an interruption ends in the same
    bits as without it. With several processes all of them make the same call.

    Args:
      experiment: what is trained.
      directory: the run's directory.
      placement: the devices; None for all devices.
      callbacks: what happens besides the steps; None for `default_callbacks()`.
      allow_change: settings that may differ from those of the stored run.
      profile: a folder for a trace of one dispatch, see `profile_to`.

    Returns:
      The trained state, and how the training has ended.

    Raises:
      NotFiniteError: a loss, gradient or parameter is not finite.
      InputError: settings or data differ from the stored run or between processes, or the run has already more steps
        than train.steps.
      CheckpointError: no checkpoint can be used.
      StorageError: a checkpoint cannot be written.
      LockedError: another process trains in the same directory.
    """
    directory, placement = RunDirectory(directory), Placement() if placement is None else placement
    changes = multihost.run_on_all(
        lambda: check_experiment(experiment, directory, placement, allow_change=allow_change)
    )
    with contextlib.ExitStack() as stack:
        _check_same_run(experiment)
        multihost.run_on_primary(lambda: stack.enter_context(lock.run_lock(directory.path)))
        checkpoints = stack.enter_context(Checkpoints(directory.path))
        compiled, run = _start(experiment, directory, placement, checkpoints, changes)
        run.callbacks = tuple(default_callbacks() if callbacks is None else callbacks)
        write_config(directory, experiment, changes, first_step=run.first_step)
        next_data = stack.enter_context(open_input_pipeline(experiment, placement, first_step=run.first_step))
        train([run], compiled, next_data, profile=profile)
    status = run.stop_reason if run.stop_reason and not run.is_last else "done"
    params = experiment.evaluation_params(compiled.state)
    resumed_from = run.first_step if run.resumed else None
    return TrainResult(compiled.state, params, run.step, status, resumed_from, run.step - run.first_step)


def _start(
    experiment: Experiment,
    directory: RunDirectory,
    placement: Placement,
    checkpoints: Checkpoints,
    changes: Sequence[dict[str, Any]],
) -> tuple[Compiled, TrainingRun]:
    """Return the compiled program with the restored or the initial state, and the run at its step."""
    restored = restore(experiment, checkpoints, placement, changed={change["setting"] for change in changes})
    if any("step" not in change for change in changes):
        atomic_files.remove(directory.evaluation)  # the same weights can have other numbers with other settings
    state = place_initial_state(experiment, placement) if restored is None else restored.state
    first_step = 0 if restored is None else restored.step
    notes = describe_changes(changes, experiment.description(), first_step)
    compiled = Compiled(compile_program(experiment, placement), state, has_fixed_count(experiment, placement))
    run = TrainingRun(
        experiment, directory, placement, checkpoints,
        first_step=first_step, state=lambda: compiled.state, resumed=restored is not None,
        notes=(*(restored.notes if restored else ()), *notes), metrics=restored.metrics if restored else None,
    )  # fmt: skip
    return compiled, run


def _check_same_run(experiment: Experiment) -> None:
    """Check that all processes have the same settings and examples; data.data_dir and data.name may differ."""
    location = ("data.data_dir", "data.name")
    settings = {path: value for path, value in experiment.description().items() if path not in location}
    facts = flatten_mapping({"data": experiment.data}) | {"examples streamed": is_streamed(experiment)}
    multihost.check_equal_across_processes(settings | facts)


def train(
    runs: Sequence[TrainingRun],
    compiled: CompiledTraining,
    next_data: NextData,
    *,
    profile: Path | None = None,
    on_failure: Callable[[TrainingRun, NotFiniteError], None] | None = None,
) -> None:
    """Dispatch steps until the last one, or until a callback stops the training.

    The metrics of a dispatch are read while the devices compute the next one. The callbacks act every
    `train.log_every` steps, and where these take too long for one dispatch, after each dispatch.

    Args:
      runs: the models that the program trains, all at the same step.
      compiled: the program and the state.
      next_data: number of steps -> the data of the dispatch.
      profile: a folder for a trace of one dispatch, after those whose time is measured if there are more.
      on_failure: receives a model that is not finite and its error, and the others continue; None raises the error.
    """
    active = list(runs)
    first_step, training = runs[0].step, runs[0].experiment.training
    pace, each = Pace(fixed=compiled.fixed_count), functools.partial(_for_each, active, on_failure)
    with contextlib.ExitStack() as stack:
        for run in runs:
            _start_callbacks(run, stack)
        for run in runs:
            for callback in run.callbacks:
                callback.on_ready(run)
        step = end = first_step
        while step < training.steps and active and not any(run.stop_reason for run in active):
            if step == end:
                end += steps_to_dispatch(training.log_every, training.steps, step)
            count = pace.steps(end - step)
            data = next_data(count)
            if profile and (step + count == training.steps or (step > first_step and not pace.measures)):
                each(TrainingRun.read)
                metrics = _dispatch_profiled(compiled, data, count, profile)
                profile = None
            else:
                compiled.state, metrics = pace.dispatch(compiled, compiled.state, data, count)
            each(TrainingRun.read)  # the metrics of the previous dispatch, while the devices compute this one
            dispatch, step = Dispatch(step, count, metrics), step + count
            each(lambda run, dispatch=dispatch: run.dispatched(dispatch))
            if slow := pace.is_slow(training.log_every):
                each(TrainingRun.read)  # waits: a signal to stop does not find a second dispatch under way
            if step == end or slow:
                each(_call_callbacks)
        each(TrainingRun.read)


def _for_each(
    active: list[TrainingRun],
    on_failure: Callable[[TrainingRun, NotFiniteError], None] | None,
    action: Callable[[TrainingRun], None],
) -> None:
    """Apply an action to each model; one that is not finite is removed, and `on_failure` receives it and its error."""
    for run in tuple(active):
        try:
            action(run)
        except NotFiniteError as error:
            if on_failure is None:
                raise
            active.remove(run)
            on_failure(run, error)


def _dispatch_profiled(compiled: CompiledTraining, data: Data, count: int, folder: Path) -> Metrics:
    """Dispatch steps and wait for them, with a trace in a folder."""
    with profile_to(folder):
        compiled.state, metrics = jax.block_until_ready(compiled(compiled.state, data, count))
    return metrics


def _start_callbacks(run: TrainingRun, stack: contextlib.ExitStack) -> None:
    for callback in run.callbacks:
        callback.on_start(run)
        stack.callback(callback.on_end, run)


def _call_callbacks(run: TrainingRun) -> None:
    for callback in run.callbacks:
        callback.on_steps(run)
    for callback in run.callbacks:
        callback.after_steps(run)
