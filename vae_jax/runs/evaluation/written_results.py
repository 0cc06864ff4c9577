"""The results of an evaluation on disk: written under the lock of the run, and only if its last step is evaluated."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from vae_jax.runs.storage.directory import RunDirectory
from vae_jax.runs.storage.step_folders import list_steps
from vae_jax.runtime import atomic_files, lock, multihost


@contextlib.contextmanager
def lock_results(directory: RunDirectory, step: int) -> Iterator[str | None]:
    """Hold the lock of a run while the results of a step are computed and written.

    Args:
      directory: the run's directory.
      step: the step of the weights that are evaluated.

    Yields:
      None if the results may be written; a sentence if another process has saved a later step in the meantime, whose
      results they would replace.

    Raises:
      LockedError: another process trains in the directory, or evaluates the run after its training.
    """
    with contextlib.ExitStack() as stack:
        multihost.run_on_primary(lambda: stack.enter_context(lock.run_lock(directory.path)))
        newest = multihost.broadcast_from_primary(lambda: max(list_steps(directory.checkpoints), default=step))
        refusal = f"another process has saved step {newest} in {directory}, so no results of step {step} are written"
        yield refusal if newest > step else None


def write_evaluation(directory: RunDirectory, content: Mapping[str, Any]) -> None:
    """Write evaluation.json, and remove the report, which shows an earlier evaluation.

    Args:
      directory: the run's directory.
      content: the step, the result of `evaluate_run`, and further estimates.

    Raises:
      StorageError: the file system refuses it.
    """
    atomic_files.remove(directory.report)
    atomic_files.write_json(directory.evaluation, dict(content))
