"""Training from disk compared with training from memory: one model, and a data set larger than a limit on memory.

    vae-jax data prepare mnist
    python experiments/benchmarks/streaming.py --folder DIR          # DIR stores the data set for later runs

The data set `mnist_moved` is created on first use: `--images` images (2.19 GiB decoded) from MNIST's training images,
each moved by up to three pixels in both directions, as PNG in array_record, and 2,000 of its test images. The model is
that of the preset `mnist-conv`.

    memory       all images are in memory, as with `--data.streaming never`
    streamed     threads read and decode images while the model trains, `--data.streaming always`
    2 workers    two processes read and decode them, `--data.workers 2`

All rows run in one process. In each round, each row in turn makes one dispatch that is not timed (a stream has read
thousands of images ahead while it waited), and then `--dispatches` that are timed. The ratio is the speed of a row
divided by that of `memory` in the same round. Then `vae-jax train` runs twice under `ulimit -d` (`--limit` GiB of data
in the process, less than the size of the images): with `--data.streaming auto` it trains, with `never` it is refused.

Prints a table and, on the last line, JSON.

Time: 5 minutes to create the data set, 3 to scan it, 3 to decode it once for `memory`, then 8, on two cores.
Results of 2026-11-25 (two cores of an AMD EPYC with AVX-512, no other load, Python 3.11.7, jax 0.10.2, grain 0.2.18),
median (min to max):

    memory       140.4 steps/s    1.000
    streamed     120.7            0.852 (0.816 to 0.956)
    2 workers    125.3            0.894 (0.784 to 1.081)

With at most 2 GiB of data in the process, images of 2.19 GiB and 5,145 steps, `auto` trained in 47 s, including the
start, and `never` was refused, exit code 2. Closer to the limit (1.4 GiB for images of 1.46), one training of that
length hung: a thread could not be started, and Python raised no error.
"""

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vae_jax import data
from vae_jax.config import PRESETS, override
from vae_jax.errors import VaeJaxError
from vae_jax.runs import build_experiment, compile_program, place_initial_state
from vae_jax.runs.input_pipeline import open_input_pipeline
from vae_jax.runtime import Placement, host, sharding

NAME, MAX_SHIFT = "mnist_moved", 3  # pixels
ROWS = {
    "memory": {"data__streaming": "never"},
    "streamed": {"data__streaming": "always"},
    "2 workers": {"data__streaming": "always", "data__workers": 2},
}
LIMITED = """
import resource, sys
limit = int(sys.argv.pop(1))
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
from vae_jax.cli.main import main
sys.exit(main())
"""

Dispatch = Callable[[], Any]  # returns arrays that are ready when the dispatch is finished


def moved(images: np.ndarray, count: int, *, seed: int) -> Iterator[np.ndarray]:
    """Yield `count` of the images [N, H, W, 1] in turn, each moved by up to `MAX_SHIFT` pixels: uint8 [H, W, 1]."""
    generator = np.random.default_rng(seed)
    height, width = images.shape[1:3]
    for i in range(count):
        down, right = generator.integers(0, 2 * MAX_SHIFT + 1, 2)
        padded = np.pad(images[i % len(images)], ((MAX_SHIFT, MAX_SHIFT), (MAX_SHIFT, MAX_SHIFT), (0, 0)))
        yield padded[down : down + height, right : right + width]


