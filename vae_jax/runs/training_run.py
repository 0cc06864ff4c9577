"""One model in training, as callbacks see it: its step, its state, the metrics of its steps, and its files."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from vae_jax.data import ArrayDataset
from vae_jax.errors import InputError, NoExamplesError, NotFiniteError
from vae_jax.inference import Metrics, Params
from vae_jax.runs.experiment.experiment import Experiment, max_skips
from vae_jax.runs.storage.checkpoints import Checkpoints
from vae_jax.runs.storage.directory import RunDirectory
from vae_jax.runtime import Placement, multihost
from vae_jax.training import TrainState

MAX_LISTED_EXAMPLES = 128  # training examples that an error lists


def steps_to_dispatch(log_every: int, steps: int, step: int) -> int:
    """Return the number of steps of the next dispatch, which ends at a multiple of `log_every` or at the last step."""
    return min(log_every - step % log_every, steps - step)


@dataclasses.dataclass(frozen=True)
class Dispatch:
    """Some steps that the devices compute.

    Attributes:
      first_step: the first of the steps.
      count: their number.
      metrics: {name: [max_steps]} on the devices, or [M, max_steps] for M models.
    """

    first_step: int
    count: int
    metrics: Metrics

    @property
    def is_finished(self) -> bool:
        """Whether the devices have computed the steps."""
        return all(values.is_ready() for values in jax.tree.leaves(self.metrics))

    @functools.cached_property
    def rows(self) -> dict[str, np.ndarray]:
        """The metrics of the steps, {name: [count] or [M, count]}; waits for the devices."""
        arrays = jax.device_get(self.metrics)
        return {name: values[..., : self.count].astype(np.float64) for name, values in arrays.items()}


class Callback:
    """The events of a training, none of which does anything here. With several processes all of them call each."""

    def on_start(self, run: "TrainingRun") -> None:
        """Prepare for steps after `run.first_step`; an error here is an error before the training."""

    def on_ready(self, run: "TrainingRun") -> None:
        """Act before the first step, after `on_start` of all callbacks."""

    def on_row(self, run: "TrainingRun", step: int, row: dict[str, Any]) -> None:
        """Receive numbers about a step: the means of a dispatch, a validation, or what a callback records."""

    def on_image(self, run: "TrainingRun", name: str, picture: np.ndarray) -> None:
        """Receive a picture about the current step, uint8 [H, W, 3]."""

    def on_steps(self, run: "TrainingRun") -> None:
        """Act after some steps: `run.params`, `run.record`, `run.stop`."""

    def after_steps(self, run: "TrainingRun") -> None:
        """Act after `on_steps` of all callbacks, when all that they record and `run.stop_reason` are known."""

    def on_end(self, run: "TrainingRun") -> None:
        """Close what `on_start` has opened, also after an error."""


class TrainingRun:
    """One model in training.

    Attributes:
      experiment: what is trained.
      directory: its files.
      placement: its devices.
      checkpoints: its saved states.
      first_step: the step that this start has begun with.
      step: the number of dispatched steps.
      resumed: whether a checkpoint was restored.
      stop_reason: why training ends before the last step; None while it goes on.
      member: the position among the models that one program trains; None for a single model.
      notes: lines about the start, such as damaged checkpoints, for people.
      save_requested: whether the state is to be saved after the steps that are dispatched.
      validation_is_due: whether a stop has ended the validation of this step.
      num_rows: the number of rows of metrics up to the first step; 0 for a new run.
    """

    def __init__(
        self,
        experiment: Experiment,
        directory: RunDirectory,
        placement: Placement,
        checkpoints: Checkpoints,
        *,
        first_step: int,
        state: Callable[[], TrainState],
        resumed: bool = False,
        member: int | None = None,
        notes: tuple[str, ...] = (),
        metrics: Mapping[str, Any] | None = None,
    ):
        """Start to record the training of one model.

        Args:
          experiment: what is trained.
          directory: its files.
          placement: its devices.
          checkpoints: its saved states.
          first_step: the number of steps before this start.
          state: returns the current state.
          resumed: whether a checkpoint was restored.
          member: the position among the models that one program trains; None for a single model.
          notes: lines about the start, for people.
          metrics: what was saved with the restored state as its metrics, see `CheckpointSaver`.

        Raises:
          InputError: the run has already more steps than train.steps.
        """
        self.experiment, self.directory, self.placement = experiment, directory, placement
        if first_step > experiment.training.steps:
            raise InputError(
                f"train.steps={experiment.training.steps} must be at least {first_step}, the newest step in {directory}"
            )
        self.checkpoints = checkpoints
        self.first_step = self.step = first_step
        self.resumed, self.member, self.notes = resumed, member, notes
        self.stop_reason: str | None = None
        self.save_requested = False
        self.callbacks: tuple[Callback, ...] = ()
        self._state, self._unread, self._num_dispatches = state, None, 0
        saved = metrics or {}
        self.num_rows: int = saved.get("count", 0)
        self.validation_is_due: bool = saved.get("validation_is_due", False)
        self._interval = {name: np.asarray(values, np.float64) for name, values in saved.get("interval", {}).items()}

    @property
    def state(self) -> TrainState:
        """The state after the dispatched steps; its arrays are on the devices and may not be ready."""
        return self._state()

    @property
    def params(self) -> Params:
        """The parameters for evaluation after the dispatched steps."""
        return self.experiment.evaluation_params(self.state)

    @functools.cached_property
    def validation_data(self) -> ArrayDataset | None:
        """The validation examples; None if data.holdout is 0 and the data set has none."""

        def load() -> ArrayDataset | None:
            try:
                return self.experiment.dataset("validation")
            except NoExamplesError:
                return None

        return multihost.run_on_all(load)

    @property
    def is_first_dispatch(self) -> bool:
        """Whether the last dispatch is the first one of this start, in which the program was compiled."""
        return self._num_dispatches == 1

    @property
    def finished_step(self) -> int:
        """The number of steps that the devices have finished; a dispatch can return before or after they have."""
        return self.step if self._unread is None or self._unread.is_finished else self._unread.first_step

    @property
    def is_last(self) -> bool:
        """Whether all steps are dispatched."""
        return self.step == self.experiment.training.steps

    def is_due(self, every: int) -> bool:
        """Return whether `step` is a multiple of `every` or the last step; never if `every` is 0."""
        return bool(every) and (self.step % every == 0 or self.is_last)

    def stop(self, reason: str) -> None:
        """End the training after the callbacks of this step, for example with the reason "interrupted"."""
        self.stop_reason = self.stop_reason or reason

    def record(self, row: dict[str, Any]) -> None:
        """Pass numbers about the current step, {name: number}, to all callbacks: to metrics.jsonl and TensorBoard."""
        self._write(self.step, row)

    def image(self, name: str, picture: np.ndarray) -> None:
        """Pass a picture about the current step, uint8 [H, W, 3], to all callbacks: to TensorBoard."""
        for callback in self.callbacks:
            callback.on_image(self, name, picture)

    @property
    def interval(self) -> dict[str, list[float]]:
        """The metrics of the steps after the last multiple of `train.log_every`, of which no row is recorded yet."""
        return {name: values.tolist() for name, values in self._interval.items()}

    def dispatched(self, dispatch: Dispatch) -> None:
        """Store the metrics of a dispatch; `read` reads them later."""
        self._unread = dispatch
        self._num_dispatches += 1
        self.step += dispatch.count

    def read(self) -> None:
        """Read and check the metrics of the last dispatch; record a row, the mean over `train.log_every` steps.

        The learning rate is that of the last step.

        Raises:
          NotFiniteError: a step failed; the message contains its number and the training examples that it read.
          StorageError: the last save has failed.
        """
        if self._unread is None:
            return
        dispatch, self._unread = self._unread, None
        rows = dispatch.rows
        if self.member is not None:
            rows = {name: values[self.member] for name, values in rows.items()}
        failed = np.flatnonzero(rows["skipped"] > max_skips(self.experiment.training))
        if failed.size:
            index = int(failed[0])
            is_outlier = bool(rows["outlier"][index]) if "outlier" in rows else False
            loss, grad_norm = (float(rows[name][index]) for name in ("loss", "grad_norm"))
            raise self._failed(dispatch.first_step + index, loss, grad_norm, is_outlier=is_outlier)
        if self._interval:
            rows = {name: np.concatenate([self._interval[name], values]) for name, values in rows.items()}
        last, training = dispatch.first_step + dispatch.count, self.experiment.training
        self._interval = {} if last % training.log_every == 0 or last == training.steps else rows
        if self._interval:
            return
        finite = rows["skipped"] == 0
        means = {n: float(v[finite].mean()) if finite.any() else None for n, v in rows.items() if n not in _MARKS}
        if "learning_rate" in rows:
            means["learning_rate"] = float(rows["learning_rate"][-1])
        if not finite.all():
            means["skipped_steps"] = int((~finite).sum())
        self._write(last, means)

    def _write(self, step: int, row: dict[str, Any]) -> None:
        for callback in self.callbacks:
            callback.on_row(self, step, row)

    def _failed(self, step: int, loss: float, grad_norm: float, *, is_outlier: bool) -> NotFiniteError:
        values = f"loss={loss}, grad_norm={grad_norm}"
        if np.isfinite([loss, grad_norm]).all() and not is_outlier:
            values += ", but the updated parameters are not finite"
        if skips := max_skips(self.experiment.training):
            values += f"; train.max_skips={skips} is reached"
        by_hand = self.experiment.config is None
        problem, remedies = _OUTLIER if is_outlier else _NOT_FINITE_BY_HAND if by_hand else _NOT_FINITE
        if self.member is None:
            how = f"list the changed setting in {'allow_change=[...]' if by_hand else '--allow-change'}"
        else:
            how = f"train it in another {'directory' if by_hand else '--workdir'}"
        saved = "" if self.checkpoints.latest_step() is None else "earlier checkpoints are intact; "
        return NotFiniteError(
            f"step {step} {problem} ({values}); {saved}{remedies}, and {how}; the step read the training examples "
            f"{_format_indices(self.experiment.examples(step))}"
        )


_MARKS = ("skipped", "outlier")  # metrics of a step that are no numbers of the training
_NOT_FINITE = (
    "is not finite",
    "lower optimizer.learning_rate, set optimizer.clip_norm, or set train.nonfinite=skip",
)
_NOT_FINITE_BY_HAND = (
    "is not finite",
    "lower the learning rate, add optax.clip_by_global_norm to the optimizer, or use TrainConfig(nonfinite='skip')",
)
_OUTLIER = (
    "has a gradient above the limit of optimizer.skip_quantile",
    "lower optimizer.learning_rate, or raise optimizer.skip_factor or train.max_skips",
)


def _format_indices(examples: np.ndarray) -> str:
    more = f" and {len(examples) - MAX_LISTED_EXAMPLES} more" if len(examples) > MAX_LISTED_EXAMPLES else ""
    return ", ".join(map(str, examples[:MAX_LISTED_EXAMPLES])) + more
