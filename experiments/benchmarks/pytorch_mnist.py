"""Steady epochs of vae_jax and of PyTorch on one machine: the VAE of pytorch/examples on MNIST.

The network is 784-400-20 and its mirror with relu, batch 128, Adam at 1e-3, pixel intensities as they are (no
binarisation): preset `mnist-400` with `data.binarization none`, and the same written in PyTorch in three ways.

    vae_jax          `fitting.compile_program`, as `vae-jax train` runs it: one dispatch for each epoch of 469 steps,
                     every loss and gradient checked to be finite, every step's metrics read back after each dispatch
    torch-example    the loop of the PyTorch example: a shuffling DataLoader over images that become a PIL image and
                     then a float32 tensor, one by one, in every epoch, as torchvision's MNIST and ToTensor make them;
                     loss.item() in every step
    torch-loader     the same with a DataLoader over one float32 tensor in memory
    torch-plain      the fastest plain form: one tensor, randperm and an index for each batch, the cross entropy of
                     logits, fused Adam, no loss.item() in the loop
    torch-compiled   torch-plain with loss and model in torch.compile (needs a C++ compiler; left out where it fails)

Protocol: one process for vae_jax and one for PyTorch, both kept alive, each with all cores; warm-up epochs first;
then rounds of one epoch for each row in turn, while the other process sleeps, so that what else the machine does
hits all rows alike. An epoch is as many steps as 60,000 images need (the last batch is full in vae_jax, and not in
PyTorch). CPU only. The ratio is vae_jax's time over the row's, round by round: below 1, vae_jax is faster.

PyTorch is no dependency of vae_jax; any Python that has it will do:

    python -m venv torch-venv && torch-venv/bin/pip install torch numpy pillow
    vae-jax data prepare mnist
    python experiments/benchmarks/pytorch_mnist.py --torch-python torch-venv/bin/python

Time: 4 minutes for 7 rounds on two cores.
Numbers of 2026-11-24 (two cores of an AMD EPYC with AVX-512, shared with others, Python 3.11.7, jax 0.10.2, torch
2.13.0+cpu, `--rounds 7 --warmup 2`), in seconds an epoch, and vae_jax's time over the row's, each the median (least to
greatest):

    vae_jax          1.780 (1.659 to 2.002)
    torch-example    8.265 (7.877 to 9.055)      0.219 (0.196 to 0.242)
    torch-loader     4.088 (3.718 to 4.483)      0.441 (0.371 to 0.490)
    torch-plain      2.821 (2.349 to 2.961)      0.667 (0.570 to 0.734)
    torch-compiled   2.819 (2.356 to 2.925)      0.649 (0.588 to 0.731)
"""

import argparse
import contextlib
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

BATCH_SIZE, HIDDEN, LATENT, LEARNING_RATE = 128, 400, 20, 1e-3
TORCH_ROWS = ("torch-example", "torch-loader", "torch-plain", "torch-compiled")
ROWS = ("vae_jax", *TORCH_ROWS)

Epoch = Callable[[], float]  # trains one epoch and returns its mean loss in nats per example


# --- The process that runs vae_jax -----------------------------------------------------------------------------------


def jax_epochs(path: Path, steps: int) -> tuple[dict[str, Callable[[], Epoch]], dict[str, str]]:
    """({row: how to make its epoch}, versions): the program of `vae-jax train`, an epoch in one dispatch."""
    import jax
    import numpy as np

    from vae_jax import data, fitting, presets, runs, settings, sharding

    config = settings.override(
        presets.PRESETS["mnist-400"],
        data__name=str(path),
        data__holdout=0.0,
        data__binarization="none",
        objective__num_samples=1,
        optimizer__learning_rate=LEARNING_RATE,
        train__batch_size=BATCH_SIZE,
        train__log_every=steps,
        train__evaluate_every=0,
        train__save_every=steps,
    )
    model = config.model
    assert (model.hidden, model.latent_dim, model.activation) == ((HIDDEN,), LATENT, "relu")

    def make() -> Epoch:
        images = data.load(config.data.name, "train", holdout=0.0)
        run = runs.Run(config, runs.describe(images), Path(), sharding.make_mesh())
        everywhere = sharding.replicated(run.mesh)
        state = jax.jit(run.initial_state, out_shardings=everywhere)(run.key)
        images = jax.device_put(images, everywhere)
        program = fitting.compile_program(run)

        def epoch() -> float:
            nonlocal state
            state, metrics = program(state, images, steps)
            rows = {name: np.asarray(values)[:steps].astype(np.float64) for name, values in metrics.items()}
            if rows["skipped"].any():
                raise FloatingPointError("a step was not finite")
            return float(rows["loss"].mean())

        return epoch

    return {"vae_jax": make}, {"jax": jax.__version__, "device": jax.devices()[0].device_kind}


# --- The process that runs PyTorch -----------------------------------------------------------------------------------


