"""runs.restoring."""

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
    """The newest whole state of the run (up to step `at_most`), placed on its mesh; None where nothing is saved yet."""
    target = sharding.abstract_arrays(jax.eval_shape(run.initial_state, run.key), run.state_shardings)
    config, changed = dataclasses.asdict(run.config), {change["setting"] for change in run.changes}
    # Where the images lie is told by config.json, and which they are by `data`.
    ignore = RESUMABLE.union(changed, unused_settings(flatten(run.config)), {"data.name"})
    restored = checkpoints.restore(target, config=config, data=run.data, ignore=ignore, at_most=at_most)
    if restored and "seed" in changed:
        key = jax.jit(lambda: run.key, out_shardings=sharding.replicated(run.mesh))()
        restored = restored._replace(state=restored.state._replace(key=key))
    return restored


def evaluation_params(state: TrainState, config: Config) -> Params:
    """The weights to judge and to draw with: their moving average if one is kept."""
    return state.ema_params if config.train.ema_decay else state.params


@contextlib.contextmanager
def restored_params(run: Run, log: Callable[[str], None]) -> Iterator[tuple[int, Params]]:
    """(step, parameters) of the newest whole checkpoint, read without touching the run; CheckpointError if none."""
    with Checkpoints(run.directory, read_only=True) as checkpoints:
        restored = restore(run, checkpoints)
        if restored is None:
            raise CheckpointError(f"{run.directory}: no checkpoint has been saved yet")
        for note in restored.notes:
            log(note)
        yield restored.step, evaluation_params(restored.state, run.config)