def make(folder: Path, source: str, count: int, tests: int, *, data_dir: str | None) -> None:
    """Prepare the data set below `folder`, unless it exists with the same number of images."""
    existing = [entry for entry in data.available(folder) if entry["name"] == NAME]
    if existing and existing[0]["splits"]["train"] == count:
        return
    import tensorflow_datasets as tfds

    images = {split: data.load(source, split, data_dir=data_dir, holdout=0.0) for split in ("train", "test")}

    class Moved(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = NAME
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = tfds.features.FeaturesDict({"image": tfds.features.Image(shape=images["train"].shape[1:])})
            return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

        def _split_generators(self, dl_manager):
            del dl_manager  # nothing to download
            return {split: self._generate_examples(split) for split in ("train", "test")}

        def _generate_examples(self, split):
            from PIL import Image

            size = {"train": count, "test": tests}[split]
            for i, image in enumerate(moved(images[split], size, seed=len(split))):
                yield i, {"image": Image.fromarray(image[..., 0])}

    tfds.disable_progress_bar()
    Moved(data_dir=folder).download_and_prepare(
        file_format="array_record", download_config=tfds.download.DownloadConfig(try_download_gcs=False)
    )


@contextlib.contextmanager
def prepared(settings: dict[str, Any]) -> Iterator[Dispatch]:
    """Compile the program of a row and run it once; yield its dispatch."""
    config = override(PRESETS["mnist-conv"], **settings)
    steps = config.train.log_every
    experiment, placement = build_experiment(config), Placement(sharding.make_mesh(1))
    with open_input_pipeline(experiment, placement, first_step=0) as next_data:
        program, state = compile_program(experiment, placement), place_initial_state(experiment, placement)
        state, metrics = program(state, next_data(steps), steps)

        def dispatch() -> Any:
            """Start a dispatch and read the metrics of the one before while it runs, as `runs.fit` does."""
            nonlocal state, metrics
            previous = metrics
            state, metrics = program(state, next_data(steps), steps)
            if np.asarray(previous["skipped"])[:steps].any():
                raise FloatingPointError("a step was not finite")
            return state

        yield dispatch


def measure(dispatches: dict[str, Dispatch], rounds: int, count: int) -> dict[str, list[float]]:
    """Return {row: seconds of `count` dispatches in each round}."""
    times: dict[str, list[float]] = {row: [] for row in dispatches}
    for i in range(rounds):
        for row, dispatch in dispatches.items():
            jax.block_until_ready(dispatch())
            start = time.perf_counter()
            for _ in range(count):
                state = dispatch()
            jax.block_until_ready(state)
            times[row].append(time.perf_counter() - start)
        print(f"round {i + 1} of {rounds}", file=sys.stderr)
    return times


def summarize(times: dict[str, list[float]], steps: int) -> list[dict[str, Any]]:
    """Return each row's steps a second, and the median, minimum and maximum of its speed relative to `memory`."""
    rows = []
    for row, seconds in times.items():
        ratios = [base / time for base, time in zip(times["memory"], seconds, strict=True)]
        speed = {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}
        rows.append({"row": row, "steps_per_second": steps / statistics.median(seconds), "speed": speed})
    return rows


def train_with_limit(limit: int, argv: Sequence[str]) -> dict[str, Any]:
    """Run `vae-jax train` with at most `limit` bytes of data; return exit code, result and last line on stderr."""
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, "-c", LIMITED, str(limit), "train", "--workdir", f"{directory}/run", *argv]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    messages = done.stderr.splitlines()
    result = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else None
    return {"code": done.returncode, "result": result, "message": messages[-1] if messages else ""}


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, and print a table and, on the last line, JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, required=True, help="folder of the data set, created on first use")
    parser.add_argument("--images", type=int, default=3_000_000)
    parser.add_argument("--limit", type=float, default=2.0, help="GiB of data in the process")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--dispatches", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="few small digits, one round of one dispatch")
    parser.add_argument("--data-dir", help="folder of prepared data sets")
    options = parser.parse_args(argv)
    if min(options.images, options.dispatches, options.rounds) < 1 or "memory" not in options.rows:
        parser.error("--images, --dispatches and --rounds must be 1 or more, and --rows must contain memory")
    settings = {"data__name": NAME, "data__data_dir": str(options.folder), "data__holdout": 0.0, "mesh__data": 1,
                "train__evaluate_every": 0}  # fmt: skip
    rounds, count, number, source, tests = options.rounds, options.dispatches, options.images, "mnist", 2000
    if options.quick:
        rounds, count, number, source, tests = 1, 1, 2000, "digits", 100
        settings |= {
            "network": "mlp",
            "network__hidden": (8,),
            "train__log_every": 3,
            "train__save_every": 3,
            "train__steps": 60,
        }
    try:
        make(options.folder, source, number, tests, data_dir=options.data_dir)
        with contextlib.ExitStack() as stack:
            dispatches = {row: stack.enter_context(prepared(settings | ROWS[row])) for row in options.rows}
            steps = count * override(PRESETS["mnist-conv"], **settings).train.log_every
            rows = summarize(measure(dispatches, rounds, count), steps)
    except VaeJaxError as error:
        raise SystemExit(str(error)) from None
    size = data.open_records(NAME, "train", data_dir=options.folder, holdout=0.0).nbytes
    cores = host.cores()
    print(f"{number} images, {size / 2**30:.2f} GiB; median of {rounds} rounds of {steps} steps, {cores} core(s)")
    print(f"{'row':<12}{'steps/s':<10}speed relative to memory (min to max)")
    for row in rows:
        speed = "{median:.3f} ({min:.3f} to {max:.3f})".format(**row["speed"])
        print(f"{row['row']:<12}{row['steps_per_second']:<10.1f}{speed}")
    result = {"images": number, "bytes": size, "rounds": rounds, "cores": cores, "jax": jax.__version__, "rows": rows}
    if not options.quick:
        argv = ["--preset", "mnist-conv", "--data.name", NAME, "--data.data-dir", str(options.folder),
                "--data.holdout", "0", "--train.steps", "5145", "--train.evaluate-every", "0",
                "--evaluation.num-samples", "0"]  # fmt: skip
        result["limited"] = {}
        for streaming in ("auto", "never"):
            outcome = train_with_limit(round(options.limit * 2**30), [*argv, "--data.streaming", streaming])
            result["limited"][streaming] = outcome
            trained = outcome["result"]
            text = f"{trained['train_seconds']} s of training" if trained else outcome["message"]
            limit = f"with at most {options.limit} GiB of data, --data.streaming {streaming}"
            print(f"{limit}: exit code {outcome['code']}, {text}")
    print(json.dumps(result))
    return result


if __name__ == "__main__":
    main()
