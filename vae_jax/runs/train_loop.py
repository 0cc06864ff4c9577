"""The training loop around the compiled program: when to dispatch, validate, save and stop."""

import contextlib
import dataclasses
from collections.abc import Callable
from pathlib import Path

import jax

from vae_jax.config import flatten
from vae_jax.data import mean_image
from vae_jax.runs.changes import describe_changes
from vae_jax.runs.checkpoints import Checkpoints
from vae_jax.runs.config_file import write_config
from vae_jax.runs.input_pipeline import Images, NextImages, open_input_pipeline
from vae_jax.runs.loggers import NullLogger
from vae_jax.runs.programs import compile_program, profile_to
from vae_jax.runs.progress import Progress
from vae_jax.runs.recorder import Recorder, steps_to_dispatch
from vae_jax.runs.restoring import restore
from vae_jax.runs.run import Run
from vae_jax.runtime import lock, multihost
from vae_jax.training import TrainState


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """The result of `fit`.

    Attributes:
      state: the last state.
      step: the number of steps of the run so far.
      status: "done", "stopped early" or "interrupted".
      resumed_from: the step that was restored; None for a new run.
      trained_steps: the number of steps of this call.
    """

    state: TrainState
    step: int
    status: str
    resumed_from: int | None
    trained_steps: int


def fit(
    run: Run, images: Images, *, stop: Callable[[], bool] = lambda: False, profile: Path | None = None
) -> TrainResult:
    """Train a run until its last step, until its validation bound stops improving, or until `stop()` returns True.

    Training resumes from the newest checkpoint if there is one. With several processes all of them make the same call,
    each with all images.

    Args:
      run: the run, as `prepare_run` returns it.
      images: its training images: an array, or the `Records` that are streamed.
      stop: polled after each dispatch; a True saves the state and ends the training.
      profile: a folder for a trace of the second dispatch, or of the only one; see `profile_to`.

    Raises:
      NotFiniteError: a loss, gradient or parameter is not finite.
      InputError: the processes have different settings or images, or the run has already more steps than train.steps.
      CheckpointError: no checkpoint can be used.
      StorageError: a checkpoint cannot be written.
      LockedError: another process trains in the same directory.
    """
    with contextlib.ExitStack() as stack:
        _check_same_run(run)
        multihost.run_on_primary(lambda: stack.enter_context(lock.run_lock(run.directory)))
        checkpoints = stack.enter_context(Checkpoints(run.directory))
        restored = restore(run, checkpoints)
        if restored is None:
            average = mean_image(images, binarization=run.config.data.binarization)
            state = jax.jit(run.initial_state, out_shardings=run.state_shardings)(run.key, average)
        else:
            state = restored.state
        first_step = 0 if restored is None else restored.step
        recorder = Recorder(run, checkpoints, first_step=first_step)
        write_config(run, first_step=first_step)
        progress = NullLogger()
        if multihost.is_primary():
            progress = Progress(
                run.config.train.steps, images_per_step=run.config.train.batch_size, initial_step=first_step
            )
        with progress, recorder.writing(progress):
            for note in (*(restored.notes if restored else ()), *describe_changes(run, first_step)):
                progress.print(note)
            next_images = stack.enter_context(open_input_pipeline(run, images, first_step=first_step))
            state, status = _train(recorder, state, next_images, stop, profile)
    return TrainResult(state, recorder.step, status, restored.step if restored else None, recorder.step - first_step)


def _check_same_run(run: Run) -> None:
    """Check that all processes have the same settings and images; data.data_dir and data.name may differ."""
    location = ("data.data_dir", "data.name")
    settings = {path: value for path, value in flatten(run.config).items() if path not in location}
    facts = {f"data.{name}": value for name, value in run.data.items()} | {"images streamed": run.streamed}
    multihost.check_equal_across_processes(settings | facts)


def _train(
    recorder: Recorder, state: TrainState, next_images: NextImages, stop: Callable[[], bool], profile: Path | None
) -> tuple[TrainState, str]:
    """Run the program until the end of the training; return the state and the status."""
    program, config, first_step = compile_program(recorder.run), recorder.config, recorder.step
    if recorder.step < config.steps and not recorder.should_stop_early():
        recorder.begin()
        if stop():  # requested while the data were prepared: there is nothing to save yet
            return state, "interrupted"
    while recorder.step < config.steps and not recorder.should_stop_early():
        count = steps_to_dispatch(config, recorder.step)
        images = next_images(count)
        if profile and (recorder.step > first_step or recorder.step + count == config.steps):
            recorder.read()
            with profile_to(profile):
                state, metrics = jax.block_until_ready(program(state, images, count))
            profile = None
        else:
            state, metrics = program(state, images, count)
        recorder.read()  # the metrics of the previous dispatch, while the devices compute this one
        recorder.record_dispatch(count, metrics)
        last, interrupted = recorder.step == config.steps, stop()
        if config.evaluate_every and (recorder.step % config.evaluate_every == 0 or last):
            recorder.validate(state)
        if recorder.step % config.save_every == 0 or last or interrupted or recorder.should_stop_early():
            recorder.save(state)
        if interrupted and not last:
            return state, "interrupted"
    return state, "done" if recorder.step >= config.steps else "stopped early"
