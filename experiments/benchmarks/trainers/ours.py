"""vae_jax: the program of `vae-jax train`, an epoch of it in one dispatch; every loss and gradient checked, all metrics
of all steps read back."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

REQUIREMENTS = ()  # the package beside this file, in the Python that runs the benchmark
VERSIONS = ("jax", "flax", "optax")


def trainers(train: Any, test: Any, steps: int, network: dict[str, Any]) -> dict[str, Callable[[], tuple]]:
    """{row: make}, make() -> (epoch, test_elbo): see peers.py."""

    def make() -> tuple[Callable[[], float], Callable[[], float]]:
        import jax
        import numpy as np

        from vae_jax import fitting, presets, reading, runs, settings, sharding

        config = settings.override(
            presets.PRESETS["mnist-400"],
            model__hidden=(network["hidden"],),
            model__latent_dim=network["latent_dim"],
            model__activation="relu",
            data__binarization="none",
            data__holdout=0.0,
            objective__name="elbo",
            objective__num_samples=1,
            optimizer__name="adam",
            optimizer__schedule="constant",
            optimizer__learning_rate=network["learning_rate"],
            train__batch_size=network["batch_size"],
            train__log_every=steps,
            train__evaluate_every=0,
            train__save_every=steps,
        )
        run = runs.Run(config, reading.describe(train), Path(), sharding.make_mesh())
        everywhere = sharding.replicated(run.mesh)
        state = jax.jit(run.initial_state, out_shardings=everywhere)(run.key)
        images = jax.device_put(train, everywhere)
        program, evaluator = fitting.compile_program(run), run.evaluator(batch_size=1000)

        def epoch() -> float:
            nonlocal state
            state, metrics = program(state, images, steps)
            rows = {name: np.asarray(values)[:steps].astype(np.float64) for name, values in metrics.items()}
            if rows["skipped"].any():
                raise FloatingPointError("a step was not finite")
            return float(rows["loss"].mean())

        def test_elbo() -> float:
            return evaluator.bound(state.params, runs.evaluation_key(run, "test"), test)["elbo"]

        return epoch, test_elbo

    return {"vae_jax": make}
