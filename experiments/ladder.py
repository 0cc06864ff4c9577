"""What makes deep hierarchies train: one change at a time, and the number of stochastic layers.

    python experiments/ladder.py                          # digits, all cells
    python experiments/ladder.py --data mnist             # after `vae-jax data prepare mnist`
    python experiments/ladder.py --cells base --rate 2    # twice the learning rate

A cell is a `ladder-mlp`, images as vectors, with one setting that differs from `base`:

    base              six layers, in three levels; σ by softplus, a residual posterior, and a warm-up of the KL
    log-scale         σ = exp(s) instead of softplus
    free-posterior    mean and scale of the posterior are outputs of its network, not relative to the prior
    no-warm-up        the weight of the KL is 1 from the first step on
    free-bits         the first 0.2 nats of each layer have no cost
    balanced          weights of the layers during the warm-up, `objective.balance_layers`
    skip-quantile     updates with a gradient of over four times the 0.9 quantile of the last 100 norms are skipped
    coupling-prior    the prior of the highest layer is a flow with four affine couplings of width 64
    layers-1          one layer, in one level; layers-2 and layers-3: one in each level
    layers-12         four layers in each of three levels; layers-24: eight

The rest is equal in all cells:
- Each time an image is used, in training and evaluation, each pixel is sampled again from Bernoulli(pixel/255). Batches
  of 100.
- Digits: 64 features between blocks, 32 inside of them, 4 latents in each layer; 100 epochs of the 1,294 training
  images. MNIST: 256, 128 and 8; 30 epochs of all 60,000 training images. `--epochs` sets the number.
- Adamax with the learning rate 1.5e-3 (times `--rate`), that of the preset mnist-ladder, and cosine decay to 0. The
  weight of the KL increases linearly during the first quarter of the training.
- Evaluation on all test images, 359 or 10,000: NLL = -log p(x) by importance sampling with K = 500 (`--num-samples`),
  ELBO and KL, in nats; smaller NLL is better. A unit is active if the variance of its posterior mean over the test
  images is above 0.01.

The seeds of a cell are trained in one program, on as many devices as divide both the number of seeds and the batch. A
seed whose loss is not finite is counted as failed, and is not part of the means. DIR (runs/ladder) contains a run
directory for each seed, and table.md and table.json with all cells found there, of this command and of earlier ones.
SIGTERM and SIGINT save the training after the current dispatch; a partial evaluation is discarded. The same command
resumes, and trains and evaluates nothing twice. A larger `--seeds` adds to the finished seeds.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cells
from cells import number

from vae_jax.config import Config, override
from vae_jax.errors import VaeJaxError
from vae_jax.runs import RunDirectory

BLOCKS = {1: (1,), 2: (1, 1), 3: (1, 1, 1), 6: (2, 2, 2), 12: (4, 4, 4), 24: (8, 8, 8)}  # layers -> of each level
BASE = 6  # layers
CHANGES: dict[str, dict[str, Any]] = {
    "base": {},
    "log-scale": {"model__scale_head": "log-scale"},
    "free-posterior": {"model__posterior_form": "free"},
    "no-warm-up": {"objective__warmup_steps": 0},
    "free-bits": {"objective": "free-bits", "objective__free_bits": 0.2, "objective__per_layer": True},
    "balanced": {"objective__balance_layers": True},
    "skip-quantile": {"optimizer__skip_quantile": 0.9, "train__nonfinite": "skip"},
    "coupling-prior": {"prior": "coupling", "prior__layers": 4, "prior__hidden": (64,)},
}
NAMES = (*CHANGES, *(f"layers-{count}" for count in BLOCKS if count != BASE))


class Data(NamedTuple):
    """The data and the network of a table."""

    epochs: int
    holdout: float
    steps_per_epoch: int  # batches of 100
    channels: int
    latent_channels: int


DATA = {"digits": Data(100, 0.1, 13, 64, 4), "mnist": Data(30, 0.0, 600, 256, 8)}


class Cell(NamedTuple):
    """One cell: its name in `NAMES`, the name of the data, the epochs, and the factor of the learning rate."""

    name: str
    data: str
    epochs: int
    rate: float

    @property
    def num_layers(self) -> int:
        """The number of stochastic layers."""
        return int(self.name.removeprefix("layers-")) if self.name.startswith("layers-") else BASE

    @property
    def steps(self) -> int:
        """The number of training steps."""
        return self.epochs * DATA[self.data].steps_per_epoch

    def directory(self, output: Path) -> Path:
        """Return the folder of the cell's runs, which has a subfolder for each seed."""
        return output / f"{self.data},epochs={self.epochs},rate={self.rate:g}" / self.name


