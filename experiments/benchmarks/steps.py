"""The cost of parts of a small training step: steps a second of the complete program, and with one part replaced.

    vae-jax data prepare mnist
    python experiments/benchmarks/steps.py                  # all cores
    taskset -c 0 python experiments/benchmarks/steps.py     # one core

The program is that of `vae-jax train` for the first cell of experiments/iwae_table1.py: 784-200-200-50 and its mirror
(425,000 parameters), one posterior sample, a new binarization in each step, Adam, batches of 20 (`--batch-size`). The
rows:

    unchanged         the program of this package
    optax Adam        optax.scale_by_adam, with three divisions for each parameter instead of one
    optax norm        the norm of the gradient by sums over complete arrays instead of products with ones
    half vectors      XLA's default vector width instead of the full width of AVX-512
    all three         the three rows above combined
    no binarization   the pixels unchanged instead of a new binarization in each step
    constant rate     instead of the staged learning rate
    SGD               instead of Adam; the products, the binarization and the norm remain

All rows run in one process. After a warm-up, each row makes `--steps` steps in one dispatch in each round, so that
other load of the machine affects all rows equally. Steps a second are measured in wall time, and in processor time of
all threads, which other load affects less. The ratio of a row is its processor time divided by that of `unchanged` in
the same round: above 1, the replacement is slower. All numbers are medians over the rounds.

Prints a table and, on the last line, JSON.

Results of 2026-11-24, ratios (one core of an AMD EPYC with AVX-512, much other load, Python 3.11.7, jax 0.10.2,
`--rounds 7 --steps 500`; steps a second without other load: not measured):

    optax Adam       1.111    optax norm     1.196    half vectors  1.147    all three  1.667
    no binarization  1.027    constant rate  0.982    SGD           0.848
"""

import argparse
import contextlib
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

import jax
import numpy as np
import optax

from vae_jax import kernels
from vae_jax.config import PRESETS, Config, override
from vae_jax.errors import VaeJaxError
from vae_jax.runs import build_experiment, compile_program, place_initial_state
from vae_jax.runtime import Placement, host, sharding

FULL_SCHEDULE = 9_840_000  # steps; each stage has three times the steps of the stage before it
SETTINGS = {
    "data__holdout": 0.0, "preprocess": "dynamic-binarization", "posterior__scale_head": "log-scale",
    "objective": "sampled-elbo", "estimator": "pathwise", "optimizer__learning_rate": 1e-3,
    "schedule": "staged", "schedule__milestones": tuple(1500 * (3**i - 1) for i in range(1, 8)),
    "schedule__decay": 10 ** (-1 / 7), "optimizer__eps": 5e-6, "train__steps": FULL_SCHEDULE,
    "train__evaluate_every": 0, "mesh__data": 1,
}  # fmt: skip
ADAM = (kernels, "scale_by_adam", optax.scale_by_adam)
NORM = (kernels, "global_norm", optax.tree.norm)
WIDTH = (sharding, "compiler_options", lambda mesh: None)
ROWS: dict[str, tuple[dict[str, Any], list[tuple[Any, str, Any]]]] = {  # settings, and replacements in the package
    "unchanged": ({}, []),
    "optax Adam": ({}, [ADAM]),
    "optax norm": ({}, [NORM]),
    "half vectors": ({}, [WIDTH]),
    "all three": ({}, [ADAM, NORM, WIDTH]),
    "no binarization": ({"preprocess": "scale"}, []),
    "constant rate": ({"schedule": "constant"}, []),
    "SGD": ({"optimizer": "sgd"}, []),
}

Dispatch = Callable[[], None]  # runs the steps of one round and waits until they are finished


