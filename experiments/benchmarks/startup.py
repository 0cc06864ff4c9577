"""From the shell to the first step: seconds of whole processes, and of what they import.

    vae-jax data prepare mnist
    python experiments/benchmarks/startup.py

    --help          `vae-jax --help`
    imports         Python and what `vae-jax train` imports
    of others       Python and JAX, Flax, optax and Orbax alone, which are most of that
    cold, warm      `vae-jax train` of each preset until the first row is in metrics.jsonl, one step a dispatch: with an
                    empty compilation cache, and with the one that this has left

Each is started `--starts` times (cold: once), one after another; least, median and greatest. Prints a table, and last
one line of JSON.

Numbers of 2026-11-25 (two cores of an AMD EPYC, nothing else at work, Python 3.11.7, jax 0.10.2), seconds:

    --help               0.06    0.09    0.09
    imports              0.96    1.03    1.35
    of others            0.98    1.00    1.09
    digits, cold                 3.47
    digits, warm         1.49    1.55    1.61
    mnist, cold                  3.52
    mnist, warm          1.73    1.85    1.90
    mnist-400, cold              3.14
    mnist-400, warm      1.44    1.55    1.59
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

COMMAND = [sys.executable, "-m", "vae_jax"]
IMPORTS = {
    "imports": "from vae_jax import cli, drawing, fitting, planning, runs",
    "of others": "import jax, flax.linen, optax, orbax.checkpoint",
}


def whole(argv: Sequence[str]) -> float:
    """Seconds of a process that succeeds."""
    start = time.perf_counter()
    subprocess.run(argv, check=True, capture_output=True)
    return time.perf_counter() - start


def to_first_step(argv: Sequence[str], cache: Path) -> float:
    """Seconds from the start of a `vae-jax train` until the first row of its metrics is there."""
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "run" / "metrics.jsonl"
        command = [*COMMAND, "train", "--workdir", str(rows.parent), "--compilation-cache", str(cache),
                   "--train.log-every", "1", "--train.evaluate-every", "0", "--train.save-every", "1000",
                   "--train.steps", "1000", *argv]  # fmt: skip
        start = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
            while not (rows.exists() and "\n" in rows.read_text()):
                if process.poll() is not None:
                    raise SystemExit(process.communicate()[1])
                time.sleep(0.005)
            seconds = time.perf_counter() - start
            process.kill()
    return seconds


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measures, prints a table, and last one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--presets", nargs="+", default=["digits", "mnist", "mnist-400"])
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("--data-dir", help="where prepared data sets are")
    asked = parser.parse_args(argv)
    if asked.starts < 1:
        parser.error("--starts must be 1 or more")
    found: dict[str, list[float]] = {}

    def start(name: str, measure: Callable[[], float], times: int = asked.starts) -> None:
        found[name] = sorted(measure() for _ in range(times))
        least, median, greatest = found[name][0], statistics.median(found[name]), found[name][-1]
        print(f"{name:<20}{least:6.2f}  {median:6.2f}  {greatest:6.2f} s")

    start("--help", lambda: whole([*COMMAND, "--help"]))
    for name, code in IMPORTS.items():
        start(name, lambda code=code: whole([sys.executable, "-c", code]))
    for preset in asked.presets:
        argv = ["--preset", preset, *(["--data.data-dir", asked.data_dir] if asked.data_dir else [])]
        with tempfile.TemporaryDirectory() as cache:
            start(f"{preset}, cold", lambda argv=argv, cache=cache: to_first_step(argv, Path(cache)), times=1)
            start(f"{preset}, warm", lambda argv=argv, cache=cache: to_first_step(argv, Path(cache)))
    print(json.dumps(found))
    return found


if __name__ == "__main__":
    main()
