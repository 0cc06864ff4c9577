"""The speed of vae_jax and of comparable trainers on one machine: seconds per epoch, and seconds to a test ELBO.

There are three models, trained with batch 128 and Adam at 1e-3 on the pixel intensities of MNIST. `--model mlp` is the
VAE of the PyTorch examples: 784-400-20 and its mirror with relu. `--model residual` is the network of the preset
mnist-conv: two levels of residual blocks with 16 and 32 channels, 50 latents, gelu; in PyTorch
(`trainers/torch_networks.py`) it is the same function with the same number of parameters. `--model ladder` is the
network of the preset mnist-ladder-mlp, five stochastic layers of 64, 32, 16, 8 and 4 latents, and the same function in
PyTorch. Each row is one way of training, implemented in a file of `trainers/`. A row is available with all models,
platforms and precisions unless stated otherwise:

    vae_jax           `runs.compile_program`, as `vae-jax train` runs it, from its first weights: one dispatch for each
                      epoch of 469 steps; every loss and gradient is checked to be finite, and the metrics of every step
                      are transferred to the host after each dispatch
    vae_jax-per-step  the same with train.log_every = 1, one dispatch for each step: no step is waited for within an
                      epoch, and losses and checks are transferred at its end
    torch-example     the loop of the PyTorch example: a shuffling DataLoader over images that are converted to a PIL
                      image and then to a float32 tensor, one by one, in every epoch, as torchvision's MNIST and
                      ToTensor do; loss.item() in every step (mlp, CPU)
    torch-loader      the same with a DataLoader over one float32 tensor in memory, pinned for a GPU (mlp)
    torch-plain       the fastest plain form: one tensor on the device, randperm and an index for each batch, the cross
                      entropy of logits, fused Adam, no loss.item() in the loop
    torch-compiled    torch-plain with loss and model in torch.compile (needs a C++ compiler; omitted if it fails)
    torch-cuda-graph  torch-plain with its complete step, from the batch's index to Adam, captured as a CUDA graph and
                      replayed for each batch (GPU)
    pythae            pythae's VAE with these networks, trained by its BaseTrainer (mlp, CPU, float32)
    flax-example      Linen and optax as in Flax's example: a jitted step, called for each batch (mlp, float32)
    numpyro           SVI with the closed-form KL, an epoch in one jitted loop, as in numpyro's example (mlp, float32)

`--precision bfloat16` is network.compute_dtype in vae_jax, and torch.autocast around the network in PyTorch, where the
layers of mean and log variance are in bfloat16 too; parameters, loss, optimizer and test ELBO are float32 in both. With
float32 on a GPU, XLA's products are TF32 by default, and PyTorch may use TF32 as well (set_float32_matmul_precision
"high"; cuDNN's convolutions are TF32 by default, and its algorithms are benchmarked first). Only vae_jax computes the
test ELBO in full float32 then.

Protocol: one process for each file of `trainers/`, which runs until the end and may use all cores. Each process has a
separate virtual environment that this program creates (vae_jax runs in the Python of this program). First the warm-up
epochs; then rounds of one epoch of each row in turn, while the other processes sleep, so that other load of the machine
affects all rows equally. An epoch has the number of steps of 60,000 images, and ends when the device has finished. The
ratio is vae_jax's time divided by the row's time in the same round: below 1, vae_jax is faster. The seconds to the test
ELBO are the sum over all epochs, including the first with its compilation, until the ELBO of the 10,000 test images
reaches the target. The ELBO is computed after each epoch, and its time is not counted. `--overlap` saves most of the
compilation time: the first epochs of all rows run at the same time, and there are no seconds to a test ELBO. A compiler
that benchmarks algorithms on the device then does so while the others run.

On a GPU (`--platform gpu`) all rows run in the Python of this program (`--here`), which needs JAX and PyTorch for it.
Their processes share the GPU, so that JAX allocates memory on demand (XLA_PYTHON_CLIENT_PREALLOCATE=false).

    vae-jax data prepare mnist
    python experiments/benchmarks/peers.py
    python experiments/benchmarks/peers.py --rows vae_jax torch-example torch-compiled --rounds 7 --warmup 2
    python experiments/benchmarks/peers.py --model residual --rounds 5 --warmup 1
    python experiments/benchmarks/peers.py --platform gpu --here --overlap
    python experiments/benchmarks/peers.py --platform gpu --here --overlap --model residual --precision bfloat16

Time: 5 minutes on two cores for all rows, 17 rounds and 2 warm-up epochs, without the creation of the environments.
Results of 2026-11-25 (mlp, float32, two cores of an AMD EPYC with AVX-512, no other load, Python 3.11.7, jax 0.10.2,
flax 0.12.8, torch 2.13.0+cpu, pythae 0.1.2, numpyro 0.22.0, `--rounds 17 --warmup 2`; in this run, the last batch of an
epoch was smaller in PyTorch): seconds per epoch and vae_jax's time divided by the row's, each the median (min to max);
seconds to a test ELBO of -105 nats; the test ELBO after 19 epochs:

    vae_jax          0.666 (0.632 to 0.895)                                  14.4    -104.46
    torch-example    2.881 (2.591 to 3.211)      0.236 (0.210 to 0.305)      35.7    -103.80
    torch-loader     2.092 (1.913 to 2.564)      0.335 (0.263 to 0.405)      26.5    -103.65
    torch-plain      1.385 (1.287 to 1.598)      0.485 (0.425 to 0.653)      18.5    -103.95
    torch-compiled   1.400 (1.281 to 1.620)      0.489 (0.423 to 0.640)      21.0    -103.68
    pythae           2.261 (2.014 to 2.488)      0.313 (0.281 to 0.392)      33.2    -104.13
    flax-example     1.043 (0.928 to 1.244)      0.658 (0.571 to 0.851)      18.3    -104.25
    numpyro          0.717 (0.680 to 0.934)      0.940 (0.705 to 1.144)      18.3    -104.48

On 2026-11-26, on two cores of an Intel Xeon with AVX-512 (large products at 213 to 285 GFLOP/s; on the EPYC at 495),
with the same versions and flags:

    vae_jax           1.287 (1.174 to 2.557)                                  19.8    -103.88
    vae_jax-per-step  1.558 (1.313 to 3.302)      0.824 (0.627 to 0.937)      22.1    -103.85
    torch-example     5.571 (4.575 to 9.050)      0.252 (0.210 to 0.371)      72.6    -103.73
    torch-loader      3.377 (2.806 to 4.811)      0.418 (0.326 to 0.673)      36.8    -103.89
    torch-plain       2.557 (1.943 to 3.205)      0.611 (0.475 to 0.975)      28.9    -103.88
    torch-compiled    2.263 (1.902 to 3.075)      0.611 (0.540 to 0.956)      34.3    -104.08
    pythae            4.300 (3.327 to 5.716)      0.345 (0.266 to 0.528)      58.4    -104.05
    flax-example      1.740 (1.597 to 4.005)      0.715 (0.378 to 0.791)      36.1    -104.25
    numpyro           1.652 (1.165 to 2.950)      0.960 (0.522 to 1.196)      34.0    -104.48

In the first table, vae_jax's output bias starts at zero. In the second, it starts at the mean image, as in
`vae-jax train`, and fewer epochs are needed to reach -105. In an earlier run on the Xeon (`--rounds 9 --warmup 2`), the
ratios of torch-plain, torch-compiled, pythae, flax-example and numpyro were 0.557, 0.616, 0.355, 0.790 and 1.020.

The residual model there on 5,400 images (`--rounds 9 --warmup 1`), where PyTorch is faster. According to a profile,
half of vae_jax's time is spent in convolutions; those over 14x14 pixels reach a quarter of the rate of large products:

    vae_jax          2.560 (2.133 to 3.181)
    torch-plain      1.821 (1.425 to 2.584)      1.390 (1.048 to 1.863)
    torch-compiled   2.413 (1.887 to 2.907)      1.074 (0.901 to 1.229)

On one NVIDIA H100 80GB, 2026-11-26 (driver 580.159.04, Python 3.12.3, jax 0.11.2, flax 0.12.10, torch 2.11.0+cu130,
`--platform gpu --here --overlap --rounds 5 --warmup 1`, without torch-loader): seconds per epoch and vae_jax's time
divided by the row's. The residual model was measured for 3 rounds in float32 and for 2 in bfloat16, because the
available time ended. vae_jax's program received its number of steps at run time; since then, it is compiled for that
number (docs/measurements.md), which is not measured here:

    mlp, float32        vae_jax           0.0573 (0.0570 to 0.0583)
                        vae_jax-per-step  0.4986 (0.4508 to 0.6080)   0.114 (0.095 to 0.126)
                        torch-plain       1.0414 (0.8888 to 1.1548)   0.055 (0.050 to 0.064)
                        torch-compiled    0.8843 (0.8139 to 1.0049)   0.065 (0.058 to 0.070)
                        torch-cuda-graph  0.1135 (0.1133 to 0.1158)   0.506 (0.492 to 0.514)
                        flax-example      0.7057 (0.5629 to 0.7610)   0.083 (0.075 to 0.101)
                        numpyro           0.0379 (0.0371 to 0.0386)   1.516 (1.477 to 1.555)
    mlp, bfloat16       vae_jax           0.0532 (0.0525 to 0.0556)
                        vae_jax-per-step  0.4993 (0.4116 to 0.6088)   0.107 (0.091 to 0.128)
                        torch-plain       1.3101 (1.1688 to 1.4410)   0.041 (0.037 to 0.045)
                        torch-compiled    1.0091 (0.9361 to 1.1928)   0.053 (0.047 to 0.056)
                        torch-cuda-graph  0.1311 (0.1307 to 0.1333)   0.405 (0.401 to 0.417)
    residual, float32   vae_jax           0.3491 (0.3241 to 0.3530)
                        vae_jax-per-step  1.2336 (1.0646 to 1.2521)   0.283 (0.282 to 0.304)
                        torch-plain       2.8264 (2.6916 to 2.9156)   0.120 (0.120 to 0.125)
                        torch-compiled    2.5502 (2.2260 to 2.7077)   0.129 (0.127 to 0.159)
                        torch-cuda-graph  0.4225 (0.4223 to 0.4227)   0.826 (0.767 to 0.836)
    residual, bfloat16  vae_jax           0.2638 (0.2518 to 0.2757)
                        vae_jax-per-step  1.1734 (1.1089 to 1.2380)   0.226 (0.203 to 0.249)
                        torch-plain       3.7098 (3.6497 to 3.7698)   0.071 (0.069 to 0.073)
                        torch-compiled    2.9639 (2.8301 to 3.0978)   0.089 (0.089 to 0.089)
                        torch-cuda-graph  0.4060 (0.4058 to 0.4062)   0.650 (0.621 to 0.679)

numpyro's epoch is shorter in this run. Its loop has a static number of steps and stores no metrics of each step. It
neither computes the norm of the gradient nor checks that values are finite. The cost of each of these was not measured.
"""

