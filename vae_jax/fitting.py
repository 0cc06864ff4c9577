"""The loop around the pure step: when to dispatch, evaluate, save and stop. All host work of a training is here."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from vae_jax import drawing, processes, sharding
from vae_jax.checkpoints import Checkpoints
from vae_jax.config import TrainConfig
from vae_jax.data.batches import mean_image
from vae_jax.errors import InputError, NoExamplesError, NotFiniteError
from vae_jax.feeding import Feed, Images, feeding
from vae_jax.inference import Loss, Metrics, make_loss
from vae_jax.judging import EVALUATION_FILE
from vae_jax.runs import (
    Run,
    changes_told,
    evaluation_key,
    evaluation_params,
    restore,
    write_config,
)
from vae_jax.settings import flatten
from vae_jax.storage import remove
from vae_jax.training import Step, TrainState, make_schedule, make_train_step, train_steps
from vae_jax.writers import MetricsFile, Progress, TensorBoard, Unwritten, read_metrics

METRICS_FILE = "metrics.jsonl"
SHOWN = 12  # validation images whose reconstructions TensorBoard shows
NAMED = 128  # training images that an error names

Program = Callable[[TrainState, jax.Array, int], tuple[TrainState, Metrics]]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a training ended: its state, and whether it was finished, stopped early, or interrupted."""

    state: TrainState
    step: int
    status: str  # "done", "stopped early", "interrupted"
    resumed_from: int | None
    trained_steps: int  # by this process


def make_step(run: Run, *, loss: Loss | None = None, optimizer: optax.GradientTransformation | None = None) -> Step:
    """step(state, batch) -> (state, metrics) of a run: pure, not jitted; by its own loss and optimizer or others."""
    config = run.config
    own = functools.partial(make_loss, run.training_model, config.objective, config.data, run.data["num_examples"])
    return make_train_step(
        sharding.gather_params(loss or own(), run.mesh),
        optimizer or run.optimizer,
        ema_decay=config.train.ema_decay,
        max_skips=config.train.max_skips if config.train.nonfinite == "skip" else 0,
        microbatches=run.microbatches,
    )


def many_steps(run: Run, place_batch: Callable[[jax.Array], jax.Array], *, step: Step | None = None) -> Program:
    """program(state, images, num_steps) -> (state, metrics) of a run: pure, not jitted; by its own step or another."""
    return functools.partial(
        train_steps,
        step=step or make_step(run),
        batch_size=run.config.train.batch_size,
        max_steps=run.config.train.log_every,
        microbatches=run.microbatches,
        streamed=run.streamed,
        place_batch=place_batch,
    )


@functools.lru_cache(maxsize=4)  # so that what planning has traced is not traced again
def compile_program(run: Run, program: Program | None = None, *, donate: bool = True) -> Program:
    """`many_steps` of a run, or another program, jitted for the mesh; donates the state.

    Where `sharding.counts_are_known`, it is compiled once for each number of steps: that of a whole dispatch, and that
    of a last and shorter one.
    """
    everywhere, known = sharding.replicated(run.mesh), sharding.counts_are_known(run.mesh)
    return jax.jit(
        program or many_steps(run, sharding.place_batch(run.mesh)),
        static_argnums=2 if known else (),
        donate_argnums=0 if donate else (),
        in_shardings=(run.state_shardings, run.images_sharding, *(() if known else (everywhere,))),
        out_shardings=(run.state_shardings, everywhere),
        compiler_options=sharding.compiler_options(run.mesh),
    )


@contextlib.contextmanager
def profiling(directory: Path | None) -> Iterator[None]:
    """Writes what the host and the devices do meanwhile to a folder: a trace for Perfetto, and one for TensorBoard.

    They are plugins/profile/DATE/perfetto_trace.json.gz and *.xplane.pb below it. Nothing is done where it is None.
    """
    if directory is None:
        yield
        return
    with jax.profiler.trace(directory, create_perfetto_trace=True):
        yield


