"""Counts: does a VAE recover the dispersions and the likelihood of a model that is known?

    python experiments/counts.py
    python experiments/counts.py --scvi PYTHON      # also trains scvi-tools, with the Python of another environment

20,000 examples of 200 counts are simulated: z ~ N(0, I) with 5 dimensions, log μ = W z + b, and each count is negative
binomial with mean μ and variance μ + μ²/r, with a dispersion r for each of the 200 numbers. A VAE with the likelihood
`negative-binomial` is trained on 16,200 of them. Three numbers are compared on the 2,000 test examples, by importance
sampling with K = 1000 samples:

- the median over the numbers of |r̂ / r − 1|, for the learned dispersion r̂;
- the NLL of the VAE, in nats per example;
- the NLL of the true model: W, b and r are constants, and only an encoder is trained, so that its samples are good.

scvi-tools trains on the same matrix with the same sizes (one hidden layer of 128, 5 latent dimensions), batch size and
epochs, and reports its ELBO of the test examples. Its model divides each example by its total count ("library size"),
which its ELBO conditions on. It is another model, and its bound is comparable only as a bound on log p(x | total).

Results of 2026-11-28 (two cores of an x86-64 machine that were shared with other work, so the seconds are upper bounds;
Python 3.11.7, jax 0.10.2, scvi-tools 1.4.2, torch 2.13.0 on the CPU), 60 epochs, in nats per example:

                     ELBO              NLL   seconds of training
    learned       -450.71   450.13 ± 0.43     31
    true model    -450.77   449.99 ± 0.43     72
    scvi-tools    -452.41    not measured    929

The median error of the learned dispersions is 1.9 %, and the learned NLL is 0.03 % above that of the true model.

Output in DIR (runs/counts, or runs/counts-quick with --quick): counts.json, counts.md.
"""

import argparse
import dataclasses
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import vae_jax
from vae_jax.errors import InputError, VaeJaxError
from vae_jax.runtime import atomic_files

WORKER = Path(__file__).parent / "benchmarks" / "scvi_counts.py"


@dataclasses.dataclass(frozen=True)
class Truth:
    """The simulated model: log μ = W z + b, and the dispersion r of each number."""

    weights: np.ndarray  # [D, N]
    bias: np.ndarray  # [N]
    dispersion: np.ndarray  # [N]


def simulate(examples: int, numbers: int, factors: int, *, seed: int = 0) -> tuple[np.ndarray, Truth]:
    """Return counts, int32 [examples, numbers], and the model that they come from."""
    rng = np.random.default_rng(seed)
    truth = Truth(
        weights=rng.normal(0, 0.5 / np.sqrt(factors / 5), (factors, numbers)).astype(np.float32),
        bias=rng.normal(1.0, 0.7, numbers).astype(np.float32),
        dispersion=np.exp(rng.normal(1.0, 0.5, numbers)).astype(np.float32),
    )
    z = rng.normal(size=(examples, factors))
    mean = np.exp(z @ truth.weights + truth.bias)
    rate = rng.gamma(truth.dispersion, mean / truth.dispersion)
    return rng.poisson(rate).astype(np.int32), truth


class TrueModel(nn.Module):
    """The simulated model with an encoder: the decoder has no parameters."""

    truth: Truth
    hidden: int

    def setup(self):
        self.layers = nn.Sequential(
            [nn.Dense(self.hidden), nn.gelu, nn.Dense(self.hidden), nn.gelu, nn.Dense(2 * len(self.truth.weights))]
        )

    def encode(self, batch):
        mean, log_scale = jnp.split(self.layers(jnp.log1p(batch["x"])), 2, axis=-1)
        return vae_jax.Normal(mean, log_scale)

    def decode(self, draw, evidence=None, batch=None):
        del batch
        latent = draw("z", vae_jax.standard_normal((len(self.truth.weights),)), lambda: evidence)
        factors = latent.z @ jnp.asarray(self.truth.weights)  # [K, B, N]
        log_mean = factors + jnp.broadcast_to(jnp.asarray(self.truth.bias), factors.shape)
        log_dispersion = jnp.broadcast_to(jnp.log(jnp.asarray(self.truth.dispersion)), factors.shape)
        return vae_jax.NegativeBinomial(log_mean, log_dispersion), (latent,)


def learned_experiment(source: Any, *, factors: int, epochs: int, hidden: int) -> vae_jax.Experiment:
    """Return the VAE with the likelihood `negative-binomial`."""
    steps_per_epoch = len(source.split("train")) // 128
    config = vae_jax.override(
        vae_jax.Config(), preprocess="identity", model__latent_dim=factors, network__hidden=(hidden,),
        network__activation="gelu", network__log1p=True, likelihood="negative-binomial",
        objective__num_samples=1, optimizer__learning_rate=2e-3, train__steps=epochs * steps_per_epoch,
        train__log_every=steps_per_epoch, train__evaluate_every=0, train__save_every=epochs * steps_per_epoch,
        evaluation__num_samples=1000,
    )  # fmt: skip
    return vae_jax.build_experiment(config, source=source)


