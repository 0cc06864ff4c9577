"""Saves the training state and brings it back; the only module that knows Orbax.

A run keeps its steps in `checkpoints/STEP/`, each with four items: the state, the config and the data
description that it belongs to, and the digests that tell whether all of it is still what was saved. A step is
either whole or absent: it is written under a temporary name and renamed at the end.
"""

import inspect
import logging
import os
import re
import shutil
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import multihost_utils

from vae_jax.errors import CheckpointError, NotFiniteError, StorageError, VaeJaxError
from vae_jax.runs.checksums import (
    checksum,
    combined_checksum,
    dtype_and_shape,
    first_few,
    mismatches,
    named_leaves,
    to_json_types,
)
from vae_jax.runtime import multihost

PyTree = Any

FOLDER_NAME = "checkpoints"
_TEMPORARIES = "*.orbax-checkpoint-tmp*"
_IN_ORBAX = f"{os.sep}orbax{os.sep}"
_OF_ORBAX = (_IN_ORBAX, "tensorstore", "orbax-checkpoint", "OCDBT")  # the marks of what it and its storage log
_LARGE = 1 << 30  # bytes


class Restored(NamedTuple):
    """What `Checkpoints.restore` found; `notes` has a line for each newer step that is damaged."""

    state: PyTree
    step: int
    notes: list[str]


def newest_step(directory: Path) -> int | None:
    """The newest step in a run's directory by the names alone, whole or not; None where there is none."""
    return max((int(path.name) for path in (directory / FOLDER_NAME).glob("*") if path.name.isdecimal()), default=None)


class _Damaged(Exception):
    """A step whose files are not what was saved."""


