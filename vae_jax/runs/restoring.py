"""Restore the training state of a run from its checkpoints, and select the parameters to evaluate."""

import contextlib
from collections.abc import Callable, Collection, Iterator

import jax

from vae_jax.config import resumable_settings
from vae_jax.errors import CheckpointError
from vae_jax.inference import Params
from vae_jax.runs.config_file import StoredRun
from vae_jax.runs.experiment.experiment import Experiment
from vae_jax.runs.experiment.programs import state_shapes
from vae_jax.runs.storage.checkpoints import Checkpoints, Restored
from vae_jax.runs.storage.directory import RunDirectory
from vae_jax.runs.storage.loggers import last_step
from vae_jax.runs.storage.step_folders import list_steps
from vae_jax.runtime import Placement


def restore(
    experiment: Experiment,
    checkpoints: Checkpoints,
    placement: Placement,
    *,
    changed: Collection[str] = (),
    at_most: int | None = None,
) -> Restored | None:
    """Return the newest intact state of a run, placed on its devices.

    Args:
      experiment: what the run trains.
      checkpoints: its checkpoints.
      placement: the devices.
      changed: settings and fields of the data that have changed since the checkpoints were saved, as recorded. If they
        include the seed, the state has the key of the new seed.
      at_most: the last step to consider; None considers all.

    Returns:
      The restored state; None if no step is saved.

    Raises:
      CheckpointError: the newest intact step belongs to other settings or data, or every step is damaged.
    """
    # data.name may differ, because files can move: the item `data` identifies the examples by their checksums.
    ignore = resumable_settings().union(changed, {"data.name"})
    restored = checkpoints.restore(
        state_shapes(experiment, placement),
        config=experiment.description(),
        data=experiment.data,
        ignore=ignore,
        at_most=at_most,
    )
    if restored and "seed" in changed:
        key = jax.jit(lambda: experiment.key, out_shardings=placement.replicated)()
        restored = restored._replace(state=restored.state._replace(key=key))
    return restored


def has_steps(directory: RunDirectory) -> bool:
    """Return whether a run has a checkpoint or a row of metrics, which other settings must not continue."""
    return bool(list_steps(directory.checkpoints)) or last_step(directory.metrics) > 0


def refuse_lost_checkpoints(stored: StoredRun | None, directory: RunDirectory) -> None:
    """Raise an error if the checkpoints of a stored run are gone, so that it would be trained from its first step.

    Its folder is created before config.json. Without a step in it, a run has no evaluation, and has not come further
    than to its second save, which waits for the first.

    Args:
      stored: the content of config.json; None if there is none.
      directory: the run's directory.

    Raises:
      CheckpointError: the folder of the checkpoints is missing or empty although a step was saved.
    """
    if stored is None or list_steps(directory.checkpoints):
        return
    save_every = stored.settings.get("train.save_every")
    if not directory.checkpoints.is_dir():
        reason = "is missing"
    elif directory.evaluation.exists():
        reason = f"contains no step, but {directory.evaluation.name} evaluates one"
    elif isinstance(save_every, int) and (step := last_step(directory.metrics)) > 2 * save_every:
        reason = (
            f"contains no step, but {directory.metrics.name} ends at step {step} with train.save_every={save_every}"
        )
    else:
        return
    raise CheckpointError(
        f"{directory.checkpoints} {reason}: the checkpoints of this run are lost; restore the folder, or choose "
        "another --workdir"
    )


@contextlib.contextmanager
def restored_params(
    experiment: Experiment,
    directory: RunDirectory,
    placement: Placement,
    log: Callable[[str], None] = lambda line: None,
    *,
    changed: Collection[str] = (),
) -> Iterator[tuple[int, Params]]:
    """Restore the parameters of a run for evaluation, without writing to its directory.

    Args:
      experiment: what the run trains.
      directory: its files.
      placement: the devices.
      log: called with a line for each damaged step.
      changed: see `restore`.

    Yields:
      (step, parameters) of the newest intact checkpoint.

    Raises:
      CheckpointError: no step is saved, every step is damaged, or the newest intact one belongs to another config.
    """
    with Checkpoints(directory.path, read_only=True) as checkpoints:
        restored = restore(experiment, checkpoints, placement, changed=changed)
        if restored is None:
            raise CheckpointError(f"{directory} contains no checkpoint yet; wait for the first save, or train longer")
        for note in restored.notes:
            log(note)
        yield restored.step, experiment.evaluation_params(restored.state)