def fit(run: Run, images: Images, *, stop: Callable[[], bool] = lambda: False, profile: Path | None = None) -> Outcome:
    """Trains a run to its last step, or until its validation bound no longer rises, or until `stop()` is true.

    `images` are all of its training images, or the `Records` that they are streamed from (`runs.prepare_run`).

    Goes on from the newest checkpoint if there is one. Several processes make the same call, each with all images;
    InputError where their settings or images differ. With `profile`, a folder, the second dispatch (or the only one)
    is traced there, `profiling`. Raises NotFiniteError naming the step and what it read, CheckpointError,
    StorageError or LockedError.
    """
    with contextlib.ExitStack() as stack:
        _agree(run)
        processes.by_first(lambda: stack.enter_context(processes.run_lock(run.directory)))
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
        progress: Any = Unwritten()
        if processes.is_first():
            progress = Progress(
                run.config.train.steps, images_per_step=run.config.train.batch_size, initial_step=first_step
            )
        with progress, recorder.writing(progress):
            for note in (*(restored.notes if restored else ()), *changes_told(run, first_step)):
                progress.print(note)
            feed = stack.enter_context(feeding(run, images, first_step=first_step))
            state, status = _train(recorder, state, feed, stop, profile)
    return Outcome(state, recorder.step, status, restored.step if restored else None, recorder.step - first_step)


def _agree(run: Run) -> None:
    """Refuses processes of unequal settings or images; where the images lie, and by which name, may differ."""
    where = ("data.data_dir", "data.name")
    settings = {path: value for path, value in flatten(run.config).items() if path not in where}
    facts = {f"data.{name}": value for name, value in run.data.items()} | {"images streamed": run.streamed}
    processes.agree(settings | facts)


def _train(
    recorder: "Recorder", state: TrainState, feed: Feed, stop: Callable[[], bool], profile: Path | None
) -> tuple[TrainState, str]:
    """Runs the program until the last step; returns the state and how it ended."""
    program, config, first_step = compile_program(recorder.run), recorder.config, recorder.step
    if recorder.step < config.steps and not recorder.no_better():
        recorder.begin()
        if stop():  # it came while the data were prepared: nothing is there to save yet
            return state, "interrupted"
    while recorder.step < config.steps and not recorder.no_better():
        count = steps_to_dispatch(config, recorder.step)
        images = feed(count)
        if profile and (recorder.step > first_step or recorder.step + count == config.steps):
            recorder.read()
            with profiling(profile):
                state, metrics = jax.block_until_ready(program(state, images, count))
            profile = None
        else:
            state, metrics = program(state, images, count)
        recorder.read()  # the metrics of the dispatch before: the device works meanwhile
        recorder.dispatched(count, metrics)
        last, interrupted = recorder.step == config.steps, stop()
        if config.evaluate_every and (recorder.step % config.evaluate_every == 0 or last):
            recorder.validate(state)
        if recorder.step % config.save_every == 0 or last or interrupted or recorder.no_better():
            recorder.save(state)
        if interrupted and not last:
            return state, "interrupted"
    return state, "done" if recorder.step >= config.steps else "stopped early"


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
            raise InputError(
                f"train.steps: {self.config.steps} given, must be at least the {first_step} of {run.directory}"
            )
        self.step = first_step
        self.schedule = make_schedule(run.config.optimizer, self.config.steps)
        self.max_skips = self.config.max_skips if self.config.nonfinite == "skip" else 0
        self.unread: tuple[int, int, Metrics] | None = None  # (first step, number of steps, metrics)
        self.validation: tuple[Any, np.ndarray] | None = None  # evaluator and images held out, from `begin` on
        self.history = processes.from_first(self._kept_bounds)

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
            self.metrics = processes.by_first(lambda: MetricsFile(path, keep_through_step=first)) or Unwritten()
            stack.callback(self.metrics.close)
            self.board = processes.by_first(lambda: TensorBoard(directory, purge_step=purge)) or Unwritten()
            stack.callback(self.board.close)
            yield

    def begin(self) -> None:
        """To be called before the first of more steps: what was said of the run at its end is no longer so, and images
        held out that cannot be read are told now. Raises InputError, StorageError."""
        if self.config.evaluate_every:
            self.validation = self.run.evaluator(), processes.together(self._held_out)
        remove(self.run.directory / EVALUATION_FILE)

    def dispatched(self, count: int, metrics: Metrics) -> None:
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
        for name, picture in drawing.pictures(self.run, params, key, images[:SHOWN]).items():
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

    def no_better(self) -> bool:
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