def torch_epochs(path: Path, steps: int) -> tuple[dict[str, Callable[[], Epoch]], dict[str, str]]:
    """({row: how to make its epoch}, versions): the same training in PyTorch. Imports nothing of vae_jax."""
    import numpy as np
    import torch
    from torch import nn, optim
    from torch.nn import functional as F
    from torch.utils.data import DataLoader, Dataset, TensorDataset

    torch.manual_seed(0)
    stored = np.load(path, allow_pickle=False)
    images = torch.from_numpy(stored).float().div_(255).flatten(1)  # [N, D]
    pixels = images.shape[1]

    class VAE(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1 = nn.Linear(pixels, HIDDEN)
            self.fc21, self.fc22 = nn.Linear(HIDDEN, LATENT), nn.Linear(HIDDEN, LATENT)
            self.fc3, self.fc4 = nn.Linear(LATENT, HIDDEN), nn.Linear(HIDDEN, pixels)

        def forward(self, x):
            h = F.relu(self.fc1(x))
            mu, logvar = self.fc21(h), self.fc22(h)
            std = torch.exp(0.5 * logvar)
            z = mu + torch.randn_like(std) * std
            return self.fc4(F.relu(self.fc3(z))), mu, logvar

    def divergence(mu, logvar):
        return -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())

    class Decoded(Dataset):
        def __len__(self) -> int:
            return len(stored)

        def __getitem__(self, index: int) -> tuple[torch.Tensor]:
            from PIL import Image

            pixels = np.array(Image.fromarray(stored[index].squeeze()), copy=True)
            return (torch.from_numpy(np.atleast_3d(pixels)).permute(2, 0, 1).contiguous().float().div(255),)

    def loader_epoch(dataset: Dataset) -> Epoch:
        model = VAE()
        optimizer = optim.Adam(model.parameters(), lr=LEARNING_RATE)
        loader = DataLoader(dataset, batch_size=BATCH_SIZE, shuffle=True)

        def epoch() -> float:
            model.train()
            total, count = 0.0, 0
            for i, (x,) in enumerate(loader):
                if i == steps:
                    break
                optimizer.zero_grad()
                x = x.view(-1, pixels)
                logits, mu, logvar = model(x)
                reconstruction = F.binary_cross_entropy(torch.sigmoid(logits), x, reduction="sum")
                loss = reconstruction + divergence(mu, logvar)
                loss.backward()
                total, count = total + loss.item(), count + len(x)
                optimizer.step()
            return total / count

        return epoch

    def plain_epoch(compiled: bool = False) -> Epoch:
        model = VAE()
        optimizer = optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=True)

        def loss_of(x):
            logits, mu, logvar = model(x)
            return F.binary_cross_entropy_with_logits(logits, x, reduction="sum") + divergence(mu, logvar)

        if compiled:
            loss_of = torch.compile(loss_of, dynamic=False)  # one program for each batch size

        def epoch() -> float:
            model.train()
            total, order = torch.zeros(()), torch.randperm(len(images))[: steps * BATCH_SIZE]
            for indices in order.split(BATCH_SIZE):
                optimizer.zero_grad()
                loss = loss_of(images[indices])
                loss.backward()
                optimizer.step()
                total += loss.detach()
            return total.item() / len(order)

        return epoch

    makers = {
        "torch-example": lambda: loader_epoch(Decoded()),
        "torch-loader": lambda: loader_epoch(TensorDataset(images)),
        "torch-plain": plain_epoch,
        "torch-compiled": lambda: plain_epoch(compiled=True),
    }
    return makers, {"torch": torch.__version__, "torch_threads": str(torch.get_num_threads())}


# --- What both processes do ------------------------------------------------------------------------------------------


