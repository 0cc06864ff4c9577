"""Step times of learned priors and flow posteriors: the cells of experiments/priors.py against the first, in one run.

    vae-jax data prepare mnist
    python experiments/benchmarks/families.py

The rows are cells of experiments/priors.py, with their settings: networks 784-300-300-40 and their mirror, batches of
100 dynamically binarized MNIST images, Adam. A step includes samples, densities, gradients and the optimizer.

All rows run in one process. After a warm-up, each row makes `--steps` steps in one dispatch in each round, so that
other load of the machine affects all rows equally. The ratio of a row is its processor time, of all threads, divided by
that of `standard-normal` in the same round. All numbers are medians over the rounds.

Prints a table and, on the last line, JSON.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import steps as benchmark

from vae_jax.config import override
from vae_jax.errors import VaeJaxError
from vae_jax.runtime import host

sys.path.append(str(Path(__file__).parents[1]))
import priors

BASE = "standard-normal"


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, and print a table and, on the last line, JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", nargs="+", choices=priors.NAMES, default=list(priors.NAMES))
    parser.add_argument("--steps", type=int, default=200, help="steps of a row in one round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="small digits and one round of three steps")
    parser.add_argument("--data-dir", help="folder of prepared data sets")
    options = parser.parse_args(argv)
    if min(options.steps, options.rounds) < 1:
        parser.error("--steps and --rounds must be 1 or more")
    steps, rounds = (3, 1) if options.quick else (options.steps, options.rounds)
    size, rows = "quick" if options.quick else "mnist", dict.fromkeys([BASE, *options.rows])
    try:
        cells = {row: priors.Cell(row, 1, size) for row in rows}
        configs = {row: priors.config_of(c, num_samples=1, data_dir=options.data_dir) for row, c in cells.items()}
        dispatches = {
            row: benchmark.prepare(row, override(c, train__evaluate_every=0, mesh__data=1), steps)
            for row, c in configs.items()
        }
        found = benchmark.summarize(benchmark.measure(dispatches, rounds), steps)
    except VaeJaxError as error:
        raise SystemExit(str(error)) from None
    cores = host.cores()
    print(f"median of {rounds} rounds of {steps} steps, {cores} core(s)")
    print(f"{'row':<28}{'steps/s':<10}{'steps/CPU-s':<14}ratio")
    for row in found:
        print(f"{row['row']:<28}{row['steps_per_second']:<10.0f}{row['steps_per_cpu_second']:<14.0f}{row['ratio']:.2f}")
    about = {"device": jax.devices()[0].device_kind, "cores": cores, "jax": jax.__version__}
    result = about | {"steps": steps, "rounds": rounds, "rows": found}
    print(json.dumps(result))
    return result


if __name__ == "__main__":
    main()