import argparse
import contextlib
import itertools
import json
import math
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from peer_workers import Worker, environment_python

MODELS = {
    "mlp": {"network": "mlp", "hidden": [400], "latent_dim": 20, "activation": "relu"},
    "residual": {"network": "residual", "hidden": [16, 32], "latent_dim": 50, "activation": "gelu"},
    "ladder": {"network": "ladder-mlp", "hidden": [512, 256, 128, 64, 32], "latent_dims": [64, 32, 16, 8, 4]},
}
PLATFORMS, PRECISIONS = ("cpu", "gpu"), ("float32", "bfloat16")
BATCH_SIZE, LEARNING_RATE = 128, 1e-3


class Row(NamedTuple):
    """A way of training: its file of `trainers/`, and the models, platforms and precisions that it supports."""

    trainer: str
    models: tuple[str, ...] = tuple(MODELS)
    platforms: tuple[str, ...] = PLATFORMS
    precisions: tuple[str, ...] = PRECISIONS


ROWS = {
    "vae_jax": Row("ours"),
    "vae_jax-per-step": Row("ours"),
    "torch-example": Row("pytorch", models=("mlp",), platforms=("cpu",)),
    "torch-loader": Row("pytorch", models=("mlp",)),
    "torch-plain": Row("pytorch"),
    "torch-compiled": Row("pytorch"),
    "torch-cuda-graph": Row("pytorch", platforms=("gpu",)),
    "pythae": Row("pythae_trainer", models=("mlp",), platforms=("cpu",), precisions=("float32",)),
    "flax-example": Row("flax_example", models=("mlp",), precisions=("float32",)),
    "numpyro": Row("numpyro_svi", models=("mlp",), precisions=("float32",)),
}