def serve(side: str, path: Path, steps: int) -> None:
    """Answers each line on stdin, a row's name, by one epoch of it: a JSON line on the stdout that the parent reads."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed goes to stderr

    def answer(**content: Any) -> None:
        print(json.dumps(content), file=answers, flush=True)

    makers, versions = (jax_epochs if side == "jax" else torch_epochs)(path, steps)
    epochs: dict[str, Epoch] = {}
    answer(versions=versions)
    for line in sys.stdin:
        row = line.strip()
        try:
            if row not in epochs:
                epochs[row] = makers[row]()
            start = time.perf_counter()
            loss = epochs[row]()
            answer(seconds=time.perf_counter() - start, loss=loss)
        except Exception as error:  # the parent says it, and goes on without the row
            answer(error=f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")


class Worker:
    """A process kept alive: `epoch(row)` runs one epoch there and sleeps until it is done."""

    def __init__(self, python: str, side: str, path: Path, steps: int):
        command = [python, str(Path(__file__).resolve()), "--serve", side, str(path), str(steps)]
        environment = os.environ | {"JAX_PLATFORMS": "cpu"}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.versions = self._read()["versions"]

    def _read(self) -> dict[str, Any]:
        line = self.process.stdout.readline()
        if not line:
            self.close()
            raise SystemExit(f"the process of {self.process.args[0]} ended with code {self.process.returncode}")
        return json.loads(line)

    def epoch(self, row: str) -> dict[str, Any]:
        print(row, file=self.process.stdin, flush=True)
        return self._read()

    def close(self) -> None:
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


# --- The parent ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def training_images(name: str, data_dir: str | None) -> Iterator[tuple[Path, int]]:
    """(a .npy file with all training images, uint8 [N, H, W, C], N): what both processes load, once."""
    import numpy as np

    from vae_jax import data
    from vae_jax.errors import VaeJaxError

    try:
        images = data.load(name, "train", data_dir=data_dir, holdout=0.0)
    except VaeJaxError as error:
        raise SystemExit(str(error)) from None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.npy"
        np.save(path, images, allow_pickle=False)
        yield path, len(images)


def torch_python(asked: str | None) -> str:
    """The Python that runs the PyTorch rows; ends the program, saying how to get one, where there is none."""
    if asked is not None or importlib.util.find_spec("torch") is not None:
        return asked or sys.executable
    raise SystemExit(
        "PyTorch is not importable here. Make a Python that has it:\n"
        "    python -m venv torch-venv && torch-venv/bin/pip install torch numpy pillow\n"
        "then add --torch-python torch-venv/bin/python, or leave PyTorch out by --rows vae_jax"
    )


def measure(workers: dict[str, Worker], rows: list[str], warmup: int, rounds: int) -> dict[str, list[dict[str, Any]]]:
    """{row: its epochs, one for each round}; rows that fail are named on stderr and left out."""
    found: dict[str, list[dict[str, Any]]] = {row: [] for row in rows}
    for i in range(-warmup, rounds):
        for row in list(found):
            result = workers[row].epoch(row)
            if "error" in result:
                print(f"{row}: left out ({result['error']})", file=sys.stderr)
                del found[row]
            elif i >= 0:
                found[row].append(result)
        line = "  ".join(f"{row} {epochs[-1]['seconds']:.3f} s" for row, epochs in found.items() if epochs)
        print(f"round {i + 1} of {rounds}: {line}" if line else "warm-up", file=sys.stderr)
    return found


def summarise(found: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """For each row: the median, least and greatest seconds of an epoch, and the same of vae_jax's time over its own."""

    def spread(values: list[float]) -> dict[str, float]:
        return {"median": statistics.median(values), "min": min(values), "max": max(values)}

    seconds = {row: [epoch["seconds"] for epoch in epochs] for row, epochs in found.items()}
    table = []
    for row, times in seconds.items():
        entry = {"row": row, "seconds": spread(times), "loss": found[row][-1]["loss"]}
        if row != "vae_jax" and "vae_jax" in seconds:
            entry["ratio"] = spread([ours / other for ours, other in zip(seconds["vae_jax"], times, strict=True)])
        table.append(entry)
    return table


def show(table: list[dict[str, Any]], versions: dict[str, str], rounds: int) -> None:
    """Prints the table for people."""

    def span(entry: dict[str, float] | None) -> str:
        return f"{entry['median']:.3f} ({entry['min']:.3f} to {entry['max']:.3f})" if entry else ""

    print(f"median (least to greatest) of {rounds} rounds; " + ", ".join(f"{k} {v}" for k, v in versions.items()))
    print(f"{'row':<16}{'seconds an epoch':<28}{'vae_jax / row':<28}loss of the last epoch")
    for entry in table:
        ratio = span(entry.get("ratio"))
        print(f"{entry['row']:<16}{span(entry['seconds']):<28}{ratio:<28}{entry['loss']:.2f} nats")


def main(argv: list[str] | None = None) -> None:
    """Measures, prints a table, and last one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--torch-python", help="a Python that has PyTorch; this one if not given")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), help="which rows to measure")
    parser.add_argument("--rounds", type=int, default=15, help="measured epochs of each row")
    parser.add_argument("--warmup", type=int, default=3, help="epochs of each row before those")
    parser.add_argument("--quick", action="store_true", help="one round of three steps: does it run at all?")
    parser.add_argument("--data", default="mnist", help="a data set of vae_jax.data.load, by name or path")
    parser.add_argument("--data-dir", help="where data sets are")
    asked = parser.parse_args(argv)
    rounds, warmup = (1, 1) if asked.quick else (asked.rounds, asked.warmup)
    if rounds < 1 or warmup < 1:
        parser.error("--rounds and --warmup must be 1 or more")
    rows = [row for row in ROWS if row in asked.rows]
    pythons = {"jax": sys.executable} if "vae_jax" in rows else {}
    if any(row in TORCH_ROWS for row in rows):
        pythons["torch"] = torch_python(asked.torch_python)
    with training_images(asked.data, asked.data_dir) as (path, count), contextlib.ExitStack() as stack:
        steps = 3 if asked.quick else -(-count // BATCH_SIZE)
        started = {}
        for side, python in pythons.items():
            started[side] = Worker(python, side, path, steps)
            stack.callback(started[side].close)
        workers = {row: started["jax" if row == "vae_jax" else "torch"] for row in rows}
        table = summarise(measure(workers, rows, warmup, rounds))
        versions = {"python": platform.python_version(), "cores": str(len(os.sched_getaffinity(0)))}
        for worker in started.values():
            versions |= worker.versions
    show(table, versions, rounds)
    print(json.dumps({"steps": steps, "rounds": rounds, "versions": versions, "rows": table}))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
    else:
        main()