class Checkpoints:
    """The saved steps of one run directory; a context manager that waits for the last save when it closes.

    `read_only` leaves every file alone, so that a run can be evaluated while it trains. In a run of several
    processes all of them make the same calls.
    """

    def __init__(self, directory: str | os.PathLike, *, keep: int = 3, read_only: bool = False):
        import orbax.checkpoint as ocp
        from orbax.checkpoint.checkpoint_managers import preservation_policy as policies

        self.directory = Path(directory).absolute() / FOLDER_NAME
        self._read_only = read_only
        self._args, self._handler = ocp.args, ocp.StandardCheckpointHandler()
        self._pending: tuple[int, dict] | None = None  # the save that is not known to be whole yet
        self._error: BaseException | None = None  # what has stopped it here
        self._broken = False  # whether Orbax's threads wait for a process whose save has failed
        self._meet = ocp.multihost.get_barrier_sync_fn()
        alone = {"create_directories_asynchronously": False}  # or, if one is refused, other threads wait 20 minutes
        how = alone if multihost.is_single_process() else {"barrier_sync_fn": self._barrier}
        _quiet_orbax()
        try:
            self._remove_temporaries()
            self._manager = ocp.CheckpointManager(
                self.directory,
                options=ocp.CheckpointManagerOptions(
                    preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(keep)]),
                    create=not read_only,
                    read_only=read_only,
                    lightweight_initialize=True,  # a damaged step must not prevent the opening
                    async_options=ocp.AsyncOptions(**how),
                ),
            )
        except OSError as error:
            raise StorageError(f"cannot open {self.directory}: {_reason(error)}") from error

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, exc_type, exc, traceback) -> None:
        if not (exc is None or isinstance(exc, VaeJaxError) or multihost.is_single_process()):
            return  # this process alone is here, and the last save would wait for the others
        try:
            self.wait()
        except StorageError as error:
            if exc is None:
                raise
            exc.add_note(str(error))  # the first error is the one to report
        finally:
            if not self._broken:
                self._manager.close()

    def steps(self) -> list[int]:
        """The steps on disk, oldest first, a save under way among them."""
        return sorted(self._manager.all_steps())

    def latest_step(self) -> int | None:
        """The newest of `steps()`."""
        return max(self.steps(), default=None)

    def save(self, step: int, state: PyTree, *, config: dict, data: dict) -> bool:
        """Starts to save a state; returns False, and does nothing, if this step is saved already.

        On return the state is copied, and the caller may donate its buffers. The files are written in the
        background: what goes wrong there is raised by `check`, `wait` or the next `save`. Saves nothing and
        raises NotFiniteError if a leaf holds a NaN or an infinity.
        """
        self.wait()
        newest = self.latest_step()
        if newest is not None and step <= newest:
            if step in self.steps():
                return False
            raise CheckpointError(f"step {step} is older than the newest step {newest} in {self.directory}")
        copy, finite = _copy(state)
        paths = [path for path, ok in named_leaves(jax.device_get(finite)) if not ok]
        if paths:
            raise NotFiniteError(f"step {step} is not saved, it is not finite: {', '.join(first_few(paths))}")
        config, data = to_json_types(config), to_json_types(data)
        leaves = {path: {"spec": dtype_and_shape(leaf), "sha256": checksum(leaf)} for path, leaf in named_leaves(copy)}
        digests = {"leaves": leaves, "description": combined_checksum(config, data, leaves)}
        self._pending = step, {"state": copy, "config": config, "data": data, "digests": digests}
        self._error = self._start() or self._error
        if not multihost.is_single_process():
            self._pending = step, {}  # there is no second try, so the copy can go once it is written
        self._failed = multihost.any_process(self._failed_here)
        return True

    def check(self) -> None:
        """Raises StorageError if the last save has failed, in any process; waits only where one is tried again.

        Where it is whole its copy of the state is let go.
        """
        if self._pending and self._failed():
            self.wait()

    def wait(self) -> None:
        """Waits until the last save is whole; one that failed is tried once more, then raises StorageError.

        With several processes there is no second try, and none of them can save or end in order (`processes.leave`).
        """
        if self._pending is None:
            return
        error = self._error or self._join() if multihost.is_single_process() else self._first_error()
        if error and multihost.is_single_process():
            self._remove_temporaries()
            error = self._start() or self._join()
        step, _ = self._pending
        self._pending = self._error = None
        if error:
            self._broken = not multihost.is_single_process()
            self._remove_temporaries()
            raise StorageError(f"step {step} is not saved in {self.directory}: {_reason(error)}") from error

    def restore(
        self,
        target: PyTree,
        *,
        config: dict,
        data: dict,
        ignore: frozenset[str] = frozenset(),
        at_most: int | None = None,
    ) -> Restored | None:
        """The newest step that is whole, and no later than `at_most` if that is given; None if there are no steps.

        `target` holds a `jax.ShapeDtypeStruct` for each leaf, with the sharding that it is to have (the
        first device if it has none). `ignore` names fields of config and data, or whole sections, that may differ. A
        damaged step is renamed to damaged-STEP once an older one is read in its place. Raises CheckpointError
        if the newest readable step has another config, other data or other leaves, or if all are damaged.
        """
        self.wait()
        self._manager.reload()
        target = jax.tree.map(_placed, target)
        damaged = {}
        for step in reversed(self.steps()):
            if at_most is not None and step > at_most:
                continue
            try:
                leaves = self._compare(step, target, config, data, ignore)
                state = self._read(step, target, leaves)
            except CheckpointError:
                raise
            except Exception as error:  # whatever Orbax makes of files that are not what it wrote
                damaged[step] = _reason(error)
                continue
            self._set_aside(damaged, "damaged")
            notes = [f"step {old} is damaged ({why}); using step {step}" for old, why in damaged.items()]
            return Restored(state, step, notes)
        if damaged:
            reasons = "; ".join(f"step {step} ({why})" for step, why in damaged.items())
            raise CheckpointError(f"every checkpoint in {self.directory} is damaged: {reasons}")
        return None

    def set_aside_after(self, step: int) -> list[int]:
        """Renames the steps after `step` to ahead-STEP, so that they can be made and saved again; says which."""
        self.wait()
        self._manager.reload()
        later = [other for other in self.steps() if other > step]
        self._set_aside(later, "ahead")
        return later

    def _compare(self, step: int, target: PyTree, config: dict, data: dict, ignore: frozenset[str]) -> dict:
        """The digests of a step's leaves; raises CheckpointError if the step is not of this run.

        It says so before Orbax reads the state, because Orbax would cast a dtype in silence.
        """
        args = {name: self._args.JsonRestore() for name in ("config", "data", "digests")}
        found = self._manager.restore(step, args=self._args.Composite(**args))
        leaves = found["digests"]["leaves"]
        if combined_checksum(found["config"], found["data"], leaves) != found["digests"]["description"]:
            raise _Damaged("config, data and digests do not belong together")
        saved = {path: leaf["spec"] for path, leaf in leaves.items()}
        given = {path: dtype_and_shape(leaf) for path, leaf in named_leaves(target)}
        problems = [
            *mismatches(found["config"], to_json_types(config), "config", ignore=ignore),
            *mismatches(found["data"], to_json_types(data), "data", ignore=ignore),
            *first_few(mismatches(saved, given, "state", show=str)),
        ]
        if problems:
            raise CheckpointError(f"step {step} in {self.directory} does not fit: {'; '.join(problems)}")
        declared = sum(leaf.size * leaf.dtype.itemsize for _, leaf in named_leaves(target))
        there = sum(file.stat().st_size for file in (self.directory / str(step)).rglob("*") if file.is_file())
        if declared > _LARGE and declared > 1000 * there:  # what is compressed shrinks to a tenth, not to nothing
            raise _Damaged(f"declares {declared} bytes, and its files hold {there}")
        return leaves

    def _read(self, step: int, target: PyTree, leaves: dict) -> PyTree:
        def read() -> PyTree:  # not by the manager, which ends in a barrier: each process reads its own shards,
            try:  # and those of one alone may be damaged
                item = self._manager.directory / str(step) / "state"
                return self._handler.restore(item, args=self._args.StandardRestore(target))
            except Exception as error:
                raise _Damaged(_reason(error)) from error

        state = multihost.run_on_all(read, expected=_Damaged)
        for path, leaf in named_leaves(state):
            if checksum(leaf) != leaves[path]["sha256"]:
                raise _Damaged(f"{path} does not match its digest")
        return state

    def _start(self) -> Exception | None:
        step, items = self._pending
        kinds = {"state": self._args.StandardSave}
        args = {name: kinds.get(name, self._args.JsonSave)(item) for name, item in items.items()}
        try:
            self._manager.save(step, args=self._args.Composite(**args))
        except Exception as error:  # Orbax raises the file system's refusals as ValueError, too
            return error
        return None

    def _join(self) -> Exception | None:
        # `check_for_errors` of the manager stays silent: its own thread has taken the error by then
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            self._manager.reload()
            return error
        return None

    def _failed_here(self) -> bool:
        if multihost.is_single_process() and not (self._error or self._manager.is_saving_in_progress()):
            self._error = self._join()
            self._pending = self._pending if self._error else None
        return self._error is not None

    def _barrier(self, *, key: str, timeout_ms: int) -> None:
        """Where Orbax's threads wait for the other processes, twenty minutes long: also one whose save has failed."""
        self._error = self._error or sys.exc_info()[1]
        self._meet(key=key, timeout_ms=timeout_ms)

    def _first_error(self) -> Exception | None:
        """What has stopped a save of several processes in the first of them that it failed in, told to all."""
        while True:
            over = not (self._error or self._manager.is_saving_in_progress())
            found = multihost.gather_text(_reason(self._error) if self._error else "." if over else "")
            for rank, told in enumerate(found):
                if len(told) > 1:
                    return OSError(f"process {rank}: {told}")
            if all(found):
                return self._join()
            time.sleep(0.02)

    def _remove_temporaries(self) -> None:
        if self._read_only or jax.process_index() > 0:
            return
        end = time.monotonic() + 1  # threads of a save that has failed may still write
        while time.monotonic() < end and (found := list(self.directory.glob(_TEMPORARIES))):
            for path in found:
                shutil.rmtree(path, ignore_errors=True)
            time.sleep(0.05)

    def _set_aside(self, steps: Iterable[int], why: str) -> None:
        """Renames steps to WHY-STEP, so that the same step can be saved again; what had that name goes."""
        if self._read_only or not steps:
            return
        if jax.process_index() == 0:
            for step in steps:
                aside = self.directory / f"{why}-{step}"
                shutil.rmtree(aside, ignore_errors=True)
                try:
                    (self.directory / str(step)).rename(aside)
                except OSError as error:
                    raise StorageError(f"cannot set step {step} aside: {_reason(error)}") from error
        multihost_utils.sync_global_devices(f"{why} steps are set aside")
        self._manager.reload()


