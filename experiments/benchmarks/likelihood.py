"""The NLL by importance sampling: its rate compared with the machine's matrix rate, and its memory.

    vae-jax data prepare mnist
    python experiments/benchmarks/likelihood.py                       # an untrained model of preset mnist
    python experiments/benchmarks/likelihood.py --run runs/mnist      # the model of a run
    taskset -c 0 python experiments/benchmarks/likelihood.py --processor-time      # on a shared machine
    python experiments/benchmarks/likelihood.py --memory

An evaluation with K samples decodes each image K times. Nearly all of its floating-point operations are the decoder's
matrix products, 2·K·Σ(in·out) per image, and the encoder's, 2·Σ(in·out). Biases, activations and log densities are not
counted. Three rates are measured in float32 at highest precision, by one process, in rounds of all three, so that other
load of the machine affects all of them equally:

    matrix       products of two square matrices: the median over the repetitions, for the size with the best median
    products     the decoder's products only, for as many codes as an evaluation decodes at a time
    evaluation   `Evaluator.likelihood`, with K, chunk and batch size as configured

Rates are per second of wall time. With `--processor-time` they are per second of processor time of all threads, which
is meaningful on one core only. The share of a row is its rate divided by that of `matrix` in the same round; the table
shows the median over the rounds. The loss between `matrix` and `products` is due to the products' shapes. The loss
between `products` and `evaluation` is due to the other work of an evaluation.

`--memory` evaluates 100 images in a separate process for K = 5,000 and for K = 50,000, and prints the peak of the
resident memory of each. Samples are streamed, so that it does not grow with K.

Prints a table and, on the last line, JSON.

Results of 2026-11-25 (two cores of an AMD EPYC with AVX-512, no other load, Python 3.11.7, jax 0.10.2, nine rounds),
median (min to max). With both cores as one device:

    matrix       494.9 GFLOP/s (481.3 to 497.4)    share 1
    products     321.2 (244.4 to 354.5)            0.660 (0.496 to 0.715)
    evaluation   278.7 (229.4 to 290.2)            0.571 (0.463 to 0.595)

With each core as one device, as in `vae-jax evaluate` (`XLA_FLAGS=--xla_force_host_platform_device_count=2`):

    matrix       492.6 GFLOP/s (463.0 to 504.8)    share 1
    products     337.0 (243.3 to 366.3)            0.703 (0.482 to 0.786)
    evaluation   330.3 (324.0 to 333.4)            0.670 (0.651 to 0.720)

The same in five rounds on two cores of an Intel Xeon, 2026-11-27: matrix 206.5 (182.1 to 222.5), products 0.753 (0.614
to 0.900), evaluation 0.634 (0.394 to 0.875). Since chunks are combined relative to the largest weight: matrix 215.5
(188.7 to 282.6), products 0.811 (0.639 to 0.878), evaluation 0.685 (0.565 to 0.758).

On one core with much other load, 2026-11-24 (`--processor-time --images 80 --rounds 3`): products 0.877 (0.862 to
1.042), evaluation 0.640 (0.619 to 0.746) of 211.6 GFLOP/s.

Memory, one core, 2026-11-25: a peak of 343 MiB for K = 5,000 and of 342 MiB for K = 50,000 (3.2 and 45 s);
392 and 352 MiB on a core of the Xeon (7.3 and 56 s). Both cores as one device: 350 and 348 MiB. As two devices, whose
threads' memory grows with the run time: 354 to 362 and 424 to 438 MiB (three times each, with other load).
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vae_jax.config import PRESETS, Config, override
from vae_jax.errors import InputError, VaeJaxError
from vae_jax.inference import Params
from vae_jax.runs import (
    Experiment,
    build_experiment,
    make_evaluator,
    open_run,
    place_initial_state,
    restored_params,
)
from vae_jax.runtime import Placement, defaults, host

Clock = Callable[[], float]

SIZES = (1024, 2048, 3072)
MEMORY_SAMPLES = (5000, 50_000)
ENCODER = ("encoder", "posterior")


def model_of(directory: Path | None, config: Config) -> tuple[Experiment, Placement, Params]:
    """Return the experiment of a run, its devices and its parameters, or an untrained one.

    Raises:
      InputError: the model is not an MLP with one stochastic layer.
    """
    if directory is not None:
        experiment, directory, placement, changed = open_run(directory)
        log = lambda note: print(note, file=sys.stderr)  # noqa: E731
        with restored_params(experiment, directory, placement, log, changed=changed) as (_, params):
            pass
    else:
        experiment, placement = build_experiment(config), Placement()
        params = place_initial_state(experiment, placement).params
    check_countable(experiment.config)
    return experiment, placement, params


def check_countable(config: Config) -> None:
    """Raise InputError unless the model has exactly one matrix product for each of its kernels."""
    network, model = config.network, config.model
    if network.name != "mlp" or network.tied or model.name != "vae":
        raise InputError(
            f"model={model.name} with network={network.name} is not supported; use an untied mlp with one stochastic "
            "layer"
        )


def kernels(params: Params, *, encoder: bool) -> list[Array]:
    """Return the kernels [in, out] of the encoder and its heads, or those of the decoder, the first layer first."""
    parts = [leaves for name, leaves in params.items() if (name in ENCODER) == encoder]
    return [leaf for part in parts for leaf in jax.tree.leaves(part) if leaf.ndim == 2]


def operations(params: Params, num_samples: int) -> int:
    """Count the operations of one image's matrix products: 2·Σ(in·out), the decoder's `num_samples` times."""
    encoder, decoder = (2 * sum(k.size for k in kernels(params, encoder=e)) for e in (True, False))
    return encoder + num_samples * decoder


def seconds_of(call: Callable[[], Any], clock: Clock) -> float:
    """Return the seconds of a call until its arrays are ready."""
    start = clock()
    jax.block_until_ready(call())
    return clock() - start


def square_product(size: int) -> Callable[[], Array]:
    """Return a function that multiplies two square matrices."""
    a = jax.random.normal(jax.random.key(0), (size, size))
    multiply = jax.jit(lambda a: jnp.matmul(a, a, precision="highest"))
    return lambda: multiply(a)


def decoder_products(params: Params, rows: int) -> Callable[[], Array]:
    """Return a function that multiplies `rows` codes with the decoder's kernels, one after another."""
    chain = kernels(params, encoder=False)
    z = jax.random.normal(jax.random.key(0), (rows, chain[0].shape[0]))

    def products(z: Array, chain: list[Array]) -> Array:
        for kernel in chain:
            z = jnp.matmul(z, kernel, precision="highest")
        return z

    compiled = jax.jit(products)
    return lambda: compiled(z, chain)


