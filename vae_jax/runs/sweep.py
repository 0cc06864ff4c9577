"""Sweeps: train many models in one program; each member has a run directory like that of a single training."""

import contextlib
import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax.config import flatten, replace_unvalidated
from vae_jax.data import mean_image
from vae_jax.errors import NotFiniteError
from vae_jax.inference import Metrics, Params
from vae_jax.runs import changes, config_file, opening, restoring
from vae_jax.runs.checkpoints import Checkpoints, Restored, newest_step
from vae_jax.runs.loggers import NullLogger
from vae_jax.runs.members import BATCHABLE_SETTINGS, Member
from vae_jax.runs.programs import build_program
from vae_jax.runs.progress import Progress
from vae_jax.runs.recorder import Recorder, steps_to_dispatch
from vae_jax.runs.run import Run
from vae_jax.runtime import atomic_files, lock, sharding
from vae_jax.training import TrainState

FAILURE_FILE = "failure.json"  # in the directory of a member that diverged

Numbers = Mapping[str, jax.Array]  # setting -> its value for each member, [M]; inside the program [] for one member


class Trained(NamedTuple):
    """A trained member.

    Attributes:
      run: the member's run.
      params: its parameters for evaluation; None if it diverged.
      failure: why it diverged; None if it did not.
    """

    run: Run
    params: Params | None
    failure: str | None


def prepare_members(group: Sequence[Member], directory: Path) -> tuple[list[Run], np.ndarray]:
    """Validate the members of a group and load their images, without writing anything.

    Args:
      group: members that one program can train.
      directory: the sweep's directory.

    Returns:
      (the run of each member, the training images that all of them read).

    Raises:
      InputError: a member has invalid settings or data, differs from its stored run, or streams its images.
      StorageError: a member's directory cannot be written to.
      CheckpointError: a member's config.json is not the configuration of a run.
    """
    prepared = [opening.prepare_run(member.config, directory / member.name) for member in group]
    images = opening.require_in_memory(*prepared[0], "a sweep")
    return [run for run, _ in prepared], images


def fit_group(
    group: Sequence[Member], directory: Path, *, stop: Callable[[], bool] = lambda: False
) -> list[Trained] | None:
    """Train the members of a group in one program, distributed over the devices.

    Each member's directory contains the same files as after `fit`, with the same numbers up to rounding. (The varied
    settings are float32 arguments of the program. In float32, 1 - b2 of Adam has fewer digits.)

    The same call resumes an interrupted sweep from the newest step that all started members have saved. Finished
    members are not trained again. New members are trained by a separate program. If a member is not finite, it stops at
    its last checkpoint and gets a failure.json, which excludes it from later calls; the other members continue.

    Args:
      group: members that one program can train, see `group_members`.
      directory: the sweep's directory.
      stop: polled after each dispatch; a True saves the states and ends the training.

    Returns:
      The trained members, in the order of `group`; None if `stop()` returned True.

    Raises:
      InputError: as in `prepare_members`, or a member has already more steps than train.steps.
      CheckpointError: no checkpoint of a member can be used.
      StorageError: a checkpoint cannot be written.
      LockedError: another process trains one of the members.
    """
    runs, images = prepare_members(group, directory)
    trained: dict[Path, Trained] = {}
    parts: dict[str, list[Run]] = {"done": [], "begun": [], "new": []}
    for run in runs:
        if (failure := _read_failure(run.directory)) is not None:
            trained[run.directory] = Trained(run, None, failure)
            continue
        step = newest_step(run.directory)
        parts["new" if step is None else "begun" if step < run.config.train.steps else "done"].append(run)
    for part in filter(None, parts.values()):
        results = _fit_part(part, images, stop)
        if results is None:
            return None
        trained |= {result.run.directory: result for result in results}
    return [trained[run.directory] for run in runs]


