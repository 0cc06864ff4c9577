"""What happens during training besides the steps: metrics, validation, pictures, early stopping, checkpoints, signals.

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
from vae_jax.runs import plots
from vae_jax.runs.environment import describe_environment
from vae_jax.runs.evaluation import make_evaluator
from vae_jax.runs.loggers import (
    MetricsFile,
    NullLogger,
    SavedRows,
    TensorBoard,
    as_saved,
    read_metrics,
    tensorboard_picture_tag,
    tensorboard_tag,
)
from vae_jax.runs.memory import refuse_lack_of_memory
from vae_jax.runs.progress import Progress
from vae_jax.runs.training_run import TrainingRun
from vae_jax.runtime import atomic_files, multihost

NUM_PREVIEW_EXAMPLES = 12  # validation examples whose reconstructions are written to TensorBoard


class Callback:
    """The events of a training, none of which does anything here. With several processes all of them call each."""

    def on_start(self, run: TrainingRun) -> None:
        """Prepare for steps after `run.first_step`; an error here is an error before the training."""

    def on_row(self, run: TrainingRun, step: int, row: dict[str, Any]) -> None:
        """Receive numbers about a step: the means of a dispatch, a validation, or what a callback records."""

    def on_image(self, run: TrainingRun, name: str, picture: np.ndarray) -> None:
        """Receive a picture about the current step, uint8 [H, W, 3]."""

    def on_steps(self, run: TrainingRun) -> None:
        """Act after some steps: `run.params`, `run.record`, `run.stop`."""

    def on_stop(self, run: TrainingRun) -> None:
        """Act if a callback has stopped the training before its last step, after `on_steps` of all callbacks."""

    def on_end(self, run: TrainingRun) -> None:
        """Close what `on_start` has opened, also after an error."""


def default_callbacks(
    stop: Callable[[], bool] = lambda: False, save: Callable[[], bool] = lambda: False
) -> list[Callback]:
    """Return the callbacks of `vae-jax train`.

    Args:
      stop: polled before the first step and after each dispatch; a True saves the state and ends the training.
      save: polled after each dispatch; a True saves the state, and the training goes on.

    Returns:
      The callbacks, in the order in which they must be called.
    """
    return [ProgressBar(), StopWhen(stop), SaveWhen(save), *recording_callbacks()]


def recording_callbacks() -> list[Callback]:
    """Return the callbacks that write the files of one model, also of a member of a sweep."""
    return [
        EnvironmentLog(),
        MetricsLog(),
        TensorBoardLog(),
        Validation(),
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
        """Write the file, unless no step is left."""
        self._started = time.perf_counter()
        self._content: dict[str, Any] | None = None
        if not run.is_last:
            date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            self._content = describe_environment(run.placement) | {"started": date, "first_step": run.first_step}
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

        def open_file() -> MetricsFile:
            path, first = run.directory.metrics, run.first_step
            return MetricsFile(path, keep_through_step=first, count=run.num_rows, saved=saved)

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


class Validation(Callback):
    """Computes the bound of the validation examples every train.evaluate_every steps, and at the end."""

    def on_start(self, run: TrainingRun) -> None:
        """Load the validation examples, so that unreadable ones are an error before the training."""
        validates = run.experiment.training.evaluate_every and not run.is_last
        self.every = run.experiment.training.evaluate_every if validates and run.validation_data is not None else 0

    def on_steps(self, run: TrainingRun) -> None:
        """Evaluate, and record the result."""
        if not run.is_due(self.every):
            return
        run.read()
        assert run.validation_data is not None, "`every` is 0 otherwise"
        key = run.experiment.evaluation_key("validation")
        with refuse_lack_of_memory("the validation"):
            evaluator = make_evaluator(run.experiment, run.placement)  # from the cache of programs after the first time
            result = evaluator.bound(run.params, key, run.validation_data.arrays)
        metric = getattr(run.experiment.objective, "validation_metric", "elbo")
        row = {f"validation_{name}": result[name] for name in ("reconstruction", "kl") if name in result}
        run.record(row | {"validation_bound": result.get(metric, result["reconstruction"])})


class PreviewImages(Callback):
    """Sends samples and reconstructions to TensorBoard at each validation, for images."""

    def on_steps(self, run: TrainingRun) -> None:
        """Make the pictures."""
        if run.experiment.kind != "images" or not run.is_due(run.experiment.training.evaluate_every):
            return
        run.read()
        arrays = {} if run.validation_data is None else run.validation_data.arrays
        few = {name: array[:NUM_PREVIEW_EXAMPLES] for name, array in arrays.items()}
        key = run.experiment.evaluation_key("validation")
        with refuse_lack_of_memory("a picture for TensorBoard"):
            pictures = plots.preview_images(run.experiment, run.params, key, few, run.placement)
        for name, picture in pictures.items():
            run.image(name, picture)


class EarlyStopping(Callback):
    """Ends the training after train.patience validations without a new best bound."""

    def on_start(self, run: TrainingRun) -> None:
        """Read the validation bounds of the steps before this start."""

        def bounds() -> list[float]:
            path = run.directory.metrics
            rows = [row for row in read_metrics(path) if row["step"] <= run.step] if path.exists() else []
            return [_comparable(row["validation_bound"]) for row in rows if "validation_bound" in row]

        self.bounds = multihost.broadcast_from_primary(bounds)
        self._check(run)

    def on_row(self, run: TrainingRun, step: int, row: dict[str, Any]) -> None:
        """Store a validation bound."""
        if "validation_bound" in row:
            self.bounds.append(_comparable(row["validation_bound"]))

    def on_steps(self, run: TrainingRun) -> None:
        """Stop if none of the last `patience` bounds exceeds the best one before them."""
        self._check(run)

    def _check(self, run: TrainingRun) -> None:
        patience = run.experiment.training.patience
        if patience and len(self.bounds) > patience and max(self.bounds[-patience:]) <= max(self.bounds[:-patience]):
            run.stop("stopped early")


def _comparable(value: float | None) -> float:
    """Return a validation bound for comparisons: -inf if it is not finite (null in metrics.jsonl)."""
    return value if value is not None and np.isfinite(value) else -np.inf


class CheckpointSaver(Callback):
    """Saves the state every train.save_every steps, at the end, and when a save or a stop is requested.

    Each checkpoint stores the metrics that a resumed run needs: `count`, the number of rows so far; `rows`, those after
    the step `since` of the checkpoint before; and `interval`, see `TrainingRun`.
    """

    def on_start(self, run: TrainingRun) -> None:
        """Remove the evaluation of earlier weights."""
        self._count, self._since, self._rows = run.num_rows, run.first_step, []
        if not run.is_last and run.stop_reason != "stopped early":
            atomic_files.remove(run.directory.evaluation)

    def on_row(self, run: TrainingRun, step: int, row: dict[str, Any]) -> None:
        """Store the row for the next save; raise StorageError if the last save has failed."""
        self._rows.append(as_saved({"step": step} | row))
        run.checkpoints.check()

    def on_steps(self, run: TrainingRun) -> None:
        """Save if it is due or requested; raises NotFiniteError if a step is not finite."""
        if run.save_requested or run.is_due(run.experiment.training.save_every):
            self._save(run)

    def on_stop(self, run: TrainingRun) -> None:
        """Save unless `on_steps` has saved this step."""
        if run.step > self._since:
            self._save(run)

    def _save(self, run: TrainingRun) -> None:
        run.read()
        rows = [row for row in self._rows if row["step"] > self._since]
        count = self._count + len(self._rows)
        metrics = {"count": count, "since": self._since, "rows": rows, "interval": run.interval}
        config, data = run.experiment.description(), run.experiment.data
        run.checkpoints.save(run.step, run.state, config=config, data=data, metrics=metrics)
        self._count, self._since, self._rows, run.save_requested = count, run.step, [], False