def prepare(row: str, config: Config, steps: int, replacements: Sequence[tuple[Any, str, Any]] = ()) -> Dispatch:
    """Compile the program of a config and run it once; return its dispatch.

    Args:
      row: the name of the row, for an error.
      config: the settings.
      steps: the steps of a dispatch.
      replacements: (module, name, replacement) of parts of the package.
    """
    config = override(config, train__log_every=steps, train__save_every=steps)
    placement = Placement(sharding.make_mesh(1))
    with contextlib.ExitStack() as stack:
        for module, name, replacement in replacements:
            stack.enter_context(mock.patch.object(module, name, replacement))
        experiment = build_experiment(config)
        data = jax.device_put(experiment.training_data.read_all(), placement.replicated)
        state, program = place_initial_state(experiment, placement), compile_program(experiment, placement)
        state, _ = program(state, data, steps)

    def dispatch() -> None:
        nonlocal state
        state, metrics = program(state, data, steps)
        if np.asarray(metrics["skipped"])[:steps].any():
            raise FloatingPointError(f"{row}: a step was not finite")

    return dispatch


def measure(dispatches: dict[str, Dispatch], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Return {row: (seconds of wall time, seconds of processor time) of each round}."""
    times: dict[str, list[tuple[float, float]]] = {row: [] for row in dispatches}
    for i in range(rounds):
        for row, dispatch in dispatches.items():
            start = time.perf_counter(), time.process_time()
            dispatch()
            times[row].append((time.perf_counter() - start[0], time.process_time() - start[1]))
        print(f"round {i + 1} of {rounds}", file=sys.stderr)
    return times


def summarize(times: dict[str, list[tuple[float, float]]], steps: int) -> list[dict[str, Any]]:
    """Return each row's steps a second of wall and processor time, and its ratio to the first row."""
    first = next(iter(times.values()))
    return [
        {
            "row": row,
            "steps_per_second": steps / statistics.median(wall for wall, _ in rounds),
            "steps_per_cpu_second": steps / statistics.median(cpu for _, cpu in rounds),
            "ratio": statistics.median(cpu / base for (_, cpu), (_, base) in zip(rounds, first, strict=True)),
        }
        for row, rounds in times.items()
    ]


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, and print a table and, on the last line, JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), help="in addition to unchanged")
    parser.add_argument("--batch-size", type=int, default=20)
    parser.add_argument("--steps", type=int, default=1000, help="steps of a row in one round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="small digits and one round of three steps")
    parser.add_argument("--data-dir", help="folder of prepared data sets")
    options = parser.parse_args(argv)
    if min(options.steps, options.rounds) < 1:
        parser.error("--steps and --rounds must be 1 or more")
    steps, rounds = (3, 1) if options.quick else (options.steps, options.rounds)
    base = SETTINGS | {"train__batch_size": options.batch_size, "data__data_dir": options.data_dir}
    if options.quick:
        base |= {"data__holdout": 0.1, "network__hidden": (8,), "model__latent_dim": 2}
    preset = "digits" if options.quick else "mnist"
    try:
        config = override(PRESETS[preset], **base)
        dispatches = {}
        for row in dict.fromkeys(["unchanged", *options.rows]):
            settings, replacements = ROWS[row]
            dispatches[row] = prepare(row, override(config, **settings), steps, replacements)
        rows = summarize(measure(dispatches, rounds), steps)
    except VaeJaxError as error:
        raise SystemExit(str(error)) from None
    cores = host.cores()
    print(f"median of {rounds} rounds of {steps} steps, batches of {options.batch_size}, {cores} core(s)")
    print(f"{'row':<16}{'steps/s':<10}{'steps/CPU-s':<14}{'ratio':<8}hours of {FULL_SCHEDULE:,} steps")
    for row in rows:
        hours = FULL_SCHEDULE / row["steps_per_second"] / 3600
        numbers = f"{row['steps_per_second']:<10.0f}{row['steps_per_cpu_second']:<14.0f}{row['ratio']:<8.3f}"
        print(f"{row['row']:<16}{numbers}{hours:.2f}")
    about = {"device": jax.devices()[0].device_kind, "cores": cores, "jax": jax.__version__}
    result = about | {"batch_size": options.batch_size, "steps": steps, "rounds": rounds, "rows": rows}
    print(json.dumps(result))
    return result


if __name__ == "__main__":
    main()