def measure(
    experiment: Experiment,
    placement: Placement,
    params: Params,
    arrays: dict[str, np.ndarray],
    *,
    rounds: int,
    sizes: Sequence[int],
    repeats: int,
    clock: Clock,
) -> list[dict[str, float]]:
    """Return the rates of `matrix`, `products` and `evaluation` in operations a second for each round.

    One warm-up round before them is not counted.
    """
    settings, key = experiment.evaluation, experiment.evaluation_key("test")
    evaluator = make_evaluator(experiment, placement)
    amounts = {"num_samples": settings.num_samples, "chunk": defaults.evaluation_chunk(settings.chunk)}
    codes = min(amounts.values()) * evaluator.batch_size
    squares = {size: square_product(size) for size in sizes}
    products = decoder_products(params, codes)
    decoder = 2 * codes * sum(kernel.size for kernel in kernels(params, encoder=False))
    evaluation_work = len(arrays["x"]) * operations(params, settings.num_samples)

    def evaluate() -> dict[str, float]:
        return evaluator.likelihood(params, key, arrays, **amounts)

    def rate(work: float, call: Callable[[], Any], repeats: int = 1) -> float:
        return work / statistics.median(seconds_of(call, clock) for _ in range(repeats))

    rates = []
    for _ in range(1 + rounds):
        rates.append(
            {
                "matrix": max(rate(2 * size**3, call, repeats) for size, call in squares.items()),
                "products": rate(decoder, products, 10 * repeats),
                "evaluation": rate(evaluation_work, evaluate),
            }
        )
        print("  ".join(f"{row} {value / 1e9:.1f} GFLOP/s" for row, value in rates[-1].items()), file=sys.stderr)
    return rates[1:]


def summarize(rounds: Sequence[dict[str, float]]) -> list[dict[str, Any]]:
    """Return median, minimum and maximum of each row's rate, and of its share of the same round's `matrix`."""

    def spread(values: list[float]) -> dict[str, float]:
        return {"median": statistics.median(values), "min": min(values), "max": max(values)}

    return [
        {
            "row": row,
            "flops": spread([rates[row] for rates in rounds]),
            "share": spread([rates[row] / rates["matrix"] for rates in rounds]),
        }
        for row in rounds[0]
    ]