def unsupported(name: str, model: str, platform: str, precision: str) -> str | None:
    """Return an error message if a row does not support these settings, otherwise None."""
    row = ROWS[name]
    settings = {"--model": (model, row.models), "--platform": (platform, row.platforms),
             "--precision": (precision, row.precisions)}  # fmt: skip
    for option, (value, supported) in settings.items():
        if value not in supported:
            return f"{option}={value} is not supported by --rows={name}; use {option} {' or '.join(supported)}"
    return None


@contextlib.contextmanager
def stored_images(name: str, data_dir: str | None, holdout: float) -> Iterator[tuple[Path, int]]:
    """Yield (path of an .npz file with all training and test images, uint8 [N, H, W, C]; N of the training images)."""
    import numpy as np

    from vae_jax import data
    from vae_jax.errors import VaeJaxError

    try:
        train, test = (data.load(name, split, data_dir=data_dir, holdout=holdout) for split in ("train", "test"))
    except VaeJaxError as error:
        raise SystemExit(str(error)) from None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.npz"
        np.savez(path, train=train, test=test)
        yield path, len(train)


Results = tuple[dict[str, Any], dict[str, Any]]


def run_epoch(workers: dict[str, Worker], row: str) -> Results:
    """Run an epoch and a test of a row; return both results, or the error of the epoch twice."""
    epoch = workers[row].request("epoch", row)
    return epoch, epoch if "error" in epoch else workers[row].request("test", row)


