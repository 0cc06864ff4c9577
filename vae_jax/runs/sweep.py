"""Sweeps: train many models in one program; each member has a run directory like that of a single training."""

import contextlib
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax.config import DataConfig, batchable_settings, flatten
from vae_jax.data import Source
from vae_jax.errors import InputError, NotFiniteError
from vae_jax.inference import Metrics, Params
from vae_jax.runs import config_file, restoring
from vae_jax.runs.callbacks import SaveWhen, StopWhen, SweepProgress, recording_callbacks
from vae_jax.runs.changes import describe_changes
from vae_jax.runs.experiment.experiment import Experiment, at_numbers, with_data_of
from vae_jax.runs.experiment.programs import Data, build_program, has_fixed_count
from vae_jax.runs.members import (
    Member,
    group_by_step,
    make_points,
    member_name,
    read_failure,
    refuse_patience,
    require_one_group,
)
from vae_jax.runs.opening import check_experiment, prepare_experiment, require_in_memory
from vae_jax.runs.storage.checkpoints import Checkpoints, Restored
from vae_jax.runs.storage.directory import RunDirectory
from vae_jax.runs.storage.step_folders import list_steps
from vae_jax.runs.train_loop import train
from vae_jax.runs.training_run import TrainingRun
from vae_jax.runtime import Placement, atomic_files, lock, sharding
from vae_jax.training import TrainState

Numbers = Mapping[str, Any]  # setting -> its value for each member, [M]; inside the program [] for one member
MakeExperiment = Callable[[Numbers], Experiment]


class MemberRun(NamedTuple):
    """A member of a sweep that can be trained.

    Attributes:
      experiment: what it trains.
      directory: its files.
      placement: the devices that validate it and hold its saved state, as in a single training.
      numbers: setting -> value, in which the members of one program differ.
      changes: the changes of earlier starts and of this one, see `check_experiment`.
    """

    experiment: Experiment
    directory: RunDirectory
    placement: Placement
    numbers: dict[str, Any]
    changes: list[dict[str, Any]]


class Trained(NamedTuple):
    """A trained member.

    Attributes:
      experiment: what it trains.
      directory: its files.
      params: its parameters for evaluation; None if it diverged.
      failure: why it diverged; None if it did not.
    """

    experiment: Experiment
    directory: RunDirectory
    params: Params | None
    failure: str | None


def prepare_members(
    group: Sequence[Member],
    directory: str | os.PathLike | RunDirectory,
    *,
    log: Callable[[str], None] = lambda line: None,
    sources: dict[DataConfig, Source] | None = None,
) -> list[MemberRun]:
    """Validate the members of a group, which read the same data, without writing anything.

    Args:
      group: members that one program can train, see `group_members`.
      directory: the sweep's directory.
      log: as for `prepare_experiment`.
      sources: as for `prepare_experiment`.

    Returns:
      The members.

    Raises:
      InputError: the members are no group, or one has invalid settings or data, another run, or streamed examples.
      StorageError: a member's directory cannot be written to.
      CheckpointError: a member's config.json is not the configuration of a run.
    """
    require_one_group(group)
    names, members = batchable_settings(), list[MemberRun]()
    sources = {} if sources is None else sources
    for member in group:
        place = RunDirectory(directory).member(member.name)
        experiment, placement = prepare_experiment(member.config, place, allow_change=None, log=log, sources=sources)
        if members:
            experiment = with_data_of(experiment, members[0].experiment)
        assert experiment.config is not None, "it is built from a config"
        numbers = {path: value for path, value in flatten(experiment.config).items() if path in names}
        changes = check_experiment(experiment, place, placement, allow_change=None)
        members.append(MemberRun(experiment, place, placement, numbers, changes))
    require_in_memory(members[0].experiment, "a sweep")
    return members


def fit_group(
    group: Sequence[Member],
    directory: str | os.PathLike | RunDirectory,
    *,
    stop: Callable[[], bool] = lambda: False,
    save: Callable[[], bool] = lambda: False,
    log: Callable[[str], None] = lambda line: None,
    sources: dict[DataConfig, Source] | None = None,
) -> list[Trained] | None:
    """Train the members of a group in one program, distributed over the devices.

    Each member's directory contains the same files as after `fit`, with the same numbers up to rounding. (The varied
    settings are float32 arguments of the program. In float32, 1 - b2 of Adam has fewer digits.)

    The same call resumes an interrupted sweep from the newest step that all started members have saved. Finished
    members are not trained again. New members, and started ones without a common step, are trained by separate
    programs. If a member is not finite, it stops at its last checkpoint and gets a failure.json, which excludes it from
    later calls; the other members continue.

    Args:
      group: members that one program can train, see `group_members`.
      directory: the sweep's directory.
      stop: polled before the first step and after each dispatch; a True saves the states and ends the training.
      save: polled after each dispatch; a True saves the states, and the training goes on.
      log: as for `prepare_experiment`.
      sources: as for `prepare_experiment`.

    Returns:
      The trained members, in the order of `group`; None if `stop()` returned True.

    Raises:
      InputError: as in `prepare_members`, or a member has already more steps than train.steps.
      CheckpointError: no checkpoint of a member can be used.
      StorageError: a checkpoint cannot be written.
      LockedError: another process trains one of the members.
    """
    members = prepare_members(group, directory, log=log, sources=sources)
    template = members[0].experiment
    return fit_members(members, lambda numbers: at_numbers(template, numbers), stop=stop, save=save)


