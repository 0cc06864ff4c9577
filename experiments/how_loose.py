"""How loose are the estimates of log p(x)? ELBO, importance sampling and annealed importance sampling of trained runs.

    vae-jax train --preset mnist --workdir runs/how_loose/mnist
    vae-jax train --preset mnist --prior coupling --workdir runs/how_loose/mnist-coupling
    vae-jax train --preset mnist-conv --workdir runs/how_loose/mnist-conv
    python experiments/how_loose.py runs/how_loose/mnist runs/how_loose/mnist-coupling runs/how_loose/mnist-conv

Each run is evaluated on its first test images, in nats:

    ELBO           one sample of q(z|x), with the closed form of the KL where there is one
    IW-K           -log p(x) by importance sampling with K samples of q(z|x)
    AIS-T          -log p(x) by annealed importance sampling from q(z|x) along T distributions, with 16 chains and 10
                   leapfrog steps, and the standard error that the chains cause
    BDMC gap       the difference of the bounds of bidirectional Monte Carlo on 100 simulated images: the bound of the
                   error of AIS
    k > 0.7        share of the images whose importance weights have a tail too heavy for a reliable mean
    approximation  gap of the family of posteriors, and `amortization` of the encoder, with posteriors optimized for
                   each image; not for models whose posterior is no Gaussian
    exact          -log p(x) of a linear model: model=vae, preprocess=scale, prior N(0, I), likelihood=gaussian, and
                   network=mlp without hidden layers

--samples, --distributions and --images set the amount of computation. Each number is stored when it is computed, in
RUN/how_loose-IMAGES.json, so the same command continues an interrupted one, and larger numbers are added to the table.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cells
import jax.numpy as jnp
import numpy as np

from vae_jax import inference
from vae_jax.distributions import Normal, from_values
from vae_jax.errors import InputError, VaeJaxError
from vae_jax.inference import Annealing, Params, PosteriorOptimization
from vae_jax.runs import (
    AnnealedEvaluation,
    OpenedRun,
    evaluate_annealed,
    evaluate_inference_gap,
    make_evaluator,
    open_run,
    restored_params,
)
from vae_jax.runtime import atomic_files

SIMULATED, CHUNK = 100, 50  # images of the BDMC gap; samples that are decoded at once


def exact_nll(run: OpenedRun, params: Params, x: np.ndarray) -> np.ndarray | None:
    """Return -log N(x; b, W W' + σ² I) of a linear decoder with a Gaussian likelihood, [N]; None for another model.

    Args:
      run: the run.
      params: its parameters.
      x: inputs of the model, pixels divided by 255, [N, H, W, C].
    """
    config = run.experiment.config
    assert config is not None, "open_run builds it from a config"
    parts = config.model, config.preprocess, config.prior, config.likelihood, config.network
    if [part.name for part in parts] != ["vae", "scale", "standard-normal", "gaussian", "mlp"] or config.network.hidden:
        return None
    dim = config.model.latent_dim
    z = jnp.concatenate([jnp.zeros((1, dim)), jnp.eye(dim)])[None]  # [1, D + 1, D]
    p_x, _ = inference.decode(params, from_values({"z": z}), model=run.experiment.model)
    assert isinstance(p_x, Normal)
    means, scale = np.asarray(p_x.loc, np.float64).reshape(dim + 1, -1), np.exp(np.asarray(p_x.log_scale, np.float64))
    weights, centered = means[1:] - means[0], x.reshape(len(x), -1) - means[0]
    covariance = weights.T @ weights + np.diag(np.broadcast_to(scale.reshape(-1)[:1] ** 2, (x[0].size,)))
    log_determinant = np.linalg.slogdet(2 * np.pi * covariance)[1]
    return (log_determinant + np.sum(centered * np.linalg.solve(covariance, centered.T).T, axis=1)) / 2


class Measurements:
    """The numbers of one run, on disk: a number that is known is not computed again."""

    def __init__(self, path: Path):
        self.path = path
        self.values: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def get(self, name: str, compute: Callable[[], Mapping[str, Any]]) -> None:
        """Compute and store what is not known, with its time."""
        if name not in self.values:
            start = time.perf_counter()
            result = dict(compute())
            self.values[name] = result | {"seconds": round(time.perf_counter() - start, 1)}
            atomic_files.write_json(self.path, self.values)
            print(f"{self.path.parent.name} {name}: {self.values[name]}", file=sys.stderr, flush=True)


def measure(
    directory: Path, *, images: int, samples: Sequence[int], distributions: Sequence[int], steps: int
) -> dict[str, Any]:
    """Return all numbers of a run."""
    run = open_run(directory)
    found = Measurements(directory / f"how_loose-{images}.json")
    with restored_params(run.experiment, run.directory, run.placement, changed=run.changed) as (step, params):
        arrays = {name: array[:images] for name, array in run.experiment.dataset("test").arrays.items()}
        evaluator = make_evaluator(run.experiment, run.placement)
        key = run.experiment.evaluation_key("test")
        if found.values.setdefault("step", step) != step:
            raise InputError(f"{found.path} belongs to step {found.values['step']} and not to {step}; remove it")
        found.get("bound", lambda: evaluator.bound(params, key, arrays))
        for k in samples:
            found.get(
                f"IW-{k}",
                lambda k=k: evaluator.likelihood(params, key, arrays, num_samples=k, chunk=min(k, CHUNK)),
            )
        for t in distributions:
            settings = AnnealedEvaluation(Annealing(t), images, min(SIMULATED, images))
            partial = directory / f"how_loose-{images}-ais-{t}.npz"
            found.get(f"AIS-{t}", lambda settings=settings, partial=partial: evaluate_annealed(
                run.experiment, params, settings, split="test", placement=run.placement, step=step, partial=partial,
            ))  # fmt: skip
            atomic_files.remove(partial)
        if steps:
            if found.values.get("gap", {}).get("num_steps", steps) != steps:
                del found.values["gap"]
            found.get("gap", lambda: gap(run, params, images, steps))
        if (exact := exact_nll(run, params, arrays["x"] / np.float32(255))) is not None:
            found.get("exact", lambda: {"nll": float(exact.mean())})
    return {"run": directory.name, "images": images, **found.values}


def gap(run: OpenedRun, params: Params, images: int, steps: int) -> dict[str, Any]:
    """Return the parts of the gap, or why there are none."""
    settings = PosteriorOptimization(num_steps=steps)
    try:
        return evaluate_inference_gap(
            run.experiment, params, settings, split="test", placement=run.placement, num_examples=images
        )
    except InputError as error:
        return {"undefined": str(error)}


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the table: a column for each number that a run has."""
    estimates = sorted(
        {name for row in rows for name in row if name.startswith(("IW-", "AIS-"))},
        key=lambda name: (name.startswith("AIS"), int(name.partition("-")[2])),
    )
    titles = ["run", "steps", "images", "-ELBO"]
    for name in estimates:
        titles += [name, *(["BDMC gap"] if name.startswith("AIS") else ["k > 0.7"])]
    titles += ["approximation", "amortization", "exact", "seconds"]
    lines = [[row["run"], row["step"], row["images"], *_cells(row, estimates)] for row in rows]
    return "\n".join(cells.markdown_table(titles, lines)) + "\n"


def _cells(row: Mapping[str, Any], estimates: Sequence[str]) -> list[str]:
    def value(name: str, key: str, error: str | None = None, sign: float = 1) -> str:
        found = row.get(name, {})
        if key not in found:
            return ""
        text = f"{sign * found[key]:.2f}"
        return text if error is None or found.get(error) is None else f"{text} ± {found[error]:.2f}"

    texts = [value("bound", "elbo", "elbo_se", -1)]
    for name in estimates:
        if name.startswith("AIS"):
            bounds = row.get(name, {}).get("bdmc", {})
            texts.append(value(name, "nll", "monte_carlo_se"))
            texts.append(f"{bounds['gap']:.2f} ± {bounds['gap_se']:.2f}" if bounds else "")
        else:
            texts += [value(name, "nll", "nll_se"), value(name, "pareto_k_above")]
    texts += [value("gap", f"{part}_gap", f"{part}_gap_se") for part in ("approximation", "amortization")]
    seconds = sum(found["seconds"] for found in row.values() if isinstance(found, Mapping))
    return [*texts, value("exact", "nll"), f"{seconds:.0f}"]


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Evaluate the runs, print the table and return its rows."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path, help="directories of runs")
    parser.add_argument("--images", type=int, default=1000, help="the first so many test images")
    parser.add_argument("--samples", nargs="*", type=int, default=[50, 5000], help="K of importance sampling")
    parser.add_argument("--distributions", nargs="*", type=int, default=[100], help="distributions of AIS")
    parser.add_argument("--steps", type=int, default=500, help="steps of the optimized posteriors; 0: none")
    options = parser.parse_args(argv)
    rows = [
        measure(directory, images=options.images, samples=options.samples, distributions=options.distributions,
                steps=options.steps)
        for directory in options.runs
    ]  # fmt: skip
    print(markdown(rows), file=sys.stderr)
    return {"rows": rows}


if __name__ == "__main__":
    try:
        print(json.dumps(main()))
    except VaeJaxError as error:
        raise SystemExit(str(error)) from None
