"""The records of one model's training: metrics, validation, TensorBoard, early stopping and checkpoints."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from vae_jax.config import TrainConfig
from vae_jax.errors import InputError, NoExamplesError, NotFiniteError
from vae_jax.inference import Metrics
from vae_jax.runs import plots
from vae_jax.runs.checkpoints import Checkpoints
from vae_jax.runs.evaluation import EVALUATION_FILE
from vae_jax.runs.loggers import MetricsFile, NullLogger, TensorBoard, read_metrics
from vae_jax.runs.progress import Progress
from vae_jax.runs.restoring import evaluation_params
from vae_jax.runs.run import Run, evaluation_key
from vae_jax.runtime import atomic_files, multihost
from vae_jax.training import Evaluator, TrainState, make_schedule

METRICS_FILE = "metrics.jsonl"
NUM_PREVIEW_IMAGES = 12  # validation images whose reconstructions are written to TensorBoard
MAX_LISTED_IMAGES = 128  # training images that an error lists


def steps_to_dispatch(config: TrainConfig, step: int) -> int:
    """Return the number of steps of the next dispatch, which ends at a multiple of `log_every` or at the last step."""
    return min(config.log_every - step % config.log_every, config.steps - step)


class Recorder:
    """The host side of one model's training: dispatched steps, metrics that are not read yet, and output files.

    Attributes:
      run: the run.
      config: its training settings.
      checkpoints: its checkpoints.
      step: the number of dispatched steps.
      schedule: step -> learning rate.
      max_skips: the number of steps in a row that may be skipped because they are not finite.
      unread: (first step, number of steps, metrics on the device) of the last dispatch; None after `read`.
      validation: (evaluator, validation images), set by `begin` if the run is validated.
      history: the validation bounds so far, in nats.

    Raises:
      InputError: the run has already more steps than train.steps.
    """

    def __init__(self, run: Run, checkpoints: Checkpoints, *, first_step: int):
        self.run, self.config, self.checkpoints = run, run.config.train, checkpoints
        if first_step > self.config.steps:
            raise InputError(
                f"train.steps={self.config.steps} must be at least {first_step}, the newest step in {run.directory}"
            )
        self.step = first_step
        self.schedule = make_schedule(run.config.optimizer, self.config.steps)
        self.max_skips = self.config.max_skips if self.config.nonfinite == "skip" else 0
        self.unread: tuple[int, int, Metrics] | None = None
        self.validation: tuple[Evaluator, np.ndarray] | None = None
        self.history = multihost.broadcast_from_primary(self._read_history)

    def _read_history(self) -> list[float]:
        path = self.run.directory / METRICS_FILE
        rows = [row for row in read_metrics(path) if row["step"] <= self.step] if path.exists() else []
        return [_comparable_bound(row["validation_bound"]) for row in rows if "validation_bound" in row]

    @contextlib.contextmanager
    def writing(self, progress: Progress | NullLogger) -> Iterator[None]:
        """Open the metrics file and the TensorBoard file, and close them at the end; bounds are shown by `progress`."""
        directory, first = self.run.directory, self.step
        self.progress = progress
        with contextlib.ExitStack() as stack:
            path, purge = directory / METRICS_FILE, first + 1 if first else None
            self.metrics = multihost.run_on_primary(lambda: MetricsFile(path, keep_through_step=first)) or NullLogger()
            stack.callback(self.metrics.close)
            self.board = multihost.run_on_primary(lambda: TensorBoard(directory, purge_step=purge)) or NullLogger()
            stack.callback(self.board.close)
            yield

    def begin(self) -> None:
        """Prepare for more steps: load the validation images, and remove the evaluation of earlier weights.

        Call it once before the first step, so that unreadable validation images are an error before the training.

        Raises:
          InputError: the validation images cannot be used.
          StorageError: they cannot be read, or the evaluation cannot be removed.
        """
        if self.config.evaluate_every:
            self.validation = self.run.evaluator(), multihost.run_on_all(self._validation_images)
        atomic_files.remove(self.run.directory / EVALUATION_FILE)

    def record_dispatch(self, count: int, metrics: Metrics) -> None:
        """Store the `metrics` of a dispatch of `count` steps; `read` reads them later."""
        self.unread = (self.step, count, metrics)
        self.step += count

    def read(self) -> None:
        """Read, check and write the metrics of the last dispatch: one row, the mean over its steps.

        Raises:
          NotFiniteError: a step failed; the message contains its number and the training images that it read.
          StorageError: the last save has failed.
        """
        if self.unread is None:
            return
        first, count, metrics = self.unread
        self.unread = None
        rows = {name: np.asarray(values)[:count].astype(np.float64) for name, values in metrics.items()}
        failed = np.flatnonzero(rows["skipped"] > self.max_skips)
        if failed.size:
            index = int(failed[0])
            raise self._not_finite(first + index, rows["loss"][index], rows["grad_norm"][index])
        finite = rows.pop("skipped") == 0
        row = {name: float(values[finite].mean()) if finite.any() else None for name, values in rows.items()}
        row["learning_rate"] = float(np.asarray(self.schedule(first + count - 1)))
        if not finite.all():
            row["skipped_steps"] = int((~finite).sum())
        self._write(first + count, row)
        self.progress.update(first + count, bound=row["bound"])

    def _not_finite(self, step: int, loss: float, grad_norm: float) -> NotFiniteError:
        values = f"loss={loss}, grad_norm={grad_norm}"
        if np.isfinite([loss, grad_norm]).all():
            values += ", but the updated parameters are not finite"
        if self.max_skips:
            values += f"; train.max_skips={self.max_skips} is reached"
        return NotFiniteError(
            f"step {step} is not finite ({values}); earlier checkpoints are intact; lower optimizer.learning_rate, "
            "set optimizer.clip_norm, or set train.nonfinite=skip, and list the changed setting in --allow-change; "
            f"the step read the training images {_format_indices(self.run.examples(step))}"
        )

    def validate(self, state: TrainState) -> None:
        """Evaluate the validation images, write the bound to the metrics, and write pictures to TensorBoard."""
        self.read()
        assert self.validation is not None, "begin() loads the validation images"
        params, key = evaluation_params(state, self.run.config), evaluation_key(self.run, "validation")
        evaluator, images = self.validation
        for name, picture in plots.preview_images(self.run, params, key, images[:NUM_PREVIEW_IMAGES]).items():
            self.board.image(self.step, name, picture)
        if not len(images):
            return
        result = evaluator.bound(params, key, images)
        bound = result["reconstruction" if self.run.config.objective.name == "reconstruction" else "elbo"]
        row = {f"validation_{name}": result[name] for name in ("reconstruction", "kl") if name in result}
        self._write(self.step, row | {"validation_bound": bound})
        self.history.append(_comparable_bound(bound))
        self.progress.update(self.step, validation_bound=bound)

    def _validation_images(self) -> np.ndarray:
        try:
            return self.run.images("validation")
        except NoExamplesError:  # data.holdout is 0, and the data set has no validation split
            return np.empty((0, *self.run.image_shape), np.uint8)

    def should_stop_early(self) -> bool:
        """Return whether none of the last `patience` validation bounds exceeds the best one before them."""
        patience = self.config.patience
        if not patience or len(self.history) <= patience:
            return False
        return max(self.history[-patience:]) <= max(self.history[:-patience])

    def save(self, state: TrainState) -> None:
        """Start to save the state."""
        self.read()  # raises if a step is not finite
        self.checkpoints.save(self.step, state, config=dataclasses.asdict(self.run.config), data=self.run.data)

    def _write(self, step: int, row: dict[str, Any]) -> None:
        self.checkpoints.check()
        self.metrics.write({"step": step} | row)
        self.board.scalars(step, {name: value for name, value in row.items() if value is not None})


def _format_indices(examples: np.ndarray) -> str:
    more = f" and {len(examples) - MAX_LISTED_IMAGES} more" if len(examples) > MAX_LISTED_IMAGES else ""
    return ", ".join(map(str, examples[:MAX_LISTED_IMAGES])) + more


def _comparable_bound(value: float | None) -> float:
    """Return a validation bound for comparisons: -inf if it is not finite (null in metrics.jsonl)."""
    return value if value is not None and np.isfinite(value) else -np.inf