def true_experiment(learned: vae_jax.Experiment, truth: Truth, *, hidden: int) -> vae_jax.Experiment:
    """Return the true model, whose encoder is trained with the bound of 8 samples."""
    schedule = optax.cosine_decay_schedule(2e-3, learned.training.steps)
    return vae_jax.Experiment(
        TrueModel(truth, hidden), learned.source, vae_jax.iwae, optax.adam(schedule), num_samples=8,
        training=learned.training, evaluation=learned.evaluation,
    )  # fmt: skip


def train(experiment: vae_jax.Experiment, directory: Path) -> dict[str, Any]:
    """Train in a directory, or take the finished run there.

    Returns:
      The parameters, the evaluation, and the seconds of the last start that has trained; None if it was killed.
    """
    result = vae_jax.fit(experiment, directory)
    seconds = atomic_files.read_json(directory / "environment.json").get("seconds")
    evaluation = vae_jax.evaluate_run(experiment, result.params, split="test")
    return {"params": result.params, "seconds": seconds, **evaluation}


def run_scvi(python: str, source: Any, folder: Path, *, factors: int, epochs: int, hidden: int) -> dict[str, Any]:
    """Train scvi-tools with another Python on the same matrix, and return its ELBO and seconds."""
    path = folder / "counts.npz"
    arrays = {split: source.split(split).arrays["x"] for split in ("train", "test")}
    atomic_files.write_file(path, lambda file: np.savez(file, **arrays))
    command = [python, str(WORKER), str(path), f"--latent={factors}", f"--hidden={hidden}", f"--epochs={epochs}"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"--scvi={python} failed: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Simulate, train and compare; return the numbers."""
    parser = argparse.ArgumentParser(description="A VAE of counts against the model that they come from.")
    parser.add_argument("--quick", action="store_true", help="few examples and epochs, to test the code in seconds")
    parser.add_argument("--epochs", type=int, help="default: 60, or 5 with --quick")
    parser.add_argument("--scvi", metavar="PYTHON", help="Python of an environment with scvi-tools")
    parser.add_argument("--output", type=Path, help="default: runs/counts, or runs/counts-quick")
    options = parser.parse_args(argv)
    output = options.output or Path("runs/counts-quick" if options.quick else "runs/counts")
    atomic_files.check_writable(output, "--output")
    examples, numbers, factors = (1500, 20, 2) if options.quick else (20_000, 200, 5)
    epochs, hidden = options.epochs or (5 if options.quick else 60), 32 if options.quick else 128
    counts, truth = simulate(examples, numbers, factors)
    source = vae_jax.from_arrays(counts, kind="counts")
    learned = learned_experiment(source, factors=factors, epochs=epochs, hidden=hidden)
    found = train(learned, output / "learned")
    true = train(true_experiment(learned, truth, hidden=hidden), output / "true")
    dispersion = np.exp(np.asarray(jax.device_get(found["params"]["likelihood_log_dispersion"])))
    result = {
        "examples": examples, "numbers": numbers, "factors": factors, "epochs": epochs,
        "dispersion_error": float(np.median(np.abs(dispersion / truth.dispersion - 1))),
        "learned": {name: found[name] for name in ("elbo", "nll", "nll_se", "ess", "seconds")},
        "true": {name: true[name] for name in ("elbo", "nll", "nll_se", "ess", "seconds")},
        "nll_excess": found["nll"] / true["nll"] - 1,
    }  # fmt: skip
    if options.scvi:
        result["scvi"] = run_scvi(options.scvi, source, output, factors=factors, epochs=epochs, hidden=hidden)
    atomic_files.write_json(output / "counts.json", result)
    text = _table(result)
    atomic_files.write_file(output / "counts.md", lambda file: file.write(text.encode()))
    print(text, file=sys.stderr)
    return result | {"output": str(output)}


def _table(result: dict[str, Any]) -> str:
    lines = ["| model | test ELBO | test NLL | seconds |", "|---|---|---|---|"]
    for name in ("learned", "true", "scvi"):
        row = result.get(name)
        if row:
            nll = f"{row['nll']:.2f} ± {row['nll_se']:.2f}" if "nll" in row else "not measured"
            seconds = "unknown" if row["seconds"] is None else f"{row['seconds']:.1f}"
            lines.append(f"| {name} | {row['elbo']:.2f} | {nll} | {seconds} |")
    return "\n".join(lines) + f"\n\nMedian error of the dispersions: {100 * result['dispersion_error']:.1f} %\n"


if __name__ == "__main__":
    try:
        print(json.dumps(main()))
    except VaeJaxError as error:
        raise SystemExit(str(error)) from None
