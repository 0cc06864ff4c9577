"""What a small training step spends its time on: steps a second of the real program, and of it with one thing undone.

    vae-jax data prepare mnist
    python experiments/benchmarks/steps.py                  # all cores
    taskset -c 0 python experiments/benchmarks/steps.py     # one core

The program is that of `vae-jax train` for the first cell of experiments/iwae_table1.py: 784-200-200-50 and its mirror
(425,000 parameters), one posterior sample, a fresh binarisation, Adam, batches of 20 (`--batch-size`). The rows:

    as it is          the library
    optax Adam        optax.scale_by_adam, with three divisions for each parameter in place of one
    optax norm        the gradient's norm by sums over whole arrays in place of products with ones
    half vectors      XLA's own choice of vector width in place of the whole width of AVX-512
    all three         the three before it at once
    no draw           pixels as they are in place of a binarisation drawn anew
    constant rate     in place of the staged learning rate
    SGD               in place of Adam: what is left are the products, the draw and the norm

All rows live in one process. After a warm-up, in each round each row makes `--steps` steps in one dispatch, so that
what else the machine does hits all rows alike. Steps a second are by the clock, and by the processor time that
all threads took, which others disturb less; a row's ratio is its processor time over that of `as it is`, round
by round: above 1, undoing it makes the step slower. All numbers are medians over the rounds.

Prints a table, and last one line of JSON.

Numbers of 2026-11-24, ratios (one core of an AMD EPYC with AVX-512, many other programs beside, Python 3.11.7, jax
0.10.2, `--rounds 7 --steps 500`; steps a second of a quiet machine: not run):

    optax Adam 1.111    optax norm 1.196    half vectors 1.147    all three 1.667
    no draw    1.027    constant rate 0.982    SGD 0.848
"""

import argparse
import contextlib
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import numpy as np
import optax

from vae_jax import kernels
from vae_jax.config import PRESETS, override
from vae_jax.data import describe_images, load_images
from vae_jax.errors import VaeJaxError
from vae_jax.runs import Run, compile_program
from vae_jax.runtime import host, sharding

FULL_SCHEDULE = 9_840_000  # steps, of which every stage has three times those before it
SETTINGS = {
    "data__holdout": 0.0, "data__binarization": "dynamic", "model__scale_head": "log-scale",
    "objective__name": "sampled-elbo", "objective__estimator": "pathwise", "optimizer__learning_rate": 1e-3,
    "optimizer__schedule": "staged", "optimizer__milestones": tuple(1500 * (3**i - 1) for i in range(1, 8)),
    "optimizer__decay": 10 ** (-1 / 7), "optimizer__eps": 5e-6, "train__steps": FULL_SCHEDULE,
    "train__evaluate_every": 0, "mesh__data": 1,
}  # fmt: skip
ADAM = (kernels, "scale_by_adam", optax.scale_by_adam)
NORM = (kernels, "norm", optax.tree.norm)
WIDTH = (sharding, "compiler_options", lambda mesh: None)
ROWS: dict[str, tuple[dict[str, Any], list[tuple[Any, str, Any]]]] = {  # settings, and what is replaced in the library
    "as it is": ({}, []),
    "optax Adam": ({}, [ADAM]),
    "optax norm": ({}, [NORM]),
    "half vectors": ({}, [WIDTH]),
    "all three": ({}, [ADAM, NORM, WIDTH]),
    "no draw": ({"data__binarization": "none"}, []),
    "constant rate": ({"optimizer__schedule": "constant", "optimizer__milestones": ()}, []),
    "SGD": ({"optimizer__name": "sgd", "optimizer__b1": 0.0}, []),
}

Dispatch = Callable[[], None]  # makes the steps of one round and waits for them


