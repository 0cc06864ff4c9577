"""Save and restore training states with Orbax, which no other module imports.

Each step is a folder `checkpoints/STEP/` with four items: the `state`, the `config` and the description of the `data`
that it belongs to, and `digests`, the checksums by which a restore detects damage. A step is either complete or absent:
it is written under a temporary name and renamed at the end.
"""

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
from vae_jax.runs import checksums, orbax_messages
from vae_jax.runtime import multihost

PyTree = Any

FOLDER_NAME = "checkpoints"
_TEMPORARIES = "*.orbax-checkpoint-tmp*"
_LARGE_STATE = 1 << 30  # bytes


class Restored(NamedTuple):
    """A restored training state.

    Attributes:
      state: the state.
      step: its step.
      notes: a line for each newer step that is damaged.
    """

    state: PyTree
    step: int
    notes: list[str]


def newest_step(directory: Path) -> int | None:
    """Return the newest step in a run's directory by the names of its folders, damaged or not; None without steps."""
    return max((int(path.name) for path in (directory / FOLDER_NAME).glob("*") if path.name.isdecimal()), default=None)


class _Damaged(Exception):
    """The files of a step differ from what was saved."""


class Checkpoints:
    """The saved steps of one run; a context manager that waits for the last save when it closes.

    With several processes all of them make the same calls.

    Args:
      directory: the run's directory.
      keep: number of newest steps to keep.
      read_only: whether no file may be changed, so that a run can be evaluated while another process trains it.

    Attributes:
      directory: the folder of the checkpoints.

    Raises:
      StorageError: the folder cannot be created or read.
    """

    def __init__(self, directory: str | os.PathLike, *, keep: int = 3, read_only: bool = False):
        import orbax.checkpoint as ocp
        from orbax.checkpoint.checkpoint_managers import preservation_policy as policies

        self.directory = Path(directory).absolute() / FOLDER_NAME
        self._read_only = read_only
        self._args, self._handler = ocp.args, ocp.StandardCheckpointHandler()
        self._pending: tuple[int, dict[str, Any]] | None = None  # the last save, until it is known to be complete
        self._error: BaseException | None = None  # the error of that save in this process
        self._blocked = False  # whether Orbax's threads wait for a process whose save has failed
        self._orbax_barrier = ocp.multihost.get_barrier_sync_fn()
        if multihost.is_single_process():
            # Asynchronous creation would let other threads wait 20 minutes after a folder could not be created.
            async_options = ocp.AsyncOptions(create_directories_asynchronously=False)
        else:
            async_options = ocp.AsyncOptions(barrier_sync_fn=self._barrier)
        orbax_messages.silence()
        try:
            self._remove_temporaries()
            self._manager = ocp.CheckpointManager(
                self.directory,
                options=ocp.CheckpointManagerOptions(
                    preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(keep)]),
                    create=not read_only,
                    read_only=read_only,
                    lightweight_initialize=True,  # a damaged step must not be an error here
                    async_options=async_options,
                ),
            )
        except OSError as error:
            raise StorageError(f"cannot open {self.directory}: {_reason(error)}") from error

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, exc_type, exc, traceback) -> None:
        if not (exc is None or isinstance(exc, VaeJaxError) or multihost.is_single_process()):
            return  # an error of this process only: the last save would wait for the other processes
        try:
            self.wait()
        except StorageError as error:
            if exc is None:
                raise
            exc.add_note(str(error))  # report the first error
        finally:
            if not self._blocked:
                self._manager.close()

    def steps(self) -> list[int]:
        """Return the steps on disk, oldest first, including a save in progress."""
        return sorted(self._manager.all_steps())

    def latest_step(self) -> int | None:
        """Return the newest of `steps()`; None without steps."""
        return max(self.steps(), default=None)

    def save(self, step: int, state: PyTree, *, config: dict, data: dict) -> bool:
        """Start to save a state.

        On return the state is copied, so the caller may donate its buffers. The files are written in the background. An
        error there is raised by `check`, by `wait` or by the next `save`.

        Args:
          step: the step of the state.
          state: a pytree of arrays.
          config: the settings of the run.
          data: the description of its training images.

        Returns:
          Whether the save has started; False if this step is already saved.

        Raises:
          NotFiniteError: a leaf contains NaN or infinity; nothing is saved.
          CheckpointError: the step is older than the newest step.
          StorageError: the previous save has failed.
        """
        self.wait()
        newest = self.latest_step()
        if newest is not None and step <= newest:
            if step in self.steps():
                return False
            raise CheckpointError(f"step {step} is older than the newest step {newest} in {self.directory}")
        copy, finite = _copy(state)
        paths = [path for path, ok in checksums.named_leaves(jax.device_get(finite)) if not ok]
        if paths:
            listed = ", ".join(checksums.first_few(paths))
            raise NotFiniteError(f"step {step} is not saved, because it is not finite: {listed}")
        config, data = checksums.to_json_types(config), checksums.to_json_types(data)
        leaves = checksums.describe_leaves(copy)
        digests = {"leaves": leaves, "description": checksums.combined_checksum(config, data, leaves)}
        self._pending = step, {"state": copy, "config": config, "data": data, "digests": digests}
        self._error = self._start() or self._error
        if not multihost.is_single_process():
            self._pending = step, {}  # there is no second attempt, so the copy is not needed
        self._failed = multihost.any_process(self._failed_here)
        return True

    def check(self) -> None:
        """Check the last save without waiting for it, unless it has failed in a single process and is repeated.

        The copy of the state is freed if the save is complete.

        Raises:
          StorageError: the save has failed, in any process.
        """
        if self._pending and self._failed():
            self.wait()

    def wait(self) -> None:
        """Wait until the last save is complete.

        In a single process a save that fails is repeated once. With several processes it is not, and afterwards no
        process can save or end normally; see `multihost.exit_process`.

        Raises:
          StorageError: the save has failed.
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
            self._blocked = not multihost.is_single_process()
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
        """Restore the newest step that is intact.

        A damaged step is renamed to damaged-STEP after an older step is restored.

        Args:
          target: a `jax.ShapeDtypeStruct` for each leaf; a leaf without a sharding is placed on the first device.
          config: the settings of the run.
          data: the description of its training images.
          ignore: fields of `config` and `data`, or sections with all of their fields, that may differ.
          at_most: the last step to consider; None considers all.

        Returns:
          The restored state; None without steps.

        Raises:
          CheckpointError: the newest intact step has another config, data or leaves, or every step is damaged.
        """
        self.wait()
        self._manager.reload()
        target = jax.tree.map(_with_sharding, target)
        damaged = {}
        for step in reversed(self.steps()):
            if at_most is not None and step > at_most:
                continue
            try:
                leaves = self._compare(step, target, config, data, ignore)
                state = self._read(step, target, leaves)
            except CheckpointError:
                raise
            except Exception as error:  # Orbax raises many kinds of errors for damaged files
                damaged[step] = _reason(error)
                continue
            self._rename(damaged, "damaged")
            notes = [f"step {old} is damaged ({why}); using step {step}" for old, why in damaged.items()]
            return Restored(state, step, notes)
        if damaged:
            reasons = "; ".join(f"step {step} ({why})" for step, why in damaged.items())
            raise CheckpointError(f"every checkpoint in {self.directory} is damaged: {reasons}")
        return None

    def set_aside_after(self, step: int) -> list[int]:
        """Rename the steps after `step` to ahead-STEP, so that they can be trained and saved again.

        Args:
          step: the last step to keep.

        Returns:
          The renamed steps.

        Raises:
          StorageError: a folder cannot be renamed, or the last save has failed.
        """
        self.wait()
        self._manager.reload()
        later = [other for other in self.steps() if other > step]
        self._rename(later, "ahead")
        return later

    def _compare(self, step: int, target: PyTree, config: dict, data: dict, ignore: frozenset[str]) -> dict:
        """Return dtype, shape and checksum of each leaf of a step; raise CheckpointError if it is not of this run.

        The comparison precedes the restore of the state, because Orbax casts dtypes without a warning.
        """
        args = {name: self._args.JsonRestore() for name in ("config", "data", "digests")}
        items = self._manager.restore(step, args=self._args.Composite(**args))
        leaves = items["digests"]["leaves"]
        if checksums.combined_checksum(items["config"], items["data"], leaves) != items["digests"]["description"]:
            raise _Damaged("config and data do not match their checksum")
        saved = {path: leaf["spec"] for path, leaf in leaves.items()}
        given = {path: checksums.dtype_and_shape(leaf) for path, leaf in checksums.named_leaves(target)}
        problems = [
            *checksums.mismatches(items["config"], checksums.to_json_types(config), "config", ignore=ignore),
            *checksums.mismatches(items["data"], checksums.to_json_types(data), "data", ignore=ignore),
            *checksums.first_few(checksums.mismatches(saved, given, "state", show=str)),
        ]
        if problems:
            raise CheckpointError(f"step {step} in {self.directory} belongs to another run: {'; '.join(problems)}")
        declared = sum(leaf.size * leaf.dtype.itemsize for _, leaf in checksums.named_leaves(target))
        on_disk = sum(file.stat().st_size for file in (self.directory / str(step)).rglob("*") if file.is_file())
        if declared > _LARGE_STATE and declared > 1000 * on_disk:  # compression saves a factor of ten, not of 1000
            raise _Damaged(f"declares {declared} bytes, but its files contain {on_disk}")
        return leaves

    def _read(self, step: int, target: PyTree, leaves: dict) -> PyTree:
        def read() -> PyTree:
            try:  # without the manager, which ends in a barrier: the shards of only one process may be damaged
                item = self._manager.directory / str(step) / "state"
                return self._handler.restore(item, args=self._args.StandardRestore(target))
            except Exception as error:
                raise _Damaged(_reason(error)) from error

        state = multihost.run_on_all(read, expected=_Damaged)
        for path, leaf in checksums.named_leaves(state):
            if checksums.checksum(leaf) != leaves[path]["sha256"]:
                raise _Damaged(f"{path} does not match its checksum")
        return state

    def _start(self) -> Exception | None:
        assert self._pending is not None, "save() sets it"
        step, items = self._pending
        kinds = {"state": self._args.StandardSave}
        args = {name: kinds.get(name, self._args.JsonSave)(item) for name, item in items.items()}
        try:
            self._manager.save(step, args=self._args.Composite(**args))
        except Exception as error:  # Orbax raises errors of the file system as ValueError, too
            return error
        return None

    def _join(self) -> Exception | None:
        # `check_for_errors` of the manager raises nothing, because its thread has already consumed the error.
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
        """Store the error of a failed save, and wait in Orbax's barrier, where its threads wait up to 20 minutes."""
        self._error = self._error or sys.exc_info()[1]
        self._orbax_barrier(key=key, timeout_ms=timeout_ms)

    def _first_error(self) -> Exception | None:
        """Wait for the save of all processes; return the error of the first process that failed, in all of them."""
        while True:
            finished = not (self._error or self._manager.is_saving_in_progress())
            reports = multihost.gather_text(_reason(self._error) if self._error else "." if finished else "")
            for rank, report in enumerate(reports):
                if len(report) > 1:
                    return OSError(f"process {rank}: {report}")
            if all(reports):
                return self._join()
            time.sleep(0.02)

    def _remove_temporaries(self) -> None:
        if self._read_only or jax.process_index() > 0:
            return
        end = time.monotonic() + 1  # threads of a failed save may still write
        while time.monotonic() < end and (paths := list(self.directory.glob(_TEMPORARIES))):
            for path in paths:
                shutil.rmtree(path, ignore_errors=True)
            time.sleep(0.05)

    def _rename(self, steps: Iterable[int], prefix: str) -> None:
        """Rename steps to PREFIX-STEP, so that the same step can be saved again; an existing PREFIX-STEP is removed."""
        if self._read_only or not steps:
            return
        if jax.process_index() == 0:
            for step in steps:
                renamed = self.directory / f"{prefix}-{step}"
                shutil.rmtree(renamed, ignore_errors=True)
                try:
                    (self.directory / str(step)).rename(renamed)
                except OSError as error:
                    raise StorageError(f"cannot rename step {step} to {renamed}: {_reason(error)}") from error
        multihost_utils.sync_global_devices(f"{prefix} steps are renamed")
        self._manager.reload()


@jax.jit
def _copy(state: PyTree) -> tuple[PyTree, PyTree]:
    """Return the state in new buffers with the same shardings, and for each leaf whether it is finite."""

    def finite(x):
        return jnp.isfinite(x).all() if jnp.issubdtype(x.dtype, jnp.inexact) else jnp.array(True)

    return jax.tree.map(jnp.copy, state), jax.tree.map(finite, state)


def _with_sharding(leaf: Any) -> jax.ShapeDtypeStruct:
    sharding = leaf.sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _reason(error: BaseException) -> str:
    """Return the root cause of an error in one line of at most 250 characters, or the file system's message for it."""
    while error.__cause__:
        error = error.__cause__
    kind = "" if isinstance(error, OSError | _Damaged) else f"{type(error).__name__}: "
    text = kind + " ".join(str(error).split())
    if match := re.search(r"os_error_code='(\d+)'", text):  # at the end of a long text about the array
        return os.strerror(int(match[1]))
    return text if len(text) <= 250 else f"{text[:100]} ... {text[-145:]}"
