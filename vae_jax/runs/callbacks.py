"""What happens during training besides the steps: metrics, progress, validation, checkpoints, signals.

`fit` calls each method of each callback at the same events, in the order of the list. A user-defined callback derives
from `Callback` and overrides the methods that it needs:

    class PrintBound(Callback):
        def on_row(self, run, step, row):
            print(step, row.get("bound"))

    fit(experiment, "runs/mine", callbacks=[*default_callbacks(), PrintBound()])
"""

import contextlib
import datetime
import json
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from vae_jax.errors import StorageError
from vae_jax.runs.environment import describe_environment
from vae_jax.runs.progress import Progress
from vae_jax.runs.storage.loggers import (
    MetricsFile,
    NullLogger,
    SavedRows,
    TensorBoard,
    as_saved,
    tensorboard_picture_tag,
    tensorboard_tag,
)
from vae_jax.runs.training_run import Callback, TrainingRun
from vae_jax.runs.validation import EarlyStopping, PreviewImages, Validation
from vae_jax.runtime import atomic_files, multihost


def default_callbacks(
    stop: Callable[[], bool] = lambda: False, save: Callable[[], bool] = lambda: False
) -> list[Callback]:
    """Return the callbacks of `vae-jax train`.

    Args:
      stop: polled before the first step, after each dispatch and in long validations; a True saves the state and ends
        the training.
      save: polled after each dispatch; a True saves the state, and the training goes on.

    Returns:
      The callbacks, in the order in which they must be called.
    """
    return [ProgressBar(), StopWhen(stop), SaveWhen(save), *recording_callbacks(stop)]


def recording_callbacks(stop: Callable[[], bool] = lambda: False) -> list[Callback]:
    """Return the callbacks that write the files of one model, also of a member of a sweep.

    Args:
      stop: polled in long validations, see `Validation`.
    """
    return [
        EnvironmentLog(),
        MetricsLog(),
        TensorBoardLog(),
        Validation(stop),
        PreviewImages(),
        EarlyStopping(),
        CheckpointSaver(),
    ]


class ProgressBar(Callback):
    """A progress display on stderr, of the primary process."""

    def on_start(self, run: TrainingRun) -> None:
        """Open the display, and print the notes about the start."""
        self.progress: Progress | NullLogger = NullLogger()
        if multihost.is_primary():
            training = run.experiment.training
            self.progress = Progress(training.steps, examples_per_step=training.batch_size, initial_step=run.first_step)
        self.progress.__enter__()
        self.bounds: dict[str, float | None] = {}
        for note in run.notes:
            self.progress.print(note)

    def on_row(self, run: TrainingRun, step: int, row: dict[str, Any]) -> None:
        """Store the bounds, which the next `on_steps` shows: the devices may have finished more than these steps."""
        self.bounds |= {name: row[name] for name in ("bound", "validation_bound") if name in row}
        if step == run.experiment.training.steps:
            self.progress.update(step, **self.bounds)

    def on_steps(self, run: TrainingRun) -> None:
        """Show the finished steps; the rate begins with the first call, because it follows the compilation."""
        show_finished(self.progress, run, self.bounds)

    def on_end(self, run: TrainingRun) -> None:
        """Show the last step of a training that is stopped, and close the display."""
        if run.first_step < run.step < run.experiment.training.steps:
            self.progress.update(run.finished_step, **self.bounds)
        self.progress.__exit__(None, None, None)


def show_finished(progress: Progress | NullLogger, run: TrainingRun, bounds: Mapping[str, float | None]) -> None:
    """Show the steps that the devices have finished, after a dispatch.

    A dispatch can return before its steps are finished, after them, or after those of the next one. So the rate is that
    between finished steps, and not between the times at which metrics are read.

    Args:
      progress: the display.
      run: the run.
      bounds: {"bound": ..., "validation_bound": ...}, as far as they are known.
    """
    if run.is_first_dispatch:
        progress.begin(run.finished_step)
    else:
        progress.update(run.finished_step, **bounds)