def _fit_part(runs: Sequence[Run], images: np.ndarray, stop: Callable[[], bool]) -> list[Trained] | None:
    """Do the work of `fit_group` for members at the same step, except for saves that a killed process missed."""
    with contextlib.ExitStack() as stack:
        saved = []
        for run in runs:
            stack.enter_context(lock.run_lock(run.directory))
            saved.append(stack.enter_context(Checkpoints(run.directory)))
        program = _Program(runs)
        restored = _restore_common_step(runs, saved)
        first_step = restored[0].step if restored else 0
        recorders = [Recorder(run, c, first_step=first_step) for run, c in zip(runs, saved, strict=True)]
        state = program.place([r.state for r in restored]) if restored else program.initial_state(images)
        config = runs[0].config.train
        progress = Progress(config.steps, images_per_step=len(runs) * config.batch_size, initial_step=first_step)
        stack.enter_context(progress)
        for recorder in recorders:
            if ahead := recorder.checkpoints.set_aside_after(first_step):
                names = ", ".join(f"ahead-{step}" for step in ahead)
                progress.print(
                    f"{recorder.run.directory}: trains again from step {first_step}, the newest that all members have "
                    f"saved; its later checkpoints are renamed to {names}"
                )
            config_file.write_config(recorder.run, first_step=first_step)
            stack.enter_context(recorder.writing(NullLogger()))  # one progress bar for all members
        for note in changes.describe_changes(runs[0], first_step):
            progress.print(note)
        sweep = _Sweep(program, recorders, progress)
        if not sweep.train(state, images, stop):
            return None
        return [Trained(run, *sweep.result(i)) for i, run in enumerate(runs)]


def _read_failure(directory: Path) -> str | None:
    """Return why a member diverged in an earlier call; None if it did not."""
    try:
        return str(json.loads((directory / FAILURE_FILE).read_text())["failure"])
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _restore_common_step(runs: Sequence[Run], saved: Sequence[Checkpoints]) -> list[Restored] | None:
    """Return every member's state at the newest step that all have saved; None if there is no such step."""
    pairs = list(zip(runs, saved, strict=True))
    restored = [restoring.restore(run, checkpoints) for run, checkpoints in pairs]
    first = min((r.step if r else 0) for r in restored)
    common = [
        r if r and r.step == first else restoring.restore(run, checkpoints, at_most=first)
        for r, (run, checkpoints) in zip(restored, pairs, strict=True)
    ]
    intact = [r for r in common if r and r.step == first]
    return intact if len(intact) == len(common) else None


class _Program:
    """The training program of M models: a function of their numbers, with a leading axis [M] sharded over devices."""

    def __init__(self, runs: Sequence[Run]):
        self.template = runs[0]
        flat = [flatten(run.config) for run in runs]
        numbers = {p: np.asarray([f[p] for f in flat]) for p in sorted(BATCHABLE_SETTINGS)}
        numbers["seed"] = numbers["seed"].astype(np.uint32)
        num_devices = math.gcd(len(runs), self.template.mesh.size)  # the most that get equally many members
        mesh = sharding.make_mesh(num_devices)
        self.members_sharding, self.replicated = sharding.batch_sharding(mesh), sharding.replicated(mesh)
        self.numbers: Numbers = jax.device_put(numbers, self.members_sharding)
        self.steps = jax.jit(
            # Each device trains separate members, so no device waits for another.
            sharding.shard_map_over_mesh(
                self._train_in_turn if sharding.trains_members_in_turn(mesh) else self._train_vectorized,
                mesh,
                in_specs=(self.members_sharding.spec, self.members_sharding.spec, self.replicated.spec),
                out_specs=self.members_sharding.spec,
            ),
            static_argnums=3 if sharding.needs_static_step_count(mesh) else (),
            donate_argnums=1,
            compiler_options=sharding.compiler_options(mesh),
        )

    def _run(self, numbers: Numbers) -> Run:
        return dataclasses.replace(self.template, config=replace_unvalidated(self.template.config, numbers))

    def _train(
        self, numbers: Numbers, state: TrainState, images: jax.Array, count: jax.Array | int
    ) -> tuple[TrainState, Metrics]:
        return build_program(self._run(numbers), place_batch=lambda batch: batch)(state, images, count)

    def _train_vectorized(
        self, numbers: Numbers, state: TrainState, images: jax.Array, count: jax.Array | int
    ) -> tuple[TrainState, Metrics]:
        return jax.vmap(lambda numbers, state: self._train(numbers, state, images, count))(numbers, state)

    def _train_in_turn(
        self, numbers: Numbers, state: TrainState, images: jax.Array, count: jax.Array | int
    ) -> tuple[TrainState, Metrics]:
        return jax.lax.map(lambda member: self._train(member[0], member[1], images, count), (numbers, state))

    def initial_state(self, images: np.ndarray) -> TrainState:
        """Return the states of all members before the first step, [M, ...]."""
        average = mean_image(images, binarization=self.template.config.data.binarization)

        def one(numbers: Numbers) -> TrainState:
            run = self._run(numbers)
            # A NumPy constant, which the compiler folds as in a single training.
            return run.initial_state(run.key, average)  # pyright: ignore[reportArgumentType]  # traced like an array

        return jax.jit(jax.vmap(one), out_shardings=self.members_sharding)(self.numbers)

    def place(self, states: Sequence[TrainState]) -> TrainState:
        """Stack the states of the members, [M, ...], and place them on the devices."""
        return jax.device_put(jax.tree.map(lambda *leaves: jnp.stack(leaves), *states), self.members_sharding)