def prepare(row: str, base: dict[str, Any], preset: str, steps: int) -> Dispatch:
    """The program of a row, compiled and run once."""
    settings, replaced = ROWS[row]
    scale = {"train__log_every": steps, "train__save_every": steps}
    config = override(PRESETS[preset], **base | settings | scale)
    images = load_images(config, "train")
    run = Run(config, describe_images(images), Path(), sharding.make_mesh(1))
    everywhere = sharding.replicated(run.mesh)
    images = jax.device_put(images, everywhere)
    with contextlib.ExitStack() as stack:
        for target, name, instead in replaced:
            stack.enter_context(mock.patch.object(target, name, instead))
        state = jax.jit(run.initial_state, out_shardings=everywhere)(run.key)
        program = compile_program(run)
        state, _ = program(state, images, steps)

    def dispatch() -> None:
        nonlocal state
        state, metrics = program(state, images, steps)
        if np.asarray(metrics["skipped"])[:steps].any():
            raise FloatingPointError(f"{row}: a step was not finite")

    return dispatch


def measure(dispatches: dict[str, Dispatch], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """{row: (seconds, seconds of processor time) of each round}."""
    found: dict[str, list[tuple[float, float]]] = {row: [] for row in dispatches}
    for i in range(rounds):
        for row, dispatch in dispatches.items():
            start = time.perf_counter(), time.process_time()
            dispatch()
            found[row].append((time.perf_counter() - start[0], time.process_time() - start[1]))
        print(f"round {i + 1} of {rounds}", file=sys.stderr)
    return found


def summarise(found: dict[str, list[tuple[float, float]]], steps: int) -> list[dict[str, Any]]:
    """For each row the steps a second by either clock, and its processor time over that of the first row."""
    first = next(iter(found.values()))
    return [
        {
            "row": row,
            "steps_per_second": steps / statistics.median(wall for wall, _ in times),
            "steps_per_cpu_second": steps / statistics.median(cpu for _, cpu in times),
            "ratio": statistics.median(cpu / own for (_, cpu), (_, own) in zip(times, first, strict=True)),
        }
        for row, times in found.items()
    ]


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measures, prints a table, and last one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--batch-size", type=int, default=20)
    parser.add_argument("--steps", type=int, default=1000, help="steps in a round of a row")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="small digits, one round of three steps")
    parser.add_argument("--data-dir", help="where prepared data sets are")
    asked = parser.parse_args(argv)
    if min(asked.steps, asked.rounds) < 1:
        parser.error("--steps and --rounds must be 1 or more")
    steps, rounds = (3, 1) if asked.quick else (asked.steps, asked.rounds)
    base = SETTINGS | {"train__batch_size": asked.batch_size, "data__data_dir": asked.data_dir}
    if asked.quick:
        base |= {"data__holdout": 0.1, "model__hidden": (8,), "model__latent_dim": 2}
    preset = "digits" if asked.quick else "mnist"
    try:
        rows = summarise(measure({row: prepare(row, base, preset, steps) for row in asked.rows}, rounds), steps)
    except VaeJaxError as error:
        raise SystemExit(str(error)) from None
    cores = host.cores()
    print(f"median of {rounds} rounds of {steps} steps, batches of {asked.batch_size}, {cores} core(s)")
    print(f"{'row':<16}{'steps/s':<10}{'steps/CPU-s':<14}{'ratio':<8}hours of {FULL_SCHEDULE:,} steps")
    for row in rows:
        hours = FULL_SCHEDULE / row["steps_per_second"] / 3600
        numbers = f"{row['steps_per_second']:<10.0f}{row['steps_per_cpu_second']:<14.0f}{row['ratio']:<8.3f}"
        print(f"{row['row']:<16}{numbers}{hours:.2f}")
    about = {"device": jax.devices()[0].device_kind, "cores": cores, "jax": jax.__version__}
    result = about | {"batch_size": asked.batch_size, "steps": steps, "rounds": rounds, "rows": rows}
    print(json.dumps(result))
    return result


if __name__ == "__main__":
    main()