def config_of(cell: Cell, *, num_samples: int, data_dir: str | None = None) -> Config:
    """Return the settings of a cell's training and evaluation, except for the seed and the devices."""
    data = DATA[cell.data]
    return override(
        Config(),
        **{
            "data__name": cell.data,
            "data__data_dir": data_dir,
            "data__holdout": data.holdout,
            "preprocess": "dynamic-binarization",
            "model": "ladder-mlp",
            "model__blocks": BLOCKS[cell.num_layers],
            "model__channels": (data.channels,),
            "model__bottleneck": (data.channels // 2,),
            "model__latent_channels": (data.latent_channels,),
            "likelihood": "bernoulli",
            "objective": "elbo",
            "objective__warmup_steps": cell.steps // 4,
            "optimizer": "adamax",
            "optimizer__learning_rate": 1.5e-3 * cell.rate,
            "schedule": "cosine",
            "train__steps": cell.steps,
            "train__batch_size": 100,
            "train__log_every": data.steps_per_epoch,
            "train__evaluate_every": 0,
            "train__save_every": max(1, cell.epochs // 4) * data.steps_per_epoch,
            "evaluation__num_samples": num_samples,
        }
        | CHANGES.get(cell.name, {}),
    )


def row_of(cell: Cell, output: Path) -> dict[str, Any]:
    """Return the numbers of a cell on disk: see `cells.summarize_cell`; `failed` is the number of diverged seeds."""
    directory = cell.directory(output)
    shares = tuple(f"kl_{i}" for i in range(1, cell.num_layers + 1))
    found = cells.summarize_cell(directory, cell.steps, metrics=("nll", "elbo", "kl", *shares))
    failed = [path for path in directory.glob("seed=*") if RunDirectory(path).failure.exists()]
    return {**cell._asdict(), "layers": cell.num_layers, **found, "failed": len(failed)}


def all_rows(requested: Sequence[Cell], output: Path) -> list[dict[str, Any]]:
    """Return the rows of all cells of the requested kinds, and of every other cell that was run."""
    kinds = {cell[1:] for cell in requested}
    for path in output.glob("*,epochs=*,rate=*"):
        data, epochs, rate = path.name.split(",")
        kinds.add((data, int(epochs.partition("=")[2]), float(rate.partition("=")[2])))
    rows = [(kind, row_of(Cell(name, *kind), output)) for kind in sorted(kinds) for name in NAMES]
    shown = {cell[1:] for cell in requested}
    return [row for kind, row in rows if row["seeds"] or row["failed"] or kind in shown]


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """Return the table."""
    titles = [
        "cell", "layers", "data", "epochs", "rate", "NLL, mean ± sd", "standard error", "K", "ELBO", "KL",
        "KL of each layer from the top", "active units", "seeds", "failed", "seconds of training", "device",
    ]  # fmt: skip
    table = []
    for row in rows:
        line = [row["name"], row["layers"], row["data"], row["epochs"], f"{row['rate']:g}"]
        if row["seeds"]:
            names = [f"kl_{i}" for i in range(1, row["layers"] + 1)] if row["layers"] > 1 else ["kl"]
            shares = [row[name]["mean"] for name in names]
            line += [
                number(**row["nll"]), number(row["nll_se"]), row["num_samples"], number(**row["elbo"]),
                number(**row["kl"]), " ".join(f"{share:.1f}" for share in shares), cells.mean_active_units(row),
                row["seeds"], row["failed"], f"{row['seconds']:.0f}", row["device"],
            ]  # fmt: skip
        else:
            line += ["not run" if not row["failed"] else "failed", *[""] * 6, 0, row["failed"], "", ""]
        table.append(line)
    note = (
        "NLL, ELBO and KL in nats on all test images, means over seeds; the standard error is over the test images, "
        "which all models share."
    )
    return "\n".join([*cells.markdown_table(titles, table), "", note]) + "\n"


def write(requested: Sequence[Cell], output: Path) -> tuple[cells.Rows, str]:
    """Write table.json and table.md from the results on disk; return the rows and the table."""
    rows = all_rows(requested, output)
    text = markdown(rows)
    cells.write_table(output, rows, text)
    return rows, text


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the requested cells; write and print the table, and return its rows."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cells", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--data", choices=list(DATA), default="digits")
    parser.add_argument(
        "--epochs", type=int, help="passes over the training images; default: 100 of digits, 30 of MNIST"
    )
    parser.add_argument("--rate", type=float, default=1.0, help="factor of the learning rate")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds, 0, 1, ..., trained in one program")
    parser.add_argument("--num-samples", type=int, default=500, help="K of the NLL")
    parser.add_argument("--data-dir", help="folder of prepared data sets")
    parser.add_argument("--output", type=Path, default=Path("runs/ladder"), help="folder for runs and results")
    options = parser.parse_args(argv)
    epochs = DATA[options.data].epochs if options.epochs is None else options.epochs
    for name, value in (("epochs", epochs), ("seeds", options.seeds), ("num_samples", options.num_samples)):
        if value < 1:
            parser.error(f"--{name.replace('_', '-')}={value} must be 1 or more")
    if not options.rate > 0:
        parser.error(f"--rate={options.rate} must be greater than 0")
    requested = [Cell(name, options.data, epochs, options.rate) for name in options.cells]
    planned = [
        cells.Planned(
            f"{cell.name}, {cell.epochs} epochs of {cell.data}, rate {cell.rate:g}",
            cell.directory(options.output),
            config_of(cell, num_samples=options.num_samples, data_dir=options.data_dir),
        )
        for cell in requested
    ]
    done = cells.run_table(planned, options.seeds, lambda: write(requested, options.output))
    return {"output": str(options.output), **done}


if __name__ == "__main__":
    try:
        print(json.dumps(main()))
    except VaeJaxError as error:
        raise SystemExit(str(error)) from None
