"""Training from disk against training from memory: one model, one data set that is larger than a limit on memory.

    vae-jax data prepare mnist
    python experiments/benchmarks/streaming.py --folder DIR          # DIR keeps the data set for the next time

The data set, `mnist_moved`, is made on first use: MNIST's training images, each moved by up to three pixels either way,
`--images` of them (2.19 GiB once decoded) as PNG in array_record, and 2,000 of its test images. The model is the preset
`mnist-conv`.

    memory       all images are held, as `--data.streaming never` does
    streamed     they are read and decoded by threads while the model trains, `--data.streaming always`
    2 workers    by two processes, `--data.workers 2`

All rows live in one process. In each round each row in turn makes one dispatch that is not timed (a stream has read
some thousand images ahead while it waited), and then `--dispatches` that are; the ratio is the speed of a row over
that of `memory`, round by round. Then `vae-jax train` runs twice under `ulimit -d` (`--limit` GiB of data in the
process, less than the images take): with `--data.streaming auto` it trains, with `never` it is refused.

Prints a table, and last one line of JSON.

Time: 5 minutes to make the data set, 3 to look it through, 3 to decode it once for `memory`, then 8, on two cores.
Numbers of 2026-11-25 (two cores of an AMD EPYC with AVX-512, nothing else at work, Python 3.11.7, jax 0.10.2, grain
0.2.18), median (least to greatest):

    memory       140.4 steps/s    1.000
    streamed     120.7            0.852 (0.816 to 0.956)
    2 workers    125.3            0.894 (0.784 to 1.081)

Under 2 GiB of data in the process, for images of 2.19 GiB, 5,145 steps: `auto` trained them in 47 s, start and all,
and `never` was refused, exit code 2. Nearer to its limit (1.4 GiB for images of 1.46) one training of that length stood
still: a thread could not be started, which Python did not tell.
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
from vae_jax.runs import compile_program, open_input_pipeline, prepare_run
from vae_jax.runtime import host

NAME, MOST = "mnist_moved", 3  # pixels
ROWS = {
    "memory": {"data__streaming": "never"},
    "streamed": {"data__streaming": "always"},
    "2 workers": {"data__streaming": "always", "data__workers": 2},
}
LIMITED = """
import resource, sys
limit = int(sys.argv.pop(1))
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
from vae_jax.cli import main
sys.exit(main())
"""

Dispatch = Callable[[], Any]  # returns what is ready when it is done


def moved(images: np.ndarray, count: int, *, seed: int) -> Iterator[np.ndarray]:
    """`count` of the images [N, H, W, 1] in turn, each moved by up to `MOST` pixels either way: uint8 [H, W, 1]."""
    generator = np.random.default_rng(seed)
    height, width = images.shape[1:3]
    for i in range(count):
        down, right = generator.integers(0, 2 * MOST + 1, 2)
        yield np.pad(images[i % len(images)], ((MOST, MOST), (MOST, MOST), (0, 0)))[
            down : down + height, right : right + width
        ]


def make(folder: Path, source: str, count: int, tests: int, *, data_dir: str | None) -> None:
    """Prepares the data set below `folder`, unless it is there with as many images."""
    there = [entry for entry in data.available(folder) if entry["name"] == NAME]
    if there and there[0]["splits"]["train"] == count:
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
    """Gives the dispatch of a row, its program compiled and run once."""
    config = override(PRESETS["mnist-conv"], **settings)
    steps = config.train.log_every
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        run, images = prepare_run(config, Path(directory) / "run")
        feed = stack.enter_context(open_input_pipeline(run, images, first_step=0))
        program = compile_program(run)
        state = jax.jit(run.initial_state, out_shardings=run.state_shardings)(run.key)
        state, metrics = program(state, feed(steps), steps)

        def dispatch() -> Any:
            """As `fitting.fit` does: the metrics of the one before are read while this one computes."""
            nonlocal state, metrics
            before = metrics
            state, metrics = program(state, feed(steps), steps)
            if np.asarray(before["skipped"])[:steps].any():
                raise FloatingPointError("a step was not finite")
            return state

        yield dispatch


def measure(dispatches: dict[str, Dispatch], rounds: int, count: int) -> dict[str, list[float]]:
    """{row: seconds of `count` dispatches in each round}."""
    found: dict[str, list[float]] = {row: [] for row in dispatches}
    for i in range(rounds):
        for row, dispatch in dispatches.items():
            jax.block_until_ready(dispatch())
            start = time.perf_counter()
            for _ in range(count):
                done = dispatch()
            jax.block_until_ready(done)
            found[row].append(time.perf_counter() - start)
        print(f"round {i + 1} of {rounds}", file=sys.stderr)
    return found


def summarise(found: dict[str, list[float]], steps: int) -> list[dict[str, Any]]:
    """For each row its steps a second, and its speed over that of `memory`: median, least and greatest."""
    rows = []
    for row, seconds in found.items():
        ratios = [held / own for held, own in zip(found["memory"], seconds, strict=True)]
        told = {"median": statistics.median(ratios), "least": min(ratios), "greatest": max(ratios)}
        rows.append({"row": row, "steps_per_second": steps / statistics.median(seconds), "speed": told})
    return rows


def limited(limit: int, argv: Sequence[str]) -> dict[str, Any]:
    """One `vae-jax train` with at most `limit` bytes of data in its process: exit code, result, last line on stderr."""
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, "-c", LIMITED, str(limit), "train", "--workdir", f"{directory}/run", *argv]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = done.stderr.splitlines()
    result = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else None
    return {"code": done.returncode, "result": result, "said": said[-1] if said else ""}


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measures, prints a table, and last one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, required=True, help="where the data set is made")
    parser.add_argument("--images", type=int, default=3_000_000)
    parser.add_argument("--limit", type=float, default=2.0, help="GiB of data in the process")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--dispatches", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="few small digits, one round of one short dispatch")
    parser.add_argument("--data-dir", help="where prepared data sets are")
    asked = parser.parse_args(argv)
    if min(asked.images, asked.dispatches, asked.rounds) < 1 or "memory" not in asked.rows:
        parser.error("--images, --dispatches and --rounds must be 1 or more, and --rows hold memory")
    settings = {"data__name": NAME, "data__data_dir": str(asked.folder), "data__holdout": 0.0, "mesh__data": 1,
                "train__evaluate_every": 0}  # fmt: skip
    rounds, count, number, source, tests = asked.rounds, asked.dispatches, asked.images, "mnist", 2000
    if asked.quick:
        rounds, count, number, source, tests = 1, 1, 2000, "digits", 100
        settings |= {
            "model__network": "mlp",
            "model__hidden": (8,),
            "train__log_every": 3,
            "train__save_every": 3,
            "train__steps": 60,
        }
    try:
        make(asked.folder, source, number, tests, data_dir=asked.data_dir)
        with contextlib.ExitStack() as stack:
            of = {row: stack.enter_context(prepared(settings | ROWS[row])) for row in asked.rows}
            steps = count * override(PRESETS["mnist-conv"], **settings).train.log_every
            rows = summarise(measure(of, rounds, count), steps)
    except VaeJaxError as error:
        raise SystemExit(str(error)) from None
    size = data.open_records(NAME, "train", data_dir=asked.folder, holdout=0.0).nbytes
    cores = host.cores()
    print(f"{number} images, {size / 2**30:.2f} GiB; median of {rounds} rounds of {steps} steps, {cores} core(s)")
    print(f"{'row':<12}{'steps/s':<10}speed over memory's (least to greatest)")
    for row in rows:
        speed = "{median:.3f} ({least:.3f} to {greatest:.3f})".format(**row["speed"])
        print(f"{row['row']:<12}{row['steps_per_second']:<10.1f}{speed}")
    result = {"images": number, "bytes": size, "rounds": rounds, "cores": cores, "jax": jax.__version__, "rows": rows}
    if not asked.quick:
        argv = ["--preset", "mnist-conv", "--data.name", NAME, "--data.data-dir", str(asked.folder),
                "--data.holdout", "0", "--train.steps", "5145", "--train.evaluate-every", "0",
                "--evaluation.num-samples", "0"]  # fmt: skip
        result["limited"] = {}
        for streaming in ("auto", "never"):
            found = limited(round(asked.limit * 2**30), [*argv, "--data.streaming", streaming])
            result["limited"][streaming] = found
            told = f"{found['result']['train_seconds']} s of training" if found["result"] else found["said"]
            print(f"with at most {asked.limit} GiB of data, --data.streaming {streaming}: exit {found['code']}, {told}")
    print(json.dumps(result))
    return result


if __name__ == "__main__":
    main()
