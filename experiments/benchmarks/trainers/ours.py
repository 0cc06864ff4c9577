"""vae_jax: the program of `vae-jax train`, which checks every loss and gradient.

Row `vae_jax` makes one dispatch for each epoch and reads all metrics of all steps. Row `vae_jax-per-step` makes one
dispatch for each step, and reads losses and checks at the end of the epoch.
"""

from collections.abc import Callable
from typing import Any

REQUIREMENTS = ()  # the package of this repository, in the Python that runs the benchmark
VERSIONS = ("jax", "flax", "optax")


def _network(task: dict[str, Any]) -> dict[str, Any]:
    """Return a config, and the settings of the network that replace those of the config."""
    from vae_jax.config import PRESETS

    hidden = tuple(task["hidden"])
    if task["network"] == "ladder-mlp":
        sizes = {"model__channels": hidden, "model__bottleneck": hidden, "model__blocks": (1,) * len(hidden)}
        latents = {"model__latent_channels": tuple(task["latent_dims"]), "model__compute_dtype": task["precision"]}
        return {"config": PRESETS["mnist-ladder-mlp"], "objective__warmup_steps": 0} | sizes | latents
    plain = {"network__output_channels": 0} if task["network"] == "residual" else {}  # as in the preset mnist-conv
    return plain | {
        "config": PRESETS["mnist-400"],
        "network": task["network"],
        "network__hidden": hidden,
        "network__activation": task["activation"],
        "network__compute_dtype": task["precision"],
        "model__latent_dim": task["latent_dim"],
    }


def trainers(train: Any, test: Any, steps: int, task: dict[str, Any]) -> dict[str, Callable[[], tuple]]:
    """Return {row: make}, where make() returns the functions (epoch, test_elbo) that peers.py calls."""

    def make(steps_per_dispatch: int) -> tuple[Callable[[], float], Callable[[], float]]:
        import jax
        import numpy as np

        from vae_jax.config import override
        from vae_jax.data import from_arrays
        from vae_jax.runs import build_experiment, compile_program, make_evaluator, place_initial_state
        from vae_jax.runtime import Placement

        config = override(
            **_network(task),
            preprocess="scale",
            objective="elbo",
            objective__num_samples=1,
            optimizer="adam",
            schedule="constant",
            optimizer__learning_rate=task["learning_rate"],
            optimizer__skip_quantile=0.0,  # the other libraries have neither this nor an average of the weights
            train__nonfinite="stop",
            train__ema_decay=0.0,
            train__batch_size=task["batch_size"],
            train__log_every=steps_per_dispatch,
            train__evaluate_every=0,
            train__save_every=steps_per_dispatch,
        )
        experiment, placement = build_experiment(config, source=from_arrays(train, holdout=0)), Placement()
        state, program = place_initial_state(experiment, placement), compile_program(experiment, placement)
        data = jax.device_put({"x": train}, placement.replicated)
        evaluator = make_evaluator(experiment, placement, batch_size=1000)

        def epoch() -> float:
            nonlocal state
            rows = []
            for _ in range(0, steps, steps_per_dispatch):
                state, metrics = program(state, data, steps_per_dispatch)
                # Of single steps, only the metrics that are used: each is a separate transfer from the device.
                rows.append(
                    metrics if steps_per_dispatch > 1 else {name: metrics[name] for name in ("loss", "skipped")}
                )
            rows = jax.device_get(rows)
            if any(row["skipped"].any() for row in rows):
                raise FloatingPointError("a step was not finite")
            return float(np.mean([row["loss"] for row in rows], dtype=np.float64))

        def test_elbo() -> float:
            return evaluator.bound(state.params, experiment.evaluation_key("test"), {"x": test})["elbo"]

        return epoch, test_elbo

    return {"vae_jax": lambda: make(steps), "vae_jax-per-step": lambda: make(1)}
