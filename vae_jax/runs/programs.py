"""The compiled programs of a run: its training step, many steps in one program, and traces of their execution."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import optax

from vae_jax.inference import Metrics
from vae_jax.runs.run import Run
from vae_jax.runtime import sharding
from vae_jax.training import Loss, Step, TrainState, make_loss, make_train_step, train_steps

Program = Callable[[TrainState, jax.Array, jax.Array | int], tuple[TrainState, Metrics]]


def build_step(
    run: Run,
    *,
    loss: Loss | None = None,
    optimizer: optax.GradientTransformation | None = None,
    first_example: Callable[[], int | jax.Array] = lambda: 0,
) -> Step:
    """Return the training step of a run: a pure function step(state, batch) -> (state, metrics), not jitted.

    Args:
      run: the run.
      loss: replaces the loss of the run's objective.
      optimizer: replaces the run's optimizer.
      first_example: see `make_train_step`.
    """
    config = run.config
    default_loss = functools.partial(
        make_loss, run.training_model, config.objective, config.data, run.data["num_examples"]
    )
    return make_train_step(
        sharding.gather_params(loss or default_loss(), run.mesh),
        optimizer or run.optimizer,
        ema_decay=config.train.ema_decay,
        max_skips=config.train.max_skips if config.train.nonfinite == "skip" else 0,
        microbatches=run.microbatches,
        first_example=first_example,
    )


def build_program(run: Run, place_batch: Callable[[jax.Array], jax.Array], *, step: Step | None = None) -> Program:
    """Return many steps of a run: a pure function program(state, images, num_steps) -> (state, metrics), not jitted.

    Args:
      run: the run.
      place_batch: called inside the program with each batch; constrains its sharding.
      step: replaces the run's training step.

    Returns:
      `train_steps` with the run's settings; its metrics have shape [train.log_every].
    """
    return functools.partial(
        train_steps,
        step=step or build_step(run),
        batch_size=run.config.train.batch_size,
        max_steps=run.config.train.log_every,
        microbatches=run.microbatches,
        streamed=run.streamed,
        place_batch=place_batch,
    )


@functools.lru_cache(maxsize=4)  # so that a program that `vae_jax.bench` has traced is not traced again
def compile_program(run: Run, program: Program | None = None, *, donate: bool = True) -> Program:
    """Return a program of a run, jitted with the shardings of its mesh.

    If `sharding.needs_static_step_count`, the program is compiled once for each number of steps: that of a full
    dispatch, and that of a shorter last dispatch.

    Args:
      run: the run.
      program: replaces the `build_program` of the run.
      donate: whether the buffers of the state are donated.
    """
    replicated, static = sharding.replicated(run.mesh), sharding.needs_static_step_count(run.mesh)
    return jax.jit(
        program or build_program(run, sharding.place_batch(run.mesh)),
        static_argnums=2 if static else (),
        donate_argnums=0 if donate else (),
        in_shardings=(run.state_shardings, run.images_sharding, *(() if static else (replicated,))),
        out_shardings=(run.state_shardings, replicated),
        compiler_options=sharding.compiler_options(run.mesh),
    )


@contextlib.contextmanager
def profile_to(directory: Path | None) -> Iterator[None]:
    """Trace the host and the devices while the context is open.

    The trace is written to plugins/profile/DATE/ in `directory`: perfetto_trace.json.gz for Perfetto, and *.xplane.pb
    for TensorBoard.

    Args:
      directory: the folder; None traces nothing.
    """
    if directory is None:
        yield
        return
    with jax.profiler.trace(directory, create_perfetto_trace=True):
        yield
