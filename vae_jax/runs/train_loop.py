"""runs.train_loop."""

import contextlib
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
    """How a training ended: its state, and whether it was finished, stopped early, or interrupted."""

    state: TrainState
    step: int
    status: str  # "done", "stopped early", "interrupted"
    resumed_from: int | None
    trained_steps: int  # by this process


def fit(
    run: Run, images: Images, *, stop: Callable[[], bool] = lambda: False, profile: Path | None = None
) -> TrainResult:
    """Trains a run to its last step, or until its validation bound no longer rises, or until `stop()` is true.

    `images` are all of its training images, or the `Records` that they are streamed from (`runs.prepare_run`).

    Goes on from the newest checkpoint if there is one. Several processes make the same call, each with all images;
    InputError where their settings or images differ. With `profile`, a folder, the second dispatch (or the only one)
    is traced there, `profiling`. Raises NotFiniteError naming the step and what it read, CheckpointError,
    StorageError or LockedError.
    """
    with contextlib.ExitStack() as stack:
        _agree(run)
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
        progress: Any = NullLogger()
        if multihost.is_primary():
            progress = Progress(
                run.config.train.steps, images_per_step=run.config.train.batch_size, initial_step=first_step
            )
        with progress, recorder.writing(progress):
            for note in (*(restored.notes if restored else ()), *describe_changes(run, first_step)):
                progress.print(note)
            feed = stack.enter_context(open_input_pipeline(run, images, first_step=first_step))
            state, status = _train(recorder, state, feed, stop, profile)
    return TrainResult(state, recorder.step, status, restored.step if restored else None, recorder.step - first_step)


def _agree(run: Run) -> None:
    """Refuses processes of unequal settings or images; where the images lie, and by which name, may differ."""
    where = ("data.data_dir", "data.name")
    settings = {path: value for path, value in flatten(run.config).items() if path not in where}
    facts = {f"data.{name}": value for name, value in run.data.items()} | {"images streamed": run.streamed}
    multihost.check_equal_across_processes(settings | facts)


def _train(
    recorder: "Recorder", state: TrainState, feed: NextImages, stop: Callable[[], bool], profile: Path | None
) -> tuple[TrainState, str]:
    """Runs the program until the last step; returns the state and how it ended."""
    program, config, first_step = compile_program(recorder.run), recorder.config, recorder.step
    if recorder.step < config.steps and not recorder.should_stop_early():
        recorder.begin()
        if stop():  # it came while the data were prepared: nothing is there to save yet
            return state, "interrupted"
    while recorder.step < config.steps and not recorder.should_stop_early():
        count = steps_to_dispatch(config, recorder.step)
        images = feed(count)
        if profile and (recorder.step > first_step or recorder.step + count == config.steps):
            recorder.read()
            with profile_to(profile):
                state, metrics = jax.block_until_ready(program(state, images, count))
            profile = None
        else:
            state, metrics = program(state, images, count)
        recorder.read()  # the metrics of the dispatch before: the device works meanwhile
        recorder.record_dispatch(count, metrics)
        last, interrupted = recorder.step == config.steps, stop()
        if config.evaluate_every and (recorder.step % config.evaluate_every == 0 or last):
            recorder.validate(state)
        if recorder.step % config.save_every == 0 or last or interrupted or recorder.should_stop_early():
            recorder.save(state)
        if interrupted and not last:
            return state, "interrupted"
    return state, "done" if recorder.step >= config.steps else "stopped early"
