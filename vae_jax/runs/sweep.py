"""Many models in one program: a product of settings, trained side by side, each left behind as a run of its own."""

import contextlib
import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax.config import flatten, replace_unvalidated
from vae_jax.data import mean_image
from vae_jax.errors import NotFiniteError
from vae_jax.inference import Params
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

Numbers = dict[str, np.ndarray]  # path of a setting -> its value for each member, [M]


class Trained(NamedTuple):
    """A member after its training."""

    run: Run
    params: Params | None  # None where it diverged
    failure: str | None


def prepare_members(group: Sequence[Member], directory: Path) -> tuple[list[Run], np.ndarray]:
    """(the runs of a group's members, the images that all of them read), nothing written yet.

    Raises InputError or StorageError where a member cannot be trained in its directory.
    """
    prepared = [opening.prepare_run(member.config, directory / member.name) for member in group]
    images = opening.require_in_memory(*prepared[0], "a sweep")
    return [run for run, _ in prepared], images


def fit_group(
    group: Sequence[Member], directory: Path, *, stop: Callable[[], bool] = lambda: False
) -> list[Trained] | None:
    """Trains the members side by side in one program, spread over the devices; None if `stop()` came true.

    Each member's directory holds what `fitting.fit` leaves, and equals, to rounding, that of the same run alone (the
    settings that vary are float32 numbers here: 1 - b2 of Adam has fewer digits). The same call goes on after an
    interruption, from the newest step that all members have that have begun; those that are done are left as they are,
    and new ones are a program of their own. A member that is not finite is left at its last checkpoint, with
    failure.json, which keeps it out from then on, and the others go on. Raises CheckpointError, StorageError,
    LockedError, and InputError where a member has more steps than are asked for.
    """
    every, images = prepare_members(group, directory)
    trained, parts = {}, {"done": [], "begun": [], "new": []}
    for run in every:
        if (told := _read_failure(run.directory)) is not None:
            trained[run.directory] = Trained(run, None, told)
            continue
        step = newest_step(run.directory)
        parts["new" if step is None else "begun" if step < run.config.train.steps else "done"].append(run)
    for found in filter(None, parts.values()):
        results = _fit_side_by_side(found, images, stop)
        if results is None:
            return None
        trained |= {result.run.directory: result for result in results}
    return [trained[run.directory] for run in every]


def _fit_side_by_side(found: Sequence[Run], images: np.ndarray, stop: Callable[[], bool]) -> list[Trained] | None:
    """`fit_group` of members that are as far as each other, but for the saves that a kill has come between."""
    with contextlib.ExitStack() as stack:
        saved = []
        for run in found:
            stack.enter_context(lock.run_lock(run.directory))
            saved.append(stack.enter_context(Checkpoints(run.directory)))
        program = _Program(found)
        restored = _common_step(found, saved)
        first_step = restored[0].step if restored else 0
        recorders = [Recorder(run, c, first_step=first_step) for run, c in zip(found, saved, strict=True)]
        state = program.place([r.state for r in restored]) if restored else program.initial_state(images)
        config = found[0].config.train
        progress = Progress(config.steps, images_per_step=len(found) * config.batch_size, initial_step=first_step)
        stack.enter_context(progress)
        for recorder in recorders:
            if ahead := recorder.checkpoints.set_aside_after(first_step):
                told = ", ".join(map(str, ahead))
                progress.print(f"{recorder.run.directory}: step(s) {told}, which the others lack, are made again")
            config_file.write_config(recorder.run, first_step=first_step)
            stack.enter_context(recorder.writing(NullLogger()))  # the sweep shows a bar for all
        for note in changes.describe_changes(found[0], first_step):
            progress.print(note)
        sweep = _Sweep(program, recorders, progress)
        if not sweep.train(state, images, stop):
            return None
        return [Trained(run, *sweep.result(i)) for i, run in enumerate(found)]


def _read_failure(directory: Path) -> str | None:
    """Why a member diverged in an earlier start; None where it did not."""
    try:
        return str(json.loads((directory / FAILURE_FILE).read_text())["failure"])
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _common_step(found: Sequence[Run], saved: Sequence[Checkpoints]) -> list[Restored] | None:
    """Every member's state at the newest step that all have; None, for a start at step 0, where there is no such."""
    pairs = list(zip(found, saved, strict=True))
    restored = [restoring.restore(run, checkpoints) for run, checkpoints in pairs]
    first = min((r.step if r else 0) for r in restored)
    behind = [
        r if r and r.step == first else restoring.restore(run, checkpoints, at_most=first)
        for r, (run, checkpoints) in zip(restored, pairs, strict=True)
    ]
    return behind if all(r and r.step == first for r in behind) else None