def fit_sweep(
    make: Callable[..., Experiment],
    directory: str | os.PathLike | RunDirectory,
    varied: Mapping[str, Sequence[float]],
    *,
    stop: Callable[[], bool] = lambda: False,
) -> list[Trained] | None:
    """Train an experiment for the product of several numbers in one program, such as {"seed": range(4)}.

    Args:
      make: returns the experiment for keyword arguments with the names of `varied`, such as `seed`. It is also called
        inside of the compiled program, where the arguments are not known: no shape and no branch may depend on them.
      directory: the sweep's directory, with a subdirectory for each member.
      varied: name -> numbers. The last name varies fastest.
      stop: as for `fit_group`.

    Returns:
      The trained members; None if `stop()` returned True. Files, resuming and errors are those of `fit_group`.

    Raises:
      InputError: also if `make` uses early stopping, or a preprocessing that stores samples of a seed that is varied.
    """
    one_device, members = Placement(sharding.make_mesh(1)), []
    for point in make_points(varied):
        experiment, place = make(**point), RunDirectory(directory).member(member_name(point))
        refuse_patience(experiment.training.patience)
        if members:
            if getattr(experiment.preprocess, "in_memory", False) and experiment.seed != members[0].experiment.seed:
                raise InputError("the seed decides what the preprocessing stores, so it cannot be varied; fix the seed")
            experiment = with_data_of(experiment, members[0].experiment)
        changes = check_experiment(experiment, place, one_device, allow_change=None)
        members.append(MemberRun(experiment, place, Placement(), point, changes))
    require_in_memory(members[0].experiment, "a sweep")
    return fit_members(members, lambda numbers: make(**numbers), stop=stop)


def fit_members(
    members: Sequence[MemberRun],
    make: MakeExperiment,
    *,
    stop: Callable[[], bool] = lambda: False,
    save: Callable[[], bool] = lambda: False,
) -> list[Trained] | None:
    """Do the work of `fit_group` for members that are checked.

    Args:
      members: the members, which read the same data.
      make: numbers of one member, possibly known only inside a compiled program -> its experiment.
      stop: as for `fit_group`.
      save: as for `fit_group`.
    """
    trained: dict[RunDirectory, Trained] = {}
    parts: dict[str, list[MemberRun]] = {"done": [], "begun": [], "new": []}
    for member in members:
        if (failure := read_failure(member.directory)) is not None:
            trained[member.directory] = Trained(member.experiment, member.directory, None, failure)
            continue
        step = max(list_steps(member.directory.checkpoints), default=None)
        steps = member.experiment.training.steps
        parts["new" if step is None else "begun" if step < steps else "done"].append(member)
    begun = group_by_step(parts["begun"], lambda member: list_steps(member.directory.checkpoints))
    for part in filter(None, (parts["done"], *begun, parts["new"])):
        results = _fit_part(part, make, stop, save)
        if results is None:
            return None
        trained |= {result.directory: result for result in results}
    return [trained[member.directory] for member in members]


def _fit_part(
    members: Sequence[MemberRun], make: MakeExperiment, stop: Callable[[], bool], save: Callable[[], bool]
) -> list[Trained] | None:
    """Train members that are at the same step, except for saves that a killed process missed."""
    with contextlib.ExitStack() as stack:
        saved: list[Checkpoints] = []
        for member in members:
            stack.enter_context(lock.run_lock(member.directory.path))
            saved.append(stack.enter_context(Checkpoints(member.directory.path)))
        compiled = _CompiledMembers(members, make)
        restored = _restore_common_step(members, saved, compiled.placement)
        first_step = restored[0].step if restored else 0
        compiled.start([r.state for r in restored] if restored else None)
        runs = [
            TrainingRun(m.experiment, m.directory, m.placement, c, first_step=first_step,
                        state=lambda i=i, m=m: compiled.member(i, m.placement), member=i,
                        metrics=r and r.metrics, notes=tuple(r.notes) if r else ())
            for i, (m, c, r) in enumerate(zip(members, saved, restored or [None] * len(members), strict=True))
        ]  # fmt: skip
        progress, polls = SweepProgress(len(runs)), (StopWhen(stop), SaveWhen(save))
        failures: dict[int, str] = {}
        for run, member in zip(runs, members, strict=True):
            config_file.write_config(run.directory, run.experiment, member.changes, first_step=first_step)
            run.notes = (*run.notes, *_set_aside_later_steps(run))
            run.callbacks = (progress, *polls, *recording_callbacks(stop))
        runs[0].notes += tuple(describe_changes(members[0].changes, members[0].experiment.description(), first_step))

        def on_failure(run: TrainingRun, error: NotFiniteError) -> None:
            failures[runs.index(run)] = str(error)
            atomic_files.write_json(run.directory.failure, {"failure": str(error)})
            progress.progress.print(f"{run.directory}: {error}; the other members continue")

        placed = jax.device_put(members[0].experiment.training_data.read_all(), compiled.placement.replicated)
        train(runs, compiled, lambda count: placed, on_failure=on_failure)
        if any(run.stop_reason and not run.is_last for run in runs):
            return None
        return [
            Trained(run.experiment, run.directory, None if i in failures else run.params, failures.get(i))
            for i, run in enumerate(runs)
        ]