class _Sweep:
    """The host side of a sweep: one dispatch for all members, and separate records for each."""

    def __init__(self, program: _Program, recorders: Sequence[Recorder], progress: Progress):
        self.program, self.recorders, self.progress = program, list(recorders), progress
        self.failures: dict[int, str] = {}
        self.state: TrainState | None = None

    def train(self, state: TrainState, images: np.ndarray, stop: Callable[[], bool]) -> bool:
        """Train until the last step; return False if `stop()` ended the training before it."""
        config, step = self.recorders[0].config, self.recorders[0].step
        placed, self.state = jax.device_put(images, self.program.replicated), state
        for recorder in self.recorders if step < config.steps else ():
            recorder.begin()
        while step < config.steps:
            count = steps_to_dispatch(config, step)
            self.state, metrics = self.program.steps(self.program.numbers, self.state, placed, count)
            self._each(lambda i, recorder: recorder.read())
            rows = jax.device_get(metrics)  # waits: for many models the wait is short compared with the dispatch
            step += count
            self.progress.update(step)
            by_member = [jax.tree.map(lambda row, i=i: row[i], rows) for i in range(len(self.recorders))]
            self._each(lambda i, recorder, rows=by_member, count=count: recorder.record_dispatch(count, rows[i]))
            last, interrupted = step == config.steps, stop()
            if config.evaluate_every and (step % config.evaluate_every == 0 or last):
                self._each(lambda i, recorder: recorder.validate(self.member(i)))
            if step % config.save_every == 0 or last or interrupted:
                self._each(lambda i, recorder: recorder.save(self.member(i)))
            if interrupted and not last:
                return False
        return True

    def _each(self, action: Callable[[int, Recorder], None]) -> None:
        """Call `action` for each member that has not diverged; record those that diverge in it."""
        for i, recorder in enumerate(self.recorders):
            if i in self.failures:
                continue
            try:
                action(i, recorder)
            except NotFiniteError as error:
                self.failures[i] = str(error)
                atomic_files.write_json(recorder.run.directory / FAILURE_FILE, {"failure": str(error)})
                self.progress.print(f"{recorder.run.directory}: {error}; the other members continue")

    def member(self, i: int) -> TrainState:
        """Return the state of one member, with the shardings of its run."""
        shardings = self.recorders[i].run.state_shardings
        return jax.device_put(jax.tree.map(lambda leaf: leaf[i], self.state), shardings)

    def result(self, i: int) -> tuple[Params | None, str | None]:
        """Return (parameters for evaluation, why the member diverged); one of them is None."""
        if i in self.failures:
            return None, self.failures[i]
        return restoring.evaluation_params(self.member(i), self.recorders[i].run.config), None
