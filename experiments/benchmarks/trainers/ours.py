"""vae_jax: the program of `vae-jax train`, which checks every loss and gradient.

Row `vae_jax` makes one dispatch for each epoch and reads all metrics of all steps. Row `vae_jax-per-step` makes one
dispatch for each step, and reads losses and checks at the end of the epoch.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

REQUIREMENTS = ()  # the package of this repository, in the Python that runs the benchmark
VERSIONS = ("jax", "flax", "optax")


def trainers(train: Any, test: Any, steps: int, task: dict[str, Any]) -> dict[str, Callable[[], tuple]]:
    """Return {row: make}, where make() returns the functions (epoch, test_elbo) that peers.py calls."""

    def make(steps_per_dispatch: int) -> tuple[Callable[[], float], Callable[[], float]]:
        import jax
        import numpy as np

        from vae_jax.config import PRESETS, override
        from vae_jax.data import describe_images, mean_image
        from vae_jax.runs import Run, compile_program, evaluation_key
        from vae_jax.runtime import sharding

        config = override(
            PRESETS["mnist-400"],
            model__network=task["network"],
            model__hidden=tuple(task["hidden"]),
            model__latent_dim=task["latent_dim"],
            model__activation=task["activation"],
            model__compute_dtype=task["precision"],
            data__binarization="none",
            data__holdout=0.0,
            objective__name="elbo",
            objective__num_samples=1,
            optimizer__name="adam",
            optimizer__schedule="constant",
            optimizer__learning_rate=task["learning_rate"],
            train__batch_size=task["batch_size"],
            train__log_every=steps_per_dispatch,
            train__evaluate_every=0,
            train__save_every=steps_per_dispatch,
        )
        run = Run(config, describe_images(train), Path(), sharding.make_mesh())
        replicated = sharding.replicated(run.mesh)
        average = mean_image(train, binarization=config.data.binarization)  # the initial bias of the output
        state = jax.jit(run.initial_state, out_shardings=replicated)(run.key, average)
        images = jax.device_put(train, replicated)
        program, evaluator = compile_program(run), run.evaluator(batch_size=1000)

        def epoch() -> float:
            nonlocal state
            rows = []
            for _ in range(0, steps, steps_per_dispatch):
                state, metrics = program(state, images, steps_per_dispatch)
                # Of single steps, only the metrics that are used: each is a separate transfer from the device.
                rows.append(
                    metrics if steps_per_dispatch > 1 else {name: metrics[name] for name in ("loss", "skipped")}
                )
            rows = jax.device_get(rows)
            if any(row["skipped"].any() for row in rows):
                raise FloatingPointError("a step was not finite")
            return float(np.mean([row["loss"] for row in rows], dtype=np.float64))

        def test_elbo() -> float:
            return evaluator.bound(state.params, evaluation_key(run, "test"), test)["elbo"]

        return epoch, test_elbo

    return {"vae_jax": lambda: make(steps), "vae_jax-per-step": lambda: make(1)}
