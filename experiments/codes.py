"""Quantizers of equal size: the bound with each prior of codes, the use of the codebook, and the cost of a step.

    vae-jax data prepare mnist
    python experiments/codes.py            # --quick: digits of scikit-learn, a few steps

Each cell encodes an image by about 128 bits:

    fsq            16 codes of 240, each three numbers rounded to 8, 6 and 5 values
    vq             16 codes of 256, a codebook that follows the averages of its encodings
    vq-gradient    the same, a codebook that the optimizer moves
    residual-vq    8 places with 2 codes of 256 each

The rest is that of the preset `mnist-vq` with `prior=uniform-codes`: binarized MNIST, an MLP 784-512-512 and its
mirror, 50 epochs. Then priors are fitted to the codes of the training images: `categorical-codes`, and
`transformer-codes` by 2,000 updates. The bound is -log p(x) <= -log p(x|z) - log p(z) on the test images, in nats;
smaller is better.

`step` is the time of a training step divided by that of a VAE with a Gaussian posterior and the same networks, whose
latent has as many numbers as the decoder of the cell reads: the median of the ratios of interleaved rounds, in CPU
time of the process. Two cores of a shared machine, jax 0.10.2, one thread for a product of matrices, random images of
28x28, batches of 128, 25 rounds: 0.97 for fsq, 1.05 for vq and 1.02 for vq-gradient.

DIR (runs/codes) contains a run for each cell, table.json and table.md. The same command resumes a training.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cells
import jax
import jax.numpy as jnp
import numpy as np

from vae_jax.config import PRESETS, Config, choice, override
from vae_jax.errors import VaeJaxError
from vae_jax.runs import Experiment, FitSettings, build_experiment, evaluate_run, fit, fit_prior
from vae_jax.runtime import atomic_files
from vae_jax.training import make_train_step

CELLS: dict[str, dict[str, Any]] = {
    "fsq": {"posterior": "fsq", "posterior__levels": (8, 6, 5)},
    "vq": {"posterior": "vq", "posterior__codebook_size": 256},
    "vq-gradient": {"posterior": "vq", "posterior__codebook_size": 256, "posterior__update": "gradient"},
    "residual-vq": {
        "posterior": "residual-vq",
        "posterior__codebook_size": 256,
        "posterior__num_levels": 2,
        "model__places": 8,
    },
}
PRIORS = ("uniform-codes", "categorical-codes", "transformer-codes")


def config_of(name: str, *, quick: bool = False) -> Config:
    """Return the settings of a cell."""
    config = override(PRESETS["mnist-vq"], prior="uniform-codes", **CELLS[name])
    if not quick:
        return config
    return override(config, data__name="digits", network__hidden=(16,), train__steps=20, train__log_every=10,
                    train__evaluate_every=0, train__save_every=20, train__batch_size=16)  # fmt: skip


def continuous(config: Config) -> Config:
    """Return the settings of a VAE with the networks of a cell, and as many latents as its decoder reads numbers."""
    posterior: Any = config.posterior
    size = len(posterior.levels) if posterior.name == "fsq" else posterior.code_dim
    places = config.model.places  # pyright: ignore[reportAttributeAccessIssue]  # model=codes
    return override(config, model="vae", model__latent_dim=places * size, posterior="gaussian", prior="standard-normal")


def step_ratio(experiment: Experiment, other: Experiment, rounds: int, steps: int = 4) -> float:
    """Return the median over rounds of the CPU time of the steps of an experiment divided by those of another one."""
    runners = []
    for each in (experiment, other):
        step = jax.jit(make_train_step(each.loss(), each.optimizer), donate_argnums=0)
        rows = np.arange(each.training.batch_size)
        batch = {name: jnp.asarray(array) for name, array in each.training_data.read(rows).items()}
        runners.append([step, step(each.initial_state(each.key), batch)[0], batch])
    ratios = []
    for _ in range(rounds):
        seconds = []
        for runner in runners:
            step, state, batch = runner
            start = time.process_time()
            for _ in range(steps):
                state, _ = step(state, batch)
            runner[1] = jax.block_until_ready(state)
            seconds.append(time.process_time() - start)
        ratios.append(seconds[0] / seconds[1])
    return float(np.median(ratios))


def run_cell(name: str, output: Path, *, quick: bool, updates: int, rounds: int) -> dict[str, Any]:
    """Train a cell, fit the priors, and return the row of the table."""
    config = config_of(name, quick=quick)
    experiment = build_experiment(config)
    trained = fit(experiment, output / name)
    row: dict[str, Any] = {"cell": name}
    for prior in PRIORS:
        settings = None if prior == "uniform-codes" else FitSettings(steps=updates)
        fitted = fit_prior(experiment, trained.params, choice("prior", prior), settings)
        result = evaluate_run(*fitted.replace_prior(experiment, trained.params), split="test")
        row[prior] = {"bound": -result["elbo"], "bound_se": result["elbo_se"], "bits_per_code": result["bits_per_code"]}
        row |= {key: result[key] for key in ("reconstruction", "code_perplexity", "code_usage")}
    row["step"] = step_ratio(experiment, build_experiment(continuous(config)), rounds)
    return row


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table."""
    titles = ["quantizer", "-log p(x\\|z)", *(f"bound, {prior}" for prior in PRIORS), "perplexity", "usage", "step"]
    lines = [
        [
            row["cell"],
            cells.number(-row["reconstruction"]),
            *(cells.number(row[prior]["bound"], row[prior]["bound_se"]) for prior in PRIORS),
            f"{row['code_perplexity']:.0f}",
            f"{row['code_usage']:.2f}",
            f"{row['step']:.2f}",
        ]
        for row in rows
    ]
    return "\n".join(cells.markdown_table(titles, lines)) + "\n"


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the cells and write their table."""
    parser = argparse.ArgumentParser(description="Quantizers of equal size.")
    parser.add_argument("--cells", nargs="+", choices=list(CELLS), default=list(CELLS))
    parser.add_argument("--updates", type=int, default=2000, help="updates of a fitted prior")
    parser.add_argument("--rounds", type=int, default=25, help="rounds of the comparison of steps")
    parser.add_argument("--quick", action="store_true", help="a small size, to try the program")
    parser.add_argument("--output", type=Path, default=Path("runs/codes"))
    options = parser.parse_args(argv)
    atomic_files.check_writable(options.output, "--output")
    sizes = {"quick": options.quick, "updates": options.updates, "rounds": options.rounds}
    rows = [run_cell(name, options.output, **sizes) for name in options.cells]
    cells.write_table(options.output, rows, table(rows))
    return {"rows": rows, "output": str(options.output)}


if __name__ == "__main__":
    try:
        print(json.dumps(main()))
    except VaeJaxError as error:
        raise SystemExit(str(error)) from None