class _Program:
    """The training of M models as functions of their numbers, with a leading axis [M] that is spread over devices."""

    def __init__(self, found: Sequence[Run]):
        self.template = found[0]
        flat = [flatten(run.config) for run in found]
        self.numbers: Numbers = {p: np.asarray([f[p] for f in flat]) for p in sorted(BATCHABLE_SETTINGS)}
        self.numbers["seed"] = self.numbers["seed"].astype(np.uint32)
        share = math.gcd(len(found), self.template.mesh.size)  # devices that the members can be spread over evenly
        mesh = sharding.make_mesh(share)
        self.spread, everywhere = sharding.batch_sharding(mesh), sharding.replicated(mesh)
        self.numbers = jax.device_put(self.numbers, self.spread)
        self.everywhere = everywhere
        self.steps = jax.jit(
            # Each device has its own members, so that none waits for another's.
            sharding.shard_map_over_mesh(
                self._in_turn if sharding.trains_members_in_turn(mesh) else self._side_by_side,
                mesh,
                in_specs=(self.spread.spec, self.spread.spec, everywhere.spec),
                out_specs=self.spread.spec,
            ),
            static_argnums=3 if sharding.needs_static_step_count(mesh) else (),
            donate_argnums=1,
            compiler_options=sharding.compiler_options(mesh),
        )

    def _run(self, numbers: Mapping[str, jax.Array]) -> Run:
        return dataclasses.replace(self.template, config=replace_unvalidated(self.template.config, numbers))

    def _steps(self, numbers: Numbers, state: TrainState, images: jax.Array, count: jax.Array | int) -> Any:
        return build_program(self._run(numbers), place_batch=lambda batch: batch)(state, images, count)

    def _side_by_side(self, numbers: Numbers, state: TrainState, images: jax.Array, count: jax.Array | int) -> Any:
        return jax.vmap(lambda *member: self._steps(*member, images, count))(numbers, state)

    def _in_turn(self, numbers: Numbers, state: TrainState, images: jax.Array, count: jax.Array | int) -> Any:
        return jax.lax.map(lambda member: self._steps(*member, images, count), (numbers, state))

    def initial_state(self, images: np.ndarray) -> TrainState:
        average = mean_image(images, binarization=self.template.config.data.binarization)

        def one(numbers: Numbers) -> TrainState:
            run = self._run(numbers)
            return run.initial_state(run.key, average)

        return jax.jit(jax.vmap(one), out_shardings=self.spread)(self.numbers)

    def place(self, states: Sequence[TrainState]) -> TrainState:
        """States side by side, [M, ...]."""
        return jax.device_put(jax.tree.map(lambda *leaves: jnp.stack(leaves), *states), self.spread)


class _Sweep:
    """The host's side: one dispatch for all members, and each member's own records."""

    def __init__(self, program: _Program, recorders: Sequence[Recorder], progress: Progress):
        self.program, self.recorders, self.progress = program, list(recorders), progress
        self.failures: dict[int, str] = {}
        self.state: TrainState | None = None

    def train(self, state: TrainState, images: np.ndarray, stop: Callable[[], bool]) -> bool:
        """Trains to the last step; False if `stop()` came true before it."""
        config, step = self.recorders[0].config, self.recorders[0].step
        images, self.state = jax.device_put(images, self.program.everywhere), state
        for recorder in self.recorders if step < config.steps else ():
            recorder.begin()
        while step < config.steps:
            count = steps_to_dispatch(config, step)
            self.state, metrics = self.program.steps(self.program.numbers, self.state, images, count)
            self._each(lambda i, recorder: recorder.read())
            rows = jax.device_get(metrics)  # waits: the next dispatch of many models is worth more than its delay
            step += count
            self.progress.update(step)
            of = [jax.tree.map(lambda row, i=i: row[i], rows) for i in range(len(self.recorders))]
            self._each(lambda i, recorder, of=of, count=count: recorder.record_dispatch(count, of[i]))
            last, interrupted = step == config.steps, stop()
            if config.evaluate_every and (step % config.evaluate_every == 0 or last):
                self._each(lambda i, recorder: recorder.validate(self.member(i)))
            if step % config.save_every == 0 or last or interrupted:
                self._each(lambda i, recorder: recorder.save(self.member(i)))
            if interrupted and not last:
                return False
        return True

    def _each(self, action: Callable[[int, Recorder], None]) -> None:
        for i, recorder in enumerate(self.recorders):
            if i in self.failures:
                continue
            try:
                action(i, recorder)
            except NotFiniteError as error:
                self.failures[i] = str(error)
                atomic_files.write_json(recorder.run.directory / FAILURE_FILE, {"failure": str(error)})
                self.progress.print(f"{recorder.run.directory}: {error}; the other members go on")

    def member(self, i: int) -> TrainState:
        """The state of one member, placed as that of its run alone."""
        shardings = self.recorders[i].run.state_shardings
        return jax.device_put(jax.tree.map(lambda leaf: leaf[i], self.state), shardings)

    def result(self, i: int) -> tuple[Params | None, str | None]:
        """(parameters to judge and to draw with, why there are none)."""
        if i in self.failures:
            return None, self.failures[i]
        return restoring.evaluation_params(self.member(i), self.recorders[i].run.config), None
