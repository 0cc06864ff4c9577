"""A sweep as one program against the same models one after another: whole commands, timed from start to end.

    vae-jax data prepare mnist
    python experiments/benchmarks/sweep.py

Four weights of the KL and four seeds on MNIST, preset `mnist`: `vae-jax sweep --vary objective.beta=... seed=...`, then
the sixteen `vae-jax train` commands. Each side has an empty cache of compiled programs of its own, which its first
command fills; each trains the same steps and evaluates the same test images with the same K. Both do all else that the
commands do: a `train` command also draws its figures, a sweep its table and one figure.

Within a round the sixteen commands follow the sweep at once, on whatever the machine is then; the ratio is the sweep's
time over the sum of theirs: below 1, the sweep is faster. With `--alone N` only the first N of them run, and each of
the others is taken to last as long as the median of those after the first, which filled the cache.

Prints a table, and last one line of JSON.

Time: 2.6 minutes on two cores with `--steps 918`.
Numbers of 2026-11-25 (two cores of an AMD EPYC with AVX-512, Python 3.11.7, jax 0.10.2, `--steps 918`, one round): the
sweep 50.0 s, the sixteen commands 105.9 s, ratio 0.47; of training alone 38.0 s and 60.4 s. On 2026-11-27, on two cores
of an Intel Xeon, likewise: 107.4 s and 240.0 s, 0.45; of training alone 83.2 s and 139.7 s.
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
    """{"sweep": its one command line, "train": those of the members one by one}, without the program's name."""

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


def clocked(argv: Sequence[str]) -> dict[str, Any]:
    """The result of one command and the seconds of its whole process; ends the program where it fails."""
    start = time.perf_counter()
    done = subprocess.run([*COMMAND, *argv], capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"vae-jax {' '.join(argv)}\n{done.stderr}")
    return {"seconds": seconds, "result": json.loads(done.stdout.splitlines()[-1])}


def summarise(found: dict[str, list[dict[str, Any]]], *, models: int) -> dict[str, Any]:
    """Seconds of either side, of them those of training (with compilation), and the ratio of the wholes.

    Where fewer than `models` commands of one model each have run, the others last as the median of all but the first.
    """

    commands = {"sweep": 1, "train": models}

    def total(seconds: list[float], side: str) -> float:
        missing = commands[side] - len(seconds)
        return sum(seconds) + (missing * statistics.median(seconds[1:]) if missing else 0.0)

    sides = {
        side: {
            "commands": len(done),
            "seconds": total([one["seconds"] for one in done], side),
            "train_seconds": total([one["result"]["train_seconds"] for one in done], side),
        }
        for side, done in found.items()
    }
    return sides | {"ratio": sides["sweep"]["seconds"] / sides["train"]["seconds"]}


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Runs both sides, prints a table, and last one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--preset", default="mnist")
    parser.add_argument("--betas", type=float, nargs="+", default=BETAS)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--steps", type=int, default=2295, help="steps of each model")
    parser.add_argument("--samples", type=int, default=20, help="K of the NLL; 0 for none")
    parser.add_argument("--alone", type=int, help="how many of the commands of one model run; all if not given")
    parser.add_argument("--set", nargs="+", default=[], metavar="SECTION.FIELD=VALUE", help="further settings")
    asked = parser.parse_args(argv)
    models = len(asked.betas) * len(asked.seeds)
    alone = models if asked.alone is None else asked.alone
    if not (alone == models or 2 <= alone < models):
        parser.error(f"--alone must be 2 or more and at most the {models} models")
    settings = [f"train.steps={asked.steps}", f"evaluation.num_samples={asked.samples}", *asked.set]
    flags = ["--preset", asked.preset, *(part for s in settings for part in f"--{s}".split("=", 1))]
    with tempfile.TemporaryDirectory() as folder:
        found = {}
        for side, lines in commands(Path(folder), asked.betas, asked.seeds, flags).items():
            found[side] = []
            for line in lines[:alone]:
                found[side].append(clocked(line))
                print(f"{side}: {found[side][-1]['seconds']:.1f} s", file=sys.stderr, flush=True)
    table = summarise(found, models=models)
    print(f"{'side':<8}{'ran':<10}{'seconds':<10}of them training")
    for side in found:
        row = table[side]
        print(f"{side:<8}{row['commands']:<10}{row['seconds']:<10.1f}{row['train_seconds']:.1f}")
    print(f"sweep / train {table['ratio']:.3f}")
    about = {"preset": asked.preset, "steps": asked.steps, "num_samples": asked.samples, "models": models}
    result = about | {"cores": host.cores()} | table
    print(json.dumps(result))
    return result


if __name__ == "__main__":
    main()
