"""The startup time from the shell to the first training step: seconds of complete processes, and of their imports.

    vae-jax data prepare mnist
    python experiments/benchmarks/startup.py

    --help          `vae-jax --help`
    imports         Python and the imports of `vae-jax train`
    dependencies    Python, JAX, Flax, optax and Orbax only, which are most of the imports
    cold, warm      `vae-jax train` of each preset until the first row of metrics.jsonl, with one step in each dispatch:
                    with an empty compilation cache, and with the cache that this run has filled

Each is started `--starts` times (cold: once), one after another. The table shows minimum, median and maximum. The last
line is JSON.

Results of 2026-11-25 (two cores of an AMD EPYC, no other load, Python 3.11.7, jax 0.10.2), seconds:

    --help               0.06    0.09    0.09
    imports              0.96    1.03    1.35
    dependencies         0.98    1.00    1.09
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
    "imports": (
        "from vae_jax.cli import main, train; from vae_jax.runs import fit, plots; "
        "from vae_jax.bench import check_memory"
    ),
    "dependencies": "import jax, flax.linen, optax, orbax.checkpoint",
}


def process_seconds(argv: Sequence[str]) -> float:
    """Return the wall time of a process; raise CalledProcessError if it fails."""
    start = time.perf_counter()
    subprocess.run(argv, check=True, capture_output=True)
    return time.perf_counter() - start


def to_first_step(argv: Sequence[str], cache: Path) -> float:
    """Return the seconds from the start of a `vae-jax train` until the first row of its metrics is on disk."""
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
    """Measure, and print a table and, on the last line, JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--presets", nargs="+", default=["digits", "mnist", "mnist-400"])
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("--data-dir", help="folder of prepared data sets")
    options = parser.parse_args(argv)
    if options.starts < 1:
        parser.error("--starts must be 1 or more")
    seconds: dict[str, list[float]] = {}

    def start(name: str, measure: Callable[[], float], times: int = options.starts) -> None:
        values = seconds[name] = sorted(measure() for _ in range(times))
        print(f"{name:<20}{values[0]:6.2f}  {statistics.median(values):6.2f}  {values[-1]:6.2f} s")

    start("--help", lambda: process_seconds([*COMMAND, "--help"]))
    for name, code in IMPORTS.items():
        start(name, lambda code=code: process_seconds([sys.executable, "-c", code]))
    for preset in options.presets:
        argv = ["--preset", preset, *(["--data.data-dir", options.data_dir] if options.data_dir else [])]
        with tempfile.TemporaryDirectory() as cache:
            start(f"{preset}, cold", lambda argv=argv, cache=cache: to_first_step(argv, Path(cache)), times=1)
            start(f"{preset}, warm", lambda argv=argv, cache=cache: to_first_step(argv, Path(cache)))
    print(json.dumps(seconds))
    return seconds


if __name__ == "__main__":
    main()