def print_table(rows: Sequence[dict[str, Any]]) -> None:
    """Print the rates as a table."""
    print(f"{'row':<14}{'GFLOP/s':<28}share of matrix; each the median (min to max)")
    for row in rows:
        rate, share = ({k: v * unit for k, v in row[n].items()} for n, unit in (("flops", 1e-9), ("share", 1)))
        cell = f"{rate['median']:.1f} ({rate['min']:.1f} to {rate['max']:.1f})"
        print(f"{row['row']:<14}{cell:<28}{share['median']:.3f} ({share['min']:.3f} to {share['max']:.3f})")


def in_child(argv: Sequence[str]) -> dict[str, Any]:
    """Run this program in a separate process; return the JSON on its last line."""
    done = subprocess.run(
        [sys.executable, os.path.abspath(__file__), *argv], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def memory(samples: Sequence[int], argv: Sequence[str]) -> dict[str, Any]:
    """Return and print the peak memory of an evaluation for each K; return their largest ratio too."""
    peaks = [in_child([*argv, "--peak", str(k)]) for k in samples]
    ratio = max(row["peak_bytes"] for row in peaks) / min(row["peak_bytes"] for row in peaks)
    for row in peaks:
        print(f"K = {row['num_samples']:>6}: {row['peak_bytes'] / 2**20:.0f} MiB at peak, {row['seconds']:.1f} s")
    return {"memory": peaks, "ratio": ratio}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and print a table and, on the last line, JSON."""
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--run", type=Path, help="directory of a run; default: an untrained model")
    parser.add_argument("--images", type=int, help="number of test images; default: 400, or 100 for memory")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--processor-time", action="store_true", help="processor time instead of wall time; for one core"
    )
    parser.add_argument("--memory", action="store_true", help="peak memory instead of rates")
    parser.add_argument("--quick", action="store_true", help="small digits and few samples, to test the code")
    parser.add_argument("--data-dir", help="folder of prepared data sets")
    parser.add_argument("--peak", type=int, metavar="K", help=argparse.SUPPRESS)  # for the processes of --memory
    options = parser.parse_args(argv)
    if options.rounds < 1 or (options.images is not None and options.images < 1):
        parser.error("--rounds and --images must be 1 or more")
    if options.memory and options.peak is None:
        samples = tuple(k // 250 for k in MEMORY_SAMPLES) if options.quick else MEMORY_SAMPLES
        print(json.dumps(memory(samples, argv)))
        return
    settings = {"evaluation__num_samples": 20} if options.quick else {}
    config = override(PRESETS["digits" if options.quick else "mnist"], data__data_dir=options.data_dir, **settings)
    experiment, placement, params = model_of(options.run, config)
    count = options.images or (100 if options.memory else 400)
    arrays = {name: array[:count] for name, array in experiment.dataset("test").arrays.items()}
    if options.peak is not None:
        amounts = {"num_samples": options.peak, "chunk": defaults.evaluation_chunk(experiment.evaluation.chunk)}
        start = time.perf_counter()
        evaluator = make_evaluator(experiment, placement)
        evaluator.likelihood(params, experiment.evaluation_key("test"), arrays, **amounts)
        seconds = time.perf_counter() - start
        peak = host.peak_memory()["process"]
        print(json.dumps({"num_samples": options.peak, "peak_bytes": peak, "seconds": seconds}))
        return
    scale = {"sizes": (128,), "repeats": 1, "rounds": 1} if options.quick else {"sizes": SIZES, "repeats": 5}
    scale = {
        "rounds": options.rounds,
        "clock": time.process_time if options.processor_time else time.perf_counter,
    } | scale
    rows = summarize(measure(experiment, placement, params, arrays, **scale))
    print_table(rows)
    about = {
        "device": jax.devices()[0].device_kind, "cores": host.cores(), "jax": jax.__version__,
        "images": len(arrays["x"]), "num_samples": experiment.evaluation.num_samples,
        "operations_per_image": operations(params, experiment.evaluation.num_samples),
    }  # fmt: skip
    print(json.dumps(about | {"rows": rows}))


if __name__ == "__main__":
    try:
        main()
    except VaeJaxError as error:
        raise SystemExit(str(error)) from None
