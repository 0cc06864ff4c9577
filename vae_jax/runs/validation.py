"""The callbacks of validations: the bound of the validation examples, pictures for TensorBoard, and early stopping."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from vae_jax.runs.evaluation.evaluation import Interrupted, make_evaluator
from vae_jax.runs.experiment.memory import refuse_lack_of_memory
from vae_jax.runs.figures import plots
from vae_jax.runs.storage.loggers import read_metrics
from vae_jax.runs.training_run import Callback, TrainingRun
from vae_jax.runtime import multihost

PATIENCE_SECONDS = 2.0  # of a validation, before it polls whether to stop
NUM_PREVIEW_EXAMPLES = 12  # validation examples whose reconstructions are written to TensorBoard
_METRICS = ("reconstruction", "kl", "classifier_error")  # of the rows of validations


class Validation(Callback):
    """Computes the bound of the validation examples every train.evaluate_every steps, and at the end.

    In a single process a function is polled in a validation that takes long. If it returns True, the validation and the
    training end without this bound, and a resumed run computes it before its first step.

    Args:
      stop: the function.
    """

    def __init__(self, stop: Callable[[], bool] = lambda: False):
        self._stop = stop
        self._waits_since: float | None = None

    def on_start(self, run: TrainingRun) -> None:
        """Load the validation examples, so that unreadable ones are an error before the training."""
        validates = run.experiment.training.evaluate_every and (run.validation_is_due or not run.is_last)
        self.every = run.experiment.training.evaluate_every if validates and run.validation_data is not None else 0

    def on_ready(self, run: TrainingRun) -> None:
        """Repeat the validation that the last start has ended."""
        if self.every and run.validation_is_due and run.stop_reason is None:
            self._validate(run)

    def on_steps(self, run: TrainingRun) -> None:
        """Evaluate, and record the result."""
        if run.is_due(self.every):
            run.read()
            self._validate(run)

    def _validate(self, run: TrainingRun) -> None:
        assert run.validation_data is not None, "`every` is 0 otherwise"
        key = run.experiment.evaluation_key("validation")
        poll, self._waits_since = self._end_if_stopped if multihost.is_single_process() else None, None
        evaluator = make_evaluator(run.experiment, run.placement)  # from the cache of programs after the first time
        try:
            with refuse_lack_of_memory("the validation"):
                result = evaluator.bound(run.params, key, run.validation_data.arrays, poll=poll)
                if hasattr(run.experiment.model, "classify"):
                    result |= evaluator.classes(run.params, key, run.validation_data.arrays, poll=poll)
        except Interrupted:
            run.validation_is_due = True
            run.stop("interrupted")
            return
        run.validation_is_due = False
        metric = getattr(run.experiment.objective, "validation_metric", "elbo")
        row = {f"validation_{name}": result[name] for name in _METRICS if name in result}
        run.record(row | {"validation_bound": result.get(metric, result["reconstruction"])})

    def _end_if_stopped(self) -> None:
        """Raise Interrupted if a validation takes long, besides its compilation, and `stop()` returns True."""
        now = time.monotonic()
        if self._waits_since is None:
            self._waits_since = now
        if now - self._waits_since > PATIENCE_SECONDS and self._stop():
            raise Interrupted


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

    def on_ready(self, run: TrainingRun) -> None:
        """Stop if a resumed run has stopped early before."""
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


def _comparable(value: Any) -> float:
    """Return a validation bound for comparisons: -inf if it is not finite (null in metrics.jsonl) or no number."""
    return value if isinstance(value, int | float) and np.isfinite(value) else -np.inf