def _set_aside_later_steps(run: TrainingRun) -> tuple[str, ...]:
    """Rename the checkpoints after the first step, so that it can be trained again; return lines about it."""
    ahead = run.checkpoints.set_aside_after(run.first_step)
    if not ahead:
        return ()
    names = ", ".join(f"ahead-{step}" for step in ahead)
    return (
        f"{run.directory}: trains again from step {run.first_step}, the newest that all members have saved; its later "
        f"checkpoints are renamed to {names}",
    )


def _restore_common_step(
    members: Sequence[MemberRun], saved: Sequence[Checkpoints], placement: Placement
) -> list[Restored] | None:
    """Return every member's state at the newest step that all have saved; None if there is no such step."""

    def restore(member: MemberRun, checkpoints: Checkpoints, at_most: int | None = None) -> Restored | None:
        changed = {change["setting"] for change in member.changes}
        return restoring.restore(member.experiment, checkpoints, placement, changed=changed, at_most=at_most)

    pairs = list(zip(members, saved, strict=True))
    restored = [restore(*pair) for pair in pairs]
    first = min((r.step if r else 0) for r in restored)
    common = [
        r if r and r.step == first else restore(*pair, at_most=first) for r, pair in zip(restored, pairs, strict=True)
    ]
    intact = [r for r in common if r and r.step == first]
    return intact if len(intact) == len(common) else None


class _CompiledMembers:
    """The training program of M models: a function of their numbers, with a leading axis [M] sharded over devices."""

    state: TrainState

    def __init__(self, members: Sequence[MemberRun], make: MakeExperiment):
        self._template, self._make = members[0].experiment, make
        columns = {path: np.asarray([m.numbers[path] for m in members]) for path in sorted(members[0].numbers)}
        if "seed" in columns:
            columns["seed"] = columns["seed"].astype(np.uint32)
        count = math.gcd(len(members), jax.device_count())  # the most devices that get equally many members
        self.placement = Placement(sharding.make_mesh(count))
        mesh, split = self.placement.mesh, self.placement.batch
        self._numbers: Numbers = jax.device_put(columns, split)
        self.fixed_count = has_fixed_count(self._template, self.placement, models=len(members) // count)
        self._steps = jax.jit(
            # Each device trains separate members, so no device waits for another.
            sharding.shard_map_over_mesh(
                self._train_in_turn if sharding.trains_members_in_turn(mesh) else self._train_vectorized,
                mesh,
                in_specs=(split.spec, split.spec, self.placement.replicated.spec),
                out_specs=split.spec,
            ),
            static_argnums=3 if self.fixed_count else (),
            donate_argnums=1,
            compiler_options=self.placement.compiler_options,
        )

    def __call__(self, state: TrainState, data: Data, count: int) -> tuple[TrainState, Metrics]:
        return self._steps(self._numbers, state, data, count)

    def _experiment(self, numbers: Numbers) -> Experiment:
        return with_data_of(self._make(numbers), self._template)

    def _train(
        self, numbers: Numbers, state: TrainState, data: Data, count: jax.Array | int
    ) -> tuple[TrainState, Metrics]:
        one_device = Placement(sharding.make_mesh(1))
        return build_program(self._experiment(numbers), one_device)(state, data, count)

    def _train_vectorized(
        self, numbers: Numbers, state: TrainState, data: Data, count: jax.Array | int
    ) -> tuple[TrainState, Metrics]:
        return jax.vmap(lambda numbers, state: self._train(numbers, state, data, count))(numbers, state)

    def _train_in_turn(
        self, numbers: Numbers, state: TrainState, data: Data, count: jax.Array | int
    ) -> tuple[TrainState, Metrics]:
        return jax.lax.map(lambda member: self._train(member[0], member[1], data, count), (numbers, state))

    def start(self, states: Sequence[TrainState] | None) -> None:
        """Place the restored states of the members on the devices, [M, ...]; None for those before the first step."""
        if states is not None:
            stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
            self.state = jax.device_put(stacked, self.placement.batch)
            return
        mean = self._template.data_mean()  # a NumPy constant, which the compiler folds as in a single training

        def one(numbers: Numbers) -> TrainState:
            experiment = self._experiment(numbers)
            return experiment.initial_state(experiment.key, mean)

        self.state = jax.jit(jax.vmap(one), out_shardings=self.placement.batch)(self._numbers)

    def member(self, i: int, placement: Placement) -> TrainState:
        """Return the state of one member, placed as in a single training."""
        state = jax.tree.map(lambda leaf: leaf[i], self.state)
        return jax.device_put(state, placement.state(state))