def _quiet_orbax() -> None:
    """Drops what Orbax logs beside raising it, and what its abandoned reads and writes say later."""
    for name in ("absl", "asyncio"):
        logging.getLogger(name).addFilter(_not_from_orbax)
    outer = sys.unraisablehook
    if getattr(outer, "__name__", "") == "_hook_without_orbax":
        return

    def _hook_without_orbax(unraisable):
        origin, error = unraisable.object, unraisable.exc_value
        abandoned = inspect.iscoroutine(origin) and _IN_ORBAX in origin.cr_code.co_filename
        late = origin is None and isinstance(error, RuntimeError) and str(error) == "Event loop is closed"
        if not (abandoned or late):
            outer(unraisable)

    sys.unraisablehook = _hook_without_orbax


def _not_from_orbax(record: logging.LogRecord) -> bool:
    text = f"{record.pathname} {record.getMessage()}"
    return not any(mark in text for mark in _OF_ORBAX)


@jax.jit
def _copy(state: PyTree) -> tuple[PyTree, PyTree]:
    """The state in new buffers, with its shardings, and for each leaf whether it is finite."""

    def finite(x):
        return jnp.isfinite(x).all() if jnp.issubdtype(x.dtype, jnp.inexact) else jnp.array(True)

    return jax.tree.map(jnp.copy, state), jax.tree.map(finite, state)


def _placed(leaf: Any) -> jax.ShapeDtypeStruct:
    sharding = leaf.sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _reason(error: BaseException) -> str:
    """The root of an error in one line of at most 250 characters, or the file system's own word for it."""
    while error.__cause__:
        error = error.__cause__
    kind = "" if isinstance(error, OSError | _Damaged) else f"{type(error).__name__}: "
    text = kind + " ".join(str(error).split())
    if refused := re.search(r"os_error_code='(\d+)'", text):  # at the end of a page about the array that was written
        return os.strerror(int(refused[1]))
    return text if len(text) <= 250 else f"{text[:100]} ... {text[-145:]}"