def run_epochs(workers: dict[str, Worker], rows: list[str]) -> dict[str, Results]:
    """Run an epoch and a test of every row, with all processes at the same time."""
    shared: dict[int, list[str]] = {}
    for row in rows:
        shared.setdefault(id(workers[row]), []).append(row)
    with ThreadPoolExecutor(len(shared)) as pool:
        parts = list(pool.map(lambda group: [(row, run_epoch(workers, row)) for row in group], shared.values()))
    return dict(itertools.chain(*parts))


def measure(
    workers: dict[str, Worker], rows: list[str], *, warmup: int, rounds: int, target: float | None
) -> dict[str, dict[str, Any]]:
    """Return {row: {"epochs": measured epochs, "to_target": seconds or None, "elbo": the last}} without failed rows.

    Without a target, to which their time would count, the first epochs of all rows run at the same time.
    """
    results: dict[str, dict[str, Any]] = {
        row: {"epochs": [], "spent": 0.0, "to_target": None, "elbo": -math.inf} for row in rows
    }
    for i in range(-warmup, rounds):
        first_epochs = run_epochs(workers, rows) if target is None and i == -warmup else {}
        for row in list(results):
            this, (epoch, tested) = results[row], first_epochs.get(row) or run_epoch(workers, row)
            if "error" in tested:
                print(f"{row}: omitted ({tested['error']})", file=sys.stderr)
                del results[row]
                continue
            this["spent"] += epoch["seconds"]
            this["elbo"] = tested["elbo"]
            if target is not None and this["to_target"] is None and this["elbo"] >= target:
                this["to_target"] = this["spent"]
            if i >= 0:
                this["epochs"].append(epoch)
        line = "  ".join(f"{row} {f['epochs'][-1]['seconds']:.4f} s" for row, f in results.items() if f["epochs"])
        print(f"round {i + 1} of {rounds}: {line}" if line else "warm-up", file=sys.stderr)
    return results


