"""The cost of integer codes: steps of each quantizer, and samples of a transformer with and without its cache.

    vae-jax data prepare mnist
    python experiments/benchmarks/quantizers.py

The rows of steps are the cells of experiments/codes.py: networks 784-512-512 and their mirror, batches of 128
dynamically binarized MNIST images. Each is compared with a VAE with a Gaussian posterior and the same networks, whose
latent has as many numbers as the decoder of the cell reads. The rows of samples are 1,000 grids of 49 codes of 64 by a
transformer with 2 layers of width 64: with the cache, each position costs a step of the network for one position, and
without it one for all positions. The samples of one key are compared.

All rows run in one process, and a round runs each of them once, so that other load of the machine affects all rows
equally. Ratios are those within a round, of processor time of all threads and of wall time: medians over the rounds.

Prints a table and, on the last line, JSON.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import steps as benchmark
from jax import Array

from vae_jax import random
from vae_jax.config import Config, choice, override
from vae_jax.distributions import AutoregressiveCodes
from vae_jax.errors import VaeJaxError
from vae_jax.runtime import host

sys.path.append(str(Path(__file__).parents[1]))
import codes

Times = list[tuple[float, float]]  # seconds of wall time and of processor time of each round


def continuous(config: Config) -> Config:
    """Return the settings of a VAE with the networks of a cell, and as many latents as its decoder reads numbers."""
    posterior: Any = config.posterior
    size = len(posterior.levels) if posterior.name == "fsq" else posterior.code_dim
    places = config.model.places
    return override(config, model="vae", model__latent_dim=places * size, posterior="gaussian", prior="standard-normal")


def ratios(times: Times, base: Times) -> dict[str, float]:
    """Return the medians over rounds of processor time and wall time, divided by those of a base."""
    wall, cpu = np.median(np.asarray(times) / np.asarray(base), axis=0)
    return {"cpu_ratio": float(cpu), "wall_ratio": float(wall)}


def measure_steps(names: Sequence[str], steps: int, rounds: int, *, quick: bool) -> list[dict[str, Any]]:
    """Return for each cell the ratios of its steps to those of the continuous model."""
    dispatches = {}
    for name in names:
        config = override(codes.config_of(name, quick=quick), train__evaluate_every=0, mesh__data=1)
        for row, of_row in ((name, config), (f"{name}, continuous", continuous(config))):
            dispatches[row] = benchmark.prepare(row, of_row, steps)
    times = benchmark.measure(dispatches, rounds)
    return [{"row": name} | ratios(times[name], times[f"{name}, continuous"]) for name in names]


def sample_without_cache(density: AutoregressiveCodes, keys: Array) -> Array:
    """Return the samples of keys [N] by a pass over all codes for each position, int32 [N, G]."""

    def advance(z: Array, g: Array) -> tuple[Array, None]:
        logits = jnp.take(density.network(z), g, axis=1)
        noise = random.drawn(jax.random.gumbel, random.fold_in(keys, g), logits.shape)
        return z.at[:, g].set(jnp.argmax(logits + noise, axis=-1).astype(jnp.int32)), None

    z = jnp.zeros((keys.shape[0], density.count), jnp.int32)
    return jax.lax.scan(advance, z, jnp.arange(density.count))[0]


def measure_samples(count: int, size: int, rounds: int) -> dict[str, Any]:
    """Return the ratios of samples without the cache to those with it, and the share of equal codes."""
    prior = choice("prior", "transformer-codes", layers=2, heads=2, width=size)
    module, keys = cast(Any, prior).build_codes(49, 64), jax.random.split(jax.random.key(1), count)
    params = jax.tree.map(  # not the initial ones, with which all codes have equal probabilities
        lambda leaf: 0.1 * jax.random.normal(jax.random.key(2), leaf.shape), module.init(jax.random.key(0))
    )
    samplers = {
        "with the cache": jax.jit(lambda params, keys: module.apply(params).sample(keys, (count,))),
        "without": jax.jit(lambda params, keys: sample_without_cache(module.apply(params), keys)),
    }
    first, second = (np.asarray(sampler(params, keys)) for sampler in samplers.values())
    dispatches = {
        row: lambda sampler=sampler: jax.block_until_ready(sampler(params, keys)) for row, sampler in samplers.items()
    }
    times = benchmark.measure(dispatches, rounds)
    found = ratios(times["without"], times["with the cache"])
    return {"row": f"{count} samples", "equal_codes": float(np.mean(first == second))} | found


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, and print a table and, on the last line, JSON."""
    parser = argparse.ArgumentParser(description="The cost of integer codes.")
    parser.add_argument("--rows", nargs="+", choices=list(codes.CELLS), default=list(codes.CELLS))
    parser.add_argument("--steps", type=int, default=20, help="steps of a row in one round")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="small digits and one round of three steps")
    options = parser.parse_args(argv)
    if min(options.steps, options.rounds) < 1:
        parser.error("--steps and --rounds must be 1 or more")
    steps, rounds = (3, 1) if options.quick else (options.steps, options.rounds)
    try:
        rows = measure_steps(options.rows, steps, rounds, quick=options.quick)
    except VaeJaxError as error:
        raise SystemExit(str(error)) from None
    samples = measure_samples(*((20, 8) if options.quick else (1000, 64)), rounds=min(rounds, 5))
    print(f"{'row':<20}{'CPU ratio':<12}wall ratio")
    for row in [*rows, samples]:
        print(f"{row['row']:<20}{row['cpu_ratio']:<12.2f}{row['wall_ratio']:.2f}")
    about = {"device": jax.devices()[0].device_kind, "cores": host.cores(), "jax": jax.__version__}
    result = about | {"steps": steps, "rounds": rounds, "rows": rows, "samples": samples}
    print(json.dumps(result))
    return result


if __name__ == "__main__":
    main()
