"""runs.recorder."""

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
from vae_jax.training import TrainState, make_schedule

METRICS_FILE = "metrics.jsonl"
SHOWN = 12  # validation images whose reconstructions TensorBoard shows
NAMED = 128  # training images that an error names


def steps_to_dispatch(config: TrainConfig, step: int) -> int:
    """How many steps the next program makes: dispatches end at multiples of `log_every`, and at the last step."""
    return min(config.log_every - step % config.log_every, config.steps - step)


class Recorder:
    """What the host keeps of one model's training: the steps dispatched, the numbers not read yet, and its files.

    Raises InputError where the run has more steps behind it than it is asked for.
    """

    def __init__(self, run: Run, checkpoints: Checkpoints, *, first_step: int):
        self.run, self.config, self.checkpoints = run, run.config.train, checkpoints
        if first_step > self.config.steps:
            raise InputError(f"train.steps={self.config.steps} must be at least the {first_step} of {run.directory}")
        self.step = first_step
        self.schedule = make_schedule(run.config.optimizer, self.config.steps)
        self.max_skips = self.config.max_skips if self.config.nonfinite == "skip" else 0
        self.unread: tuple[int, int, Metrics] | None = None  # (first step, number of steps, metrics)
        self.validation: tuple[Any, np.ndarray] | None = None  # evaluator and images held out, from `begin` on
        self.history = multihost.broadcast_from_primary(self._kept_bounds)

    def _kept_bounds(self) -> list[float]:
        path = self.run.directory / METRICS_FILE
        rows = [row for row in read_metrics(path) if row["step"] <= self.step] if path.exists() else []
        return [_bound(row["validation_bound"]) for row in rows if "validation_bound" in row]

    @contextlib.contextmanager
    def writing(self, progress: Progress) -> Iterator[None]:
        """Opens the metrics file and the TensorBoard file, and closes them; `progress` is told the bounds."""
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
        """To be called before the first of more steps: what was said of the run at its end is no longer so, and images
        held out that cannot be read are told now. Raises InputError, StorageError."""
        if self.config.evaluate_every:
            self.validation = self.run.evaluator(), multihost.run_on_all(self._held_out)
        atomic_files.remove(self.run.directory / EVALUATION_FILE)

    def record_dispatch(self, count: int, metrics: Metrics) -> None:
        """Notes that `count` more steps are on their way, whose `metrics` are to be read later."""
        self.unread = (self.step, count, metrics)
        self.step += count

    def read(self) -> None:
        """Reads, checks and writes the metrics that are still on the device: one row, the mean over its steps.

        Raises NotFiniteError naming the step that failed and the images that it read.
        """
        if self.unread is None:
            return
        first, count, metrics = self.unread
        self.unread = None
        rows = {name: np.asarray(values)[:count].astype(np.float64) for name, values in metrics.items()}
        failed = np.flatnonzero(rows["skipped"] > self.max_skips)
        if failed.size:
            at = int(failed[0])
            found = f"loss {rows['loss'][at]}, norm of the gradient {rows['grad_norm'][at]}"
            if np.isfinite([rows["loss"][at], rows["grad_norm"][at]]).all():
                found += ", but not the weights after it"
            raise NotFiniteError(
                f"step {first + at}: not finite ({found})"
                + (f", after {self.max_skips} skipped steps" if self.max_skips else "")
                + "; the checkpoints before it are whole; lower optimizer.learning_rate, set optimizer.clip_norm, "
                "or set train.nonfinite skip, and name it in --allow-change; "
                f"it read the training images {_listed(self.run.examples(first + at))}"
            )
        finite = rows.pop("skipped") == 0
        row = {name: float(values[finite].mean()) if finite.any() else None for name, values in rows.items()}
        row["learning_rate"] = float(self.schedule(first + count - 1))
        if not finite.all():
            row["skipped_steps"] = int((~finite).sum())
        self._write(first + count, row)
        self.progress.update(first + count, bound=row["bound"])

    def validate(self, state: TrainState) -> None:
        """Writes the bound on the held-out images, and pictures."""
        self.read()
        params, key = evaluation_params(state, self.run.config), evaluation_key(self.run, "validation")
        evaluator, images = self.validation
        for name, picture in plots.preview_images(self.run, params, key, images[:SHOWN]).items():
            self.board.image(self.step, name, picture)
        if not len(images):
            return
        found = evaluator.bound(params, key, images)
        bound = found["reconstruction" if self.run.config.objective.name == "reconstruction" else "elbo"]
        row = {f"validation_{name}": found[name] for name in ("reconstruction", "kl") if name in found}
        self._write(self.step, row | {"validation_bound": bound})
        self.history.append(_bound(bound))
        self.progress.update(self.step, validation_bound=bound)

    def _held_out(self) -> np.ndarray:
        try:
            return self.run.images("validation")
        except NoExamplesError:  # nothing was held out, and the source has no split of its own
            return np.empty((0, *self.run.image_shape), np.uint8)

    def should_stop_early(self) -> bool:
        """Whether the last `patience` validation bounds have all missed the best before them."""
        patience = self.config.patience
        if not patience or len(self.history) <= patience:
            return False
        return max(self.history[-patience:]) <= max(self.history[:-patience])

    def save(self, state: TrainState) -> None:
        """Starts to save the state."""
        self.read()  # which refuses what is not finite
        self.checkpoints.save(self.step, state, config=dataclasses.asdict(self.run.config), data=self.run.data)

    def _write(self, step: int, row: dict[str, Any]) -> None:
        self.checkpoints.check()
        self.metrics.write({"step": step} | row)
        self.board.scalars(step, {name: value for name, value in row.items() if value is not None})


def _listed(examples: np.ndarray) -> str:
    more = f" and {len(examples) - NAMED} more" if len(examples) > NAMED else ""
    return ", ".join(map(str, examples[:NAMED])) + more


def _bound(value: float | None) -> float:
    """A validation bound to be compared: one that is not finite, null in metrics.jsonl, is the worst."""
    return value if value is not None and np.isfinite(value) else -np.inf