def summarize(results: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Return median, minimum and maximum of each row's seconds per epoch, and of the ratio of vae_jax's to them."""

    def spread(values: list[float]) -> dict[str, float]:
        return {"median": statistics.median(values), "min": min(values), "max": max(values)}

    seconds = {row: [epoch["seconds"] for epoch in this["epochs"]] for row, this in results.items()}
    table = []
    for row, times in seconds.items():
        this = results[row]
        entry = {"row": row, "seconds": spread(times), "loss": this["epochs"][-1]["loss"], "test_elbo": this["elbo"],
                 "seconds_to_target": this["to_target"]}  # fmt: skip
        if row != "vae_jax" and "vae_jax" in seconds:
            entry["ratio"] = spread([ours / other for ours, other in zip(seconds["vae_jax"], times, strict=True)])
        table.append(entry)
    return table


def print_table(
    table: list[dict[str, Any]], versions: dict[str, dict[str, str]], *, rounds: int, target: float | None
) -> None:
    """Print the results as a table."""

    def span(entry: dict[str, float] | None, digits: int = 3) -> str:
        return "{median:.{n}f} ({min:.{n}f} to {max:.{n}f})".format(**entry, n=digits) if entry else ""

    def reached(entry: dict[str, Any]) -> str:
        if target is None:
            return ""
        return "not reached" if entry["seconds_to_target"] is None else f"{entry['seconds_to_target']:.1f}"

    for name, packages in versions.items():
        print(f"{name}: " + ", ".join(f"{package} {number}" for package, number in packages.items()))
    print(f"median (min to max) of {rounds} rounds")
    to = "" if target is None else f"s to {target:g}"
    print(f"{'row':<18}{'seconds per epoch':<30}{'vae_jax / row':<28}{to:<12}test ELBO at the end")
    for entry in table:
        seconds, ratio = span(entry["seconds"], digits=4), span(entry.get("ratio"))
        print(f"{entry['row']:<18}{seconds:<30}{ratio:<28}{reached(entry):<12}{entry['test_elbo']:.2f} nats")


def main(argv: list[str] | None = None) -> None:
    """Measure, and print a table and, on the last line, JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", nargs="+", choices=ROWS, help="rows to measure; default: all")
    parser.add_argument("--model", choices=MODELS, default="mlp", help="model to train")
    parser.add_argument("--platform", choices=PLATFORMS, default="cpu", help="device; gpu needs --here")
    parser.add_argument("--precision", choices=PRECISIONS, default="float32", help="of the networks in training")
    parser.add_argument("--rounds", type=int, default=15, help="measured epochs of each row")
    parser.add_argument("--warmup", type=int, default=3, help="warm-up epochs of each row")
    parser.add_argument("--target", type=float, default=-105.0, help="test ELBO to reach, in nats")
    parser.add_argument("--overlap", action="store_true", help="no target; run the first epochs of all rows together")
    parser.add_argument("--environments", type=Path, default=Path("runs/environments"), help="their folder")
    parser.add_argument("--here", action="store_true", help="use this Python; omit rows that it cannot run")
    parser.add_argument("--quick", action="store_true", help="one round of three steps, to test the code")
    parser.add_argument("--data", default="mnist", help="name or path of a data set for vae_jax.data.load")
    parser.add_argument("--data-dir", help="folder of data sets")
    parser.add_argument("--holdout", type=float, default=0.0, help="share of test images, without a test split")
    options = parser.parse_args(argv)
    rounds, warmup = (1, 1) if options.quick else (options.rounds, options.warmup)
    if rounds < 1 or warmup < 1:
        parser.error("--rounds and --warmup must be 1 or more")
    if options.platform == "gpu" and not options.here:
        parser.error("--platform=gpu needs --here; the environments are for CPUs")
    errors = {row: unsupported(row, options.model, options.platform, options.precision) for row in ROWS}
    for row in options.rows or ():
        if errors[row]:
            parser.error(errors[row])
    rows = [row for row in ROWS if row in (options.rows or ROWS) and not errors[row]]
    target = None if options.overlap else options.target
    task = MODELS[options.model] | {"batch_size": BATCH_SIZE, "learning_rate": LEARNING_RATE,
                                  "platform": options.platform, "precision": options.precision}  # fmt: skip
    with (
        stored_images(options.data, options.data_dir, options.holdout) as (path, count),
        contextlib.ExitStack() as stack,
    ):
        steps = 3 if options.quick else -(-count // BATCH_SIZE)
        started: dict[str, Worker] = {}
        for name in dict.fromkeys(ROWS[row].trainer for row in rows):
            python = sys.executable if options.here else environment_python(name, options.environments.resolve())
            started[name] = Worker(python, name, path, steps, task)
            stack.callback(started[name].close)
        for worker in started.values():
            worker.wait_until_ready()
        workers = {row: started[ROWS[row].trainer] for row in rows}
        table = summarize(measure(workers, rows, warmup=warmup, rounds=rounds, target=target))
        versions = {"machine": {"python": platform.python_version(), "cores": str(len(os.sched_getaffinity(0)))}}
        versions |= {name: worker.versions for name, worker in started.items() if worker.versions}
    print_table(table, versions, rounds=rounds, target=target)
    result = {"task": task, "steps": steps, "rounds": rounds, "versions": versions, "rows": table}
    print(json.dumps(result))


if __name__ == "__main__":
    os.environ["JAX_PLATFORMS"] = "cpu"  # this process only loads data; the GPU is for the processes of the rows
    main()
