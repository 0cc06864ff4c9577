"""Save and restore training states with Orbax, which no other module imports.

Each step is a folder `checkpoints/STEP/` with five items: the `state`, the `config` and the description of the `data`
that it belongs to, the `history` of the last metrics, and `digests`, the number of the step and the checksums by which
a restore detects damage. A step is either complete or absent: it is written under a temporary name and renamed at the
end.
"""

import contextlib
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax

from vae_jax.errors import CheckpointError, NotFiniteError, StorageError, VaeJaxError
from vae_jax.runs.storage import checksums, orbax_messages, step_folders
from vae_jax.runtime import multihost

PyTree = Any

FOLDER_NAME = "checkpoints"
_LARGE_STATE = 1 << 30  # bytes
_JSON_ITEMS = ("config", "data", "history", "digests")  # Orbax reserves the name "metrics"
_MANIFEST = Path("state", "manifest.ocdbt")  # without this file no array of a step can be read


class Restored(NamedTuple):
    """A restored training state.

    Attributes:
      state: the state.
      step: its step.
      notes: a line for each newer step that is damaged.
      metrics: what was saved with it as its metrics.
    """

    state: PyTree
    step: int
    notes: list[str]
    metrics: dict[str, Any]


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
      InputError: checkpoints cannot be stored under such a path.
      StorageError: the folder cannot be created or read.
    """

    def __init__(self, directory: str | os.PathLike, *, keep: int = 3, read_only: bool = False):
        import orbax.checkpoint as ocp
        from orbax.checkpoint.checkpoint_managers import preservation_policy as policies

        step_folders.check_path(Path(directory))
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
                step_folders.literal_path(self.directory),
                options=ocp.CheckpointManagerOptions(
                    step_name_format=step_folders.StepNames(),
                    preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(keep)]),
                    create=not read_only,
                    read_only=read_only,
                    lightweight_initialize=True,  # a damaged step must not be an error here
                    async_options=async_options,
                ),
            )
            self._identity = None if read_only else step_folders.identity(self.directory)
        except OSError as error:
            raise StorageError(f"cannot open {self.directory}: {orbax_messages.reason(error)}") from error

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

    def save(self, step: int, state: PyTree, *, config: dict, data: dict, metrics: dict | None = None) -> bool:
        """Start to save a state.

        On return the state is copied, so the caller may donate its buffers. The files are written in the background. An
        error there is raised by `check`, by `wait` or by the next `save`.

        Args:
          step: the step of the state.
          state: a pytree of arrays.
          config: the settings of the run.
          data: the description of its training images.
          metrics: the last metrics of the run, JSON values; a restore returns them.

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
        copy, finite = checksums.copy_and_check(state)
        if paths := [path for path, ok in checksums.named_leaves(jax.device_get(finite)) if not ok]:
            listed = ", ".join(checksums.first_few(paths))
            raise NotFiniteError(f"step {step} is not saved, because it is not finite: {listed}")
        items = checksums.to_json_types({"config": config, "data": data, "history": metrics or {}})
        digests = {"step": step, "leaves": checksums.describe_leaves(copy)}
        digests["description"] = _description(items, digests)
        self._pending = step, {"state": copy, **items, "digests": digests}
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
            raise StorageError(
                f"step {step} is not saved in {self.directory}: {orbax_messages.reason(error)}"
            ) from error

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
        target = jax.tree.map(_with_sharding, target)
        failed: dict[int, str] = {}
        while left := [s for s in self._listed() if s not in failed and (at_most is None or s <= at_most)]:
            step = left[-1]
            try:
                items = self._compare(step, target, config, data, ignore)
                state = self._read(step, target, items["digests"]["leaves"])
            except CheckpointError:
                raise
            except Exception as error:  # Orbax raises many kinds of errors for damaged files
                failed[step] = orbax_messages.reason(error)
                continue
            # The process that trains deletes older steps only: these may have failed because they were being deleted.
            damaged = {old: why for old, why in failed.items() if old > step}
            self._rename(damaged, "damaged")
            notes = [f"step {old} is damaged ({why}); using step {step}" for old, why in damaged.items()]
            return Restored(state, step, notes, items["history"])
        if damaged := set(failed).intersection(self._listed()):
            reasons = "; ".join(f"step {step} ({why})" for step, why in failed.items() if step in damaged)
            raise CheckpointError(f"every checkpoint in {self.directory} is damaged: {reasons}")
        return None

    def saved_metrics(self, at_most: int) -> list[dict[str, Any]]:
        """Return the metrics that were saved with each intact step up to a limit, oldest first."""
        found = []
        for step in self.steps():
            with contextlib.suppress(Exception):  # as in `restore`; the metrics of a damaged step are lost
                found += [self._describe(step)["history"]] if step <= at_most else []
        return found

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
        later = [other for other in self._listed() if other > step]
        self._rename(later, "ahead")
        return later

    def _compare(self, step: int, target: PyTree, config: dict, data: dict, ignore: frozenset[str]) -> dict:
        """Return the JSON items of a step; raise CheckpointError if it is not of this run.

        The comparison precedes the restore of the state, because Orbax casts dtypes without a warning.
        """
        items = self._describe(step)
        leaves = items["digests"]["leaves"]
        problems = [
            *checksums.mismatches(items["config"], checksums.to_json_types(config), "config", ignore=ignore),
            *checksums.mismatches(items["data"], checksums.to_json_types(data), "data", ignore=ignore),
            *checksums.first_few(checksums.leaf_mismatches(leaves, target)),
        ]
        if problems:
            raise CheckpointError(f"step {step} in {self.directory} belongs to another run: {'; '.join(problems)}")
        declared = sum(leaf.size * leaf.dtype.itemsize for _, leaf in checksums.named_leaves(target))
        on_disk = step_folders.size_of(self.directory / str(step))
        if declared > _LARGE_STATE and declared > 1000 * on_disk:  # compression saves a factor of ten, not of 1000
            raise orbax_messages.Damaged(f"declares {declared} bytes, but its files contain {on_disk}")
        return items

    def _describe(self, step: int) -> dict[str, Any]:
        """Return the JSON items of a step; raise an error if they are damaged or those of another step."""
        if special := step_folders.special_files(self.directory / str(step)):
            raise orbax_messages.Damaged(f"{special[0]} is no regular file")
        args = {name: self._args.JsonRestore() for name in _JSON_ITEMS}
        items = dict(self._manager.restore(step, args=self._args.Composite(**args)))
        digests = items["digests"]
        if _description(items, digests) != digests["description"]:
            raise orbax_messages.Damaged("config, data and metrics do not match their checksum")
        if digests["step"] != step:
            raise orbax_messages.Damaged(f"it contains step {digests['step']}")
        return items

    def _listed(self) -> list[int]:
        """Return the steps on disk now, oldest first."""
        self._manager.reload()
        return self.steps()

    def _read(self, step: int, target: PyTree, leaves: dict) -> PyTree:
        def read() -> PyTree:
            try:  # without the manager, which ends in a barrier: the shards of only one process may be damaged
                item = self._manager.directory / str(step) / "state"
                return self._handler.restore(item, args=self._args.StandardRestore(target))
            except Exception as error:
                raise orbax_messages.Damaged(orbax_messages.reason(error)) from error

        state = multihost.run_on_all(read, expected=orbax_messages.Damaged)
        for path, leaf in checksums.named_leaves(state):
            if checksums.checksum(leaf) != leaves[path]["sha256"]:
                raise orbax_messages.Damaged(f"{path} does not match its checksum")
        return state

    def _start(self) -> Exception | None:
        assert self._pending is not None, "save() sets it"
        step, items = self._pending
        kinds = {"state": self._args.StandardSave}
        args = {name: kinds.get(name, self._args.JsonSave)(item) for name, item in items.items()}
        try:
            if step_folders.identity(self.directory) != self._identity:
                raise OSError("the folder was moved, replaced or deleted after the run had opened it")
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
        assert self._pending is not None, "a save is joined once"
        manifest = self.directory / str(self._pending[0]) / _MANIFEST
        if multihost.broadcast_from_primary(manifest.is_file):
            return None
        return OSError(f"{manifest} is missing, so the step cannot be restored")

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
            reports = multihost.gather_text(
                orbax_messages.reason(self._error) if self._error else "." if finished else ""
            )
            for rank, report in enumerate(reports):
                if len(report) > 1:
                    return OSError(f"process {rank}: {report}")
            if all(reports):
                return self._join()
            time.sleep(0.02)

    def _remove_temporaries(self) -> None:
        if not self._read_only and jax.process_index() == 0:
            step_folders.remove_temporaries(self.directory)

    def _rename(self, steps: Iterable[int], prefix: str) -> None:
        """Rename steps to PREFIX-STEP, so that the same step can be saved again; an existing PREFIX-STEP is removed."""
        if self._read_only or not steps:
            return
        multihost.run_on_primary(lambda: step_folders.rename(self.directory, steps, prefix))
        self._manager.reload()


def _description(items: dict[str, Any], digests: dict[str, Any]) -> str:
    """Return the checksum of the JSON items of a step and of its number."""
    described = {name: items[name] for name in _JSON_ITEMS if name != "digests"}
    return checksums.combined_checksum(described, {name: digests[name] for name in ("step", "leaves")})


def _with_sharding(leaf: Any) -> jax.ShapeDtypeStruct:
    sharding = leaf.sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
