"""Restore the training state of a run from its checkpoints, and select the parameters to evaluate."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator

import jax

from vae_jax.config import RESUMABLE, Config, flatten, unused_settings
from vae_jax.errors import CheckpointError
from vae_jax.inference import Params
from vae_jax.runs.checkpoints import Checkpoints, Restored
from vae_jax.runs.run import Run
from vae_jax.runtime import sharding
from vae_jax.training import TrainState


def restore(run: Run, checkpoints: Checkpoints, *, at_most: int | None = None) -> Restored | None:
    """Return the newest intact state of a run, placed on its mesh.

    If the run's changes include the seed, the state has the key of the new seed.

    Args:
      run: the run.
      checkpoints: its checkpoints.
      at_most: the last step to consider; None considers all.

    Returns:
      The restored state; None if no step is saved.

    Raises:
      CheckpointError: the newest intact step belongs to other settings or data, or every step is damaged.
    """
    target = sharding.abstract_arrays(jax.eval_shape(run.initial_state, run.key), run.state_shardings)
    config, changed = dataclasses.asdict(run.config), {change["setting"] for change in run.changes}
    # data.name may differ, because images can move: the item `data` identifies them by their fingerprint.
    ignore = RESUMABLE.union(changed, unused_settings(flatten(run.config)), {"data.name"})
    restored = checkpoints.restore(target, config=config, data=run.data, ignore=ignore, at_most=at_most)
    if restored and "seed" in changed:
        key = jax.jit(lambda: run.key, out_shardings=sharding.replicated(run.mesh))()
        restored = restored._replace(state=restored.state._replace(key=key))
    return restored


def evaluation_params(state: TrainState, config: Config) -> Params:
    """Return the parameters for evaluation and figures.

    Args:
      state: a training state.
      config: the settings of its run.

    Returns:
      The moving average of the parameters if train.ema_decay > 0, otherwise the parameters.
    """
    return state.ema_params if config.train.ema_decay else state.params


@contextlib.contextmanager
def restored_params(run: Run, log: Callable[[str], None]) -> Iterator[tuple[int, Params]]:
    """Restore the parameters of a run for evaluation, without writing to its directory.

    Args:
      run: the run.
      log: called with a line for each damaged step.

    Yields:
      (step, parameters) of the newest intact checkpoint.

    Raises:
      CheckpointError: no step is saved, every step is damaged, or the newest intact one belongs to another config.
    """
    with Checkpoints(run.directory, read_only=True) as checkpoints:
        restored = restore(run, checkpoints)
        if restored is None:
            raise CheckpointError(
                f"{run.directory} contains no checkpoint yet; wait for the first save, or train longer"
            )
        for note in restored.notes:
            log(note)
        yield restored.step, evaluation_params(restored.state, run.config)