class SweepProgress(Callback):
    """One progress display for all members of a sweep, which receive the same object."""

    def __init__(self, num_members: int):
        self._num_members, self._open = num_members, False

    def on_start(self, run: TrainingRun) -> None:
        """Open the display for the first member, and print the notes of each."""
        if not self._open:
            training = run.experiment.training
            examples = self._num_members * training.batch_size
            self.progress = Progress(training.steps, examples_per_step=examples, initial_step=run.first_step)
            self.progress.__enter__()
            self._open = True
        for note in run.notes:
            self.progress.print(note)

    def on_steps(self, run: TrainingRun) -> None:
        """Show the finished steps, for the first member."""
        if run.member == 0 or not run.is_first_dispatch:
            show_finished(self.progress, run, {})

    def on_row(self, run: TrainingRun, step: int, row: dict[str, Any]) -> None:
        """Show the last step."""
        if step == run.experiment.training.steps:
            self.progress.update(step)

    def on_end(self, run: TrainingRun) -> None:
        """Close the display with the last member."""
        if self._open:
            self.progress.__exit__(None, None, None)
            self._open = False


class StopWhen(Callback):
    """Ends the training when a function returns True; it is polled before the first step and after each dispatch."""

    def __init__(self, stop: Callable[[], bool]):
        self._stop, self._polled, self._answer = stop, -1, False

    def _poll(self, run: TrainingRun) -> None:
        if self._polled != run.step:  # the members of a sweep share the answer
            self._polled, self._answer = run.step, self._stop()
        if self._answer:
            run.stop("interrupted")

    def on_start(self, run: TrainingRun) -> None:
        """Poll before the first step, because it may have been requested while the data were prepared."""
        self._poll(run)

    def on_steps(self, run: TrainingRun) -> None:
        """Poll."""
        self._poll(run)

    def on_end(self, run: TrainingRun) -> None:
        """Forget the answer, so that the callback can be used again."""
        self._polled, self._answer = -1, False


class SaveWhen(Callback):
    """Requests a save when a function returns True; it is polled after each dispatch, and the training goes on."""

    def __init__(self, save: Callable[[], bool]):
        self._save, self._polled, self._answer = save, -1, False

    def on_steps(self, run: TrainingRun) -> None:
        """Poll."""
        if self._polled != run.step:  # the members of a sweep share the answer
            self._polled, self._answer = run.step, self._save()
        run.save_requested |= self._answer


class EnvironmentLog(Callback):
    """Writes environment.json: versions, devices, and from which step to which this start has trained in which time."""

    def on_start(self, run: TrainingRun) -> None:
        """Store the time of the start."""
        self._started, self._date = time.perf_counter(), datetime.datetime.now(datetime.UTC)
        self._content: dict[str, Any] | None = None

    def on_steps(self, run: TrainingRun) -> None:
        """Write the file after the first steps; a start that finds nothing to train keeps that of an earlier one."""
        if self._content is None:
            started = {"started": self._date.isoformat(timespec="seconds"), "first_step": run.first_step}
            self._content = describe_environment(run.placement) | started
            atomic_files.write_json(run.directory.environment, self._content)

    def on_end(self, run: TrainingRun) -> None:
        """Add the last step and the time; a file system that refuses it does not hide an error of the training."""
        if self._content is None or not multihost.is_primary():
            return
        seconds = round(time.perf_counter() - self._started, 2)
        text = json.dumps(self._content | {"last_step": run.step, "seconds": seconds}, indent=1) + "\n"
        with contextlib.suppress(StorageError):
            atomic_files.write_file_locally(run.directory.environment, lambda file: file.write(text.encode()))


