"""The loop around the pure step: when to dispatch, evaluate, save and stop. All host work of a training is here."""

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

Program = Callable[[TrainState, jax.Array, int], tuple[TrainState, Metrics]]


def build_step(run: Run, *, loss: Loss | None = None, optimizer: optax.GradientTransformation | None = None) -> Step:
    """step(state, batch) -> (state, metrics) of a run: pure, not jitted; by its own loss and optimizer or others."""
    config = run.config
    own = functools.partial(make_loss, run.training_model, config.objective, config.data, run.data["num_examples"])
    return make_train_step(
        sharding.gather_params(loss or own(), run.mesh),
        optimizer or run.optimizer,
        ema_decay=config.train.ema_decay,
        max_skips=config.train.max_skips if config.train.nonfinite == "skip" else 0,
        microbatches=run.microbatches,
    )


def build_program(run: Run, place_batch: Callable[[jax.Array], jax.Array], *, step: Step | None = None) -> Program:
    """program(state, images, num_steps) -> (state, metrics) of a run: pure, not jitted; by its own step or another."""
    return functools.partial(
        train_steps,
        step=step or build_step(run),
        batch_size=run.config.train.batch_size,
        max_steps=run.config.train.log_every,
        microbatches=run.microbatches,
        streamed=run.streamed,
        place_batch=place_batch,
    )


@functools.lru_cache(maxsize=4)  # so that what planning has traced is not traced again
def compile_program(run: Run, program: Program | None = None, *, donate: bool = True) -> Program:
    """`many_steps` of a run, or another program, jitted for the mesh; donates the state.

    Where `sharding.counts_are_known`, it is compiled once for each number of steps: that of a whole dispatch, and that
    of a last and shorter one.
    """
    everywhere, known = sharding.replicated(run.mesh), sharding.needs_static_step_count(run.mesh)
    return jax.jit(
        program or build_program(run, sharding.place_batch(run.mesh)),
        static_argnums=2 if known else (),
        donate_argnums=0 if donate else (),
        in_shardings=(run.state_shardings, run.images_sharding, *(() if known else (everywhere,))),
        out_shardings=(run.state_shardings, everywhere),
        compiler_options=sharding.compiler_options(run.mesh),
    )


@contextlib.contextmanager
def profile_to(directory: Path | None) -> Iterator[None]:
    """Writes what the host and the devices do meanwhile to a folder: a trace for Perfetto, and one for TensorBoard.

    They are plugins/profile/DATE/perfetto_trace.json.gz and *.xplane.pb below it. Nothing is done where it is None.
    """
    if directory is None:
        yield
        return
    with jax.profiler.trace(directory, create_perfetto_trace=True):
        yield
