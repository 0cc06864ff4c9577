"""A sweep in one program compared with separate trainings of the same models, timed as complete commands.

    vae-jax data prepare mnist
    python experiments/benchmarks/sweep.py

Four weights of the KL and four seeds on MNIST, preset `mnist`: `vae-jax sweep --vary objective.beta=... seed=...`, then
the sixteen `vae-jax train` commands. Each side has a separate, empty cache of compiled programs, which its first
command fills. Each trains the same steps and evaluates the same test images with the same K. Both do all other work of
these commands: a `train` command also plots its figures, a sweep its table and one figure.

The sixteen commands run directly after the sweep, under the current load of the machine. The ratio is the sweep's time
divided by the sum of their times: below 1, the sweep is faster. With `--alone N` only the first N of them run, and each
of the others is assigned the median time of those after the first, which filled the cache.

Prints a table and, on the last line, JSON.

Time: 2.6 minutes on two cores with `--steps 918`.
Results of 2026-11-25 (two cores of an AMD EPYC with AVX-512, Python 3.11.7, jax 0.10.2, `--steps 918`, one round): the
sweep 50.0 s, the sixteen commands 105.9 s, ratio 0.47; training only: 38.0 s and 60.4 s. On 2026-11-27, the same on two
cores of an Intel Xeon: 107.4 s and 240.0 s, 0.45; training only: 83.2 s and 139.7 s.
"""

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vae_jax.runtime import host

BETAS, SEEDS = (0.5, 1.0, 2.0, 4.0), (0, 1, 2, 3)
COMMAND = [sys.executable, "-m", "vae_jax"]


def commands(folder: Path, betas: Sequence[float], seeds: Sequence[int], settings: Sequence[str]) -> dict[str, Any]:
    """Return {"sweep": one command line, "train": one command line for each member}, without the program's name."""

    def common(side: str) -> list[str]:
        return ["--compilation-cache", str(folder / f"cache-{side}"), *settings]

    axes = {"objective.beta": betas, "seed": seeds}
    vary = [f"{path}={','.join(map(str, values))}" for path, values in axes.items()]
    train = [
        ["train", "--workdir", str(folder / "train" / ",".join(f"{p}={v}" for p, v in zip(axes, point, strict=True))),
         *(flag for p, v in zip(axes, point, strict=True) for flag in (f"--{p}", str(v))), *common("train")]
        for point in itertools.product(*axes.values())
    ]  # fmt: skip
    return {"sweep": [["sweep", "--workdir", str(folder / "sweep"), *common("sweep"), "--vary", *vary]], "train": train}


def run_command(argv: Sequence[str]) -> dict[str, Any]:
    """Run a command; return its result and the seconds of its process; exit if it fails."""
    start = time.perf_counter()
    done = subprocess.run([*COMMAND, *argv], capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"vae-jax {' '.join(argv)}\n{done.stderr}")
    return {"seconds": seconds, "result": json.loads(done.stdout.splitlines()[-1])}


def summarize(results: dict[str, list[dict[str, Any]]], *, models: int) -> dict[str, Any]:
    """Return the total and the training seconds (with compilation) of both sides, and the ratio of the totals.

    If fewer than `models` training commands have run, each of the others is assigned the median of all but the first.
    """
    commands = {"sweep": 1, "train": models}

    def total(seconds: list[float], side: str) -> float:
        missing = commands[side] - len(seconds)
        return sum(seconds) + (missing * statistics.median(seconds[1:]) if missing else 0.0)

    sides = {
        side: {
            "commands": len(commands_run),
            "seconds": total([command["seconds"] for command in commands_run], side),
            "train_seconds": total([command["result"]["train_seconds"] for command in commands_run], side),
        }
        for side, commands_run in results.items()
    }
    return sides | {"ratio": sides["sweep"]["seconds"] / sides["train"]["seconds"]}


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run both sides, and print a table and, on the last line, JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--preset", default="mnist")
    parser.add_argument("--betas", type=float, nargs="+", default=BETAS)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--steps", type=int, default=2295, help="steps of each model")
    parser.add_argument("--samples", type=int, default=20, help="K of the NLL; 0 for none")
    parser.add_argument("--alone", type=int, help="number of train commands to run; default: all")
    parser.add_argument("--set", nargs="+", default=[], metavar="SECTION.FIELD=VALUE", help="further settings")
    options = parser.parse_args(argv)
    models = len(options.betas) * len(options.seeds)
    alone = models if options.alone is None else options.alone
    if not (alone == models or 2 <= alone < models):
        parser.error(f"--alone must be 2 or more and at most the {models} models")
    settings = [f"train.steps={options.steps}", f"evaluation.num_samples={options.samples}", *options.set]
    flags = ["--preset", options.preset, *(part for s in settings for part in f"--{s}".split("=", 1))]
    with tempfile.TemporaryDirectory() as folder:
        results = {}
        for side, lines in commands(Path(folder), options.betas, options.seeds, flags).items():
            results[side] = []
            for line in lines[:alone]:
                results[side].append(run_command(line))
                print(f"{side}: {results[side][-1]['seconds']:.1f} s", file=sys.stderr, flush=True)
    table = summarize(results, models=models)
    print(f"{'side':<8}{'ran':<10}{'seconds':<10}seconds of training")
    for side in results:
        row = table[side]
        print(f"{side:<8}{row['commands']:<10}{row['seconds']:<10.1f}{row['train_seconds']:.1f}")
    print(f"sweep / train {table['ratio']:.3f}")
    about = {"preset": options.preset, "steps": options.steps, "num_samples": options.samples, "models": models}
    result = about | {"cores": host.cores()} | table
    print(json.dumps(result))
    return result


if __name__ == "__main__":
    main()