class MetricsLog(Callback):
    """Writes metrics.jsonl."""

    def on_start(self, run: TrainingRun) -> None:
        """Open the file; rows after the first step are removed, and lost rows are restored from the checkpoints."""

        def saved() -> list[SavedRows]:
            metrics = run.checkpoints.saved_metrics(run.first_step)
            return [SavedRows(m["count"], m["since"], m["rows"]) for m in metrics if m]

        rows = saved
        if not multihost.is_single_process():  # they read the checkpoints together, since Orbax ends in a barrier
            known = saved()
            rows = lambda: known  # noqa: E731

        def open_file() -> MetricsFile:
            path, first = run.directory.metrics, run.first_step
            return MetricsFile(path, keep_through_step=first, count=run.num_rows, saved=rows)

        self.file: MetricsFile | NullLogger = multihost.run_on_primary(open_file) or NullLogger()

    def on_row(self, run: TrainingRun, step: int, row: dict[str, Any]) -> None:
        """Append the row."""
        self.file.write({"step": step} | row)

    def on_end(self, run: TrainingRun) -> None:
        """Close the file."""
        self.file.close()


class TensorBoardLog(Callback):
    """Writes scalars and pictures as TensorBoard events."""

    def on_start(self, run: TrainingRun) -> None:
        """Open the file of events."""
        purge = run.first_step + 1 if run.first_step else None
        board = multihost.run_on_primary(lambda: TensorBoard(run.directory.path, purge_step=purge))
        self.board: TensorBoard | NullLogger = board or NullLogger()
        self.board.settings(run.experiment.description())

    def on_row(self, run: TrainingRun, step: int, row: dict[str, Any]) -> None:
        """Write a scalar for each number, in its group."""
        self.board.scalars(step, {tensorboard_tag(name): value for name, value in row.items() if value is not None})

    def on_image(self, run: TrainingRun, name: str, picture: np.ndarray) -> None:
        """Write the picture, in the group of figures."""
        self.board.image(run.step, tensorboard_picture_tag(name), picture)

    def on_end(self, run: TrainingRun) -> None:
        """Close the file."""
        self.board.close()


class CheckpointSaver(Callback):
    """Saves the state every train.save_every steps, at the end, and when a save or a stop is requested.

    Each checkpoint stores the metrics that a resumed run needs: `count`, the number of rows so far; `rows`, those after
    the step `since` of the checkpoint before; `interval` and `validation_is_due`, see `TrainingRun`.
    """

    def on_start(self, run: TrainingRun) -> None:
        """Begin with the metrics that the restored checkpoint stores."""
        self._count, self._since, self._rows = run.num_rows, run.first_step, []

    def on_ready(self, run: TrainingRun) -> None:
        """Remove the evaluation, the report and the figures of earlier weights."""
        if not run.is_last and run.stop_reason != "stopped early":
            atomic_files.remove(run.directory.evaluation)
            atomic_files.remove(run.directory.report)
            folder = run.directory.figures
            for name in multihost.broadcast_from_primary(lambda: sorted(path.name for path in folder.glob("*.png"))):
                atomic_files.remove(folder / name)

    def on_row(self, run: TrainingRun, step: int, row: dict[str, Any]) -> None:
        """Store the row for the next save; raise StorageError if the last save has failed."""
        self._rows.append(as_saved({"step": step} | row))
        run.checkpoints.check()

    def after_steps(self, run: TrainingRun) -> None:
        """Save if it is due or requested, or if the training stops; raises NotFiniteError if a step is not finite."""
        stops = run.stop_reason is not None and not run.is_last
        if run.save_requested or stops or run.is_due(run.experiment.training.save_every):
            self._save(run)

    def _save(self, run: TrainingRun) -> None:
        run.read()
        rows = [row for row in self._rows if row["step"] > self._since]
        count = self._count + len(self._rows)
        metrics = {"count": count, "since": self._since, "rows": rows, "interval": run.interval}
        if run.validation_is_due:
            metrics["validation_is_due"] = True
        config, data = run.experiment.description(), run.experiment.data
        run.checkpoints.save(run.step, run.state, config=config, data=data, metrics=metrics)
        self._count, self._since, self._rows, run.save_requested = count, run.step, [], False
