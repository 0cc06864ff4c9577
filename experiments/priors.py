"""Learned priors and flow posteriors on MNIST: likelihood, KL, active units, time, and samples of each prior.

    vae-jax data prepare mnist
    python experiments/priors.py --cells coupling     # one cell; without flags: all cells

A cell is a prior p(z), or PRIOR+POSTERIOR with a flow as q(z|x):

    standard-normal             N(0, I)
    mixture                     100 normal distributions
    vamp                        the posteriors of 500 pseudo-inputs
    coupling                    flow with eight affine couplings of width 256
    spline                      flow with four spline couplings of width 128, eight bins
    autoregressive              masked autoregressive flow, two transforms of width 256
    standard-normal+coupling    posterior: flow with four affine couplings of width 200
    standard-normal+iaf         posterior: inverse autoregressive flow, two transforms of width 200
    coupling+coupling           both
    coupling+iaf                both

Where no posterior is named, it is a normal distribution with a diagonal covariance. The rest is equal in all cells:
- All 60,000 training images. Each time an image is used, in training and evaluation, each pixel is sampled again from
  Bernoulli(pixel/255). Batches of 100.
- The library's `mlp`: encoder 784-300-300-40 and its mirror, SiLU between layers, 40 latents, Bernoulli likelihood.
  With `--gated` each hidden layer is multiplied by the sigmoid of another one.
- 60 epochs (`--epochs`) of Adam with the learning rate 1e-3 and cosine decay to 0. The weight of the KL increases
  linearly during the first 10 epochs, or during the first half of the training if that is shorter.
- Evaluation on all 10,000 test images: NLL = -log p(x) by importance sampling with K = 5000 (`--num-samples`), ELBO and
  KL, in nats; smaller NLL is better. Without a closed form the KL is estimated from one posterior sample of each image.
  A unit is active if the variance of its posterior mean over the test images is above 0.01.

The seeds of a cell are trained in one program, on as many devices as divide both the number of seeds and the batch.
DIR (runs/priors) contains a run directory for each seed, and table.md, table.json and priors.png with all cells found
there, of this command and of earlier ones. priors.png has a row for each evaluated cell: the decoded means of equally
many samples of the prior of seed 0. SIGTERM and SIGINT save the training after the current dispatch; a partial
evaluation is discarded. The same command resumes, and trains and evaluates nothing twice. A larger `--seeds` adds to
the finished seeds; another `--num-samples` evaluates again without training. The seconds of a cell are those of
training, over all processes, and those of its last evaluation, over all seeds.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cells
import jax
import numpy as np
from cells import number

from vae_jax.config import Config, override
from vae_jax.errors import VaeJaxError
from vae_jax.runs import decode_codes, image_grids, open_run, read_evaluation, restored_params, sample_prior
from vae_jax.runtime import atomic_files

SHOWN = 16  # samples of each prior in the figure
WARMUP_EPOCHS = 10
PRIORS: dict[str, dict[str, Any]] = {
    "standard-normal": {},
    "mixture": {"prior__components": 100},
    "vamp": {"prior__components": 500},
    "coupling": {"prior__layers": 8, "prior__hidden": (256,)},
    "spline": {"prior__layers": 4, "prior__hidden": (128,), "prior__bins": 8},
    "autoregressive": {"prior__layers": 2, "prior__hidden": (256,)},
}
POSTERIORS: dict[str, dict[str, Any]] = {
    "gaussian": {},
    "coupling": {"posterior__layers": 4, "posterior__hidden": (200,)},
    "iaf": {"posterior__layers": 2, "posterior__hidden": (200,)},
}
NAMES = (*PRIORS, "standard-normal+coupling", "standard-normal+iaf", "coupling+coupling", "coupling+iaf")


class Size(NamedTuple):
    """The data and the networks of a table."""

    data: str
    holdout: float
    steps_per_epoch: int  # batches of 100
    hidden: tuple[int, ...]
    latent_dim: int
    gated: bool = False


SIZES = {
    "mnist": Size("mnist", 0.0, 600, (300, 300), 40),
    "mnist-gated": Size("mnist", 0.0, 600, (300, 300), 40, gated=True),
    "quick": Size("digits", 0.1, 13, (16,), 4),
}


class Cell(NamedTuple):
    """One cell: its name in `NAMES`, the number of epochs, and the name in `SIZES`."""

    name: str
    epochs: int
    size: str

    @property
    def prior(self) -> str:
        """The name of p(z)."""
        return self.name.partition("+")[0]

    @property
    def posterior(self) -> str:
        """The name of q(z|x)."""
        return self.name.partition("+")[2] or "gaussian"

    @property
    def steps(self) -> int:
        """The number of training steps."""
        return self.epochs * SIZES[self.size].steps_per_epoch

    def directory(self, output: Path) -> Path:
        """Return the folder of the cell's runs, which has a subfolder for each seed."""
        return output / f"{self.size},epochs={self.epochs}" / self.name


def config_of(cell: Cell, *, num_samples: int, data_dir: str | None = None) -> Config:
    """Return the settings of a cell's training and evaluation, except for the seed and the devices."""
    size = SIZES[cell.size]
    return override(
        Config(),
        data__name=size.data,
        data__data_dir=data_dir,
        data__holdout=size.holdout,
        preprocess="dynamic-binarization",
        model__latent_dim=size.latent_dim,
        network="mlp",
        network__hidden=size.hidden,
        network__activation="silu",
        network__gated=size.gated,
        prior=cell.prior,
        **PRIORS[cell.prior],
        posterior=cell.posterior,
        **POSTERIORS[cell.posterior],
        likelihood="bernoulli",
        objective="elbo",
        objective__warmup_steps=min(WARMUP_EPOCHS * size.steps_per_epoch, cell.steps // 2),
        optimizer="adam",
        optimizer__learning_rate=1e-3,
        schedule="cosine",
        train__steps=cell.steps,
        train__batch_size=100,
        train__log_every=size.steps_per_epoch,
        train__evaluate_every=0,
        train__save_every=5 * size.steps_per_epoch,
        evaluation__num_samples=num_samples,
    )


def all_rows(requested: Sequence[Cell], output: Path) -> list[tuple[Cell, dict[str, Any]]]:
    """Return the rows of all cells with the requested epochs and size, and of every other cell that was run."""
    kinds = {(cell.epochs, cell.size) for cell in requested}
    for path in output.glob("*,epochs=*"):
        size, _, epochs = path.name.partition(",epochs=")
        kinds.add((int(epochs), size))
    table = [Cell(name, *kind) for kind in sorted(kinds) for name in NAMES]
    rows = [
        (cell, {**cell._asdict(), "prior": cell.prior, "posterior": cell.posterior}
         | cells.summarize_cell(cell.directory(output), cell.steps))
        for cell in table
    ]  # fmt: skip
    shown = {(cell.epochs, cell.size) for cell in requested}
    return [(cell, row) for cell, row in rows if row["seeds"] or (cell.epochs, cell.size) in shown]


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """Return the table."""
    titles = [
        "prior", "posterior", "NLL, mean ± sd", "standard error", "K", "ELBO", "KL", "active units", "seeds", "data",
        "gated", "epochs", "seconds of training", "seconds of evaluation", "device",
    ]  # fmt: skip
    table = []
    for row in rows:
        size = SIZES[row["size"]]
        gates = "yes" if size.gated else "no"
        line = [row["prior"], row["posterior"], "not run", *[""] * 6, size.data, gates, row["epochs"]]
        if row["seeds"]:
            line[2:9] = [
                number(**row["nll"]), number(row["nll_se"]), row["num_samples"], number(**row["elbo"]),
                number(**row["kl"]), cells.mean_active_units(row), row["seeds"],
            ]  # fmt: skip
            line += [f"{row['seconds']:.0f}", f"{row['evaluation_seconds']:.0f}", row["device"]]
        else:
            line += [""] * 3
        table.append(line)
    note = (
        "NLL, ELBO and KL in nats on all test images, means over seeds; the standard error is over the test images, "
        "which all models share."
    )
    return "\n".join([*cells.markdown_table(titles, table), "", note]) + "\n"


def samples_of(cell: Cell, output: Path) -> np.ndarray:
    """Return images [SHOWN, H, W, C], decoded means of samples of the prior of the first evaluated seed."""
    seeds = cells.member_directories(cell.directory(output))
    directory = next(path for path in seeds if read_evaluation(path, cell.steps) is not None)
    path = directory / "samples.npy"
    if not path.exists():
        run = open_run(directory)
        with restored_params(run.experiment, run.directory, run.placement, changed=run.changed) as (_, params):
            z = sample_prior(run.experiment, params, jax.random.key(0), SHOWN, run.placement)
            images = decode_codes(run.experiment, params, z, run.placement)
        atomic_files.write_file(path, lambda file: np.save(file, images))
    return np.load(path, allow_pickle=False)


def write(requested: Sequence[Cell], output: Path) -> tuple[cells.Rows, str]:
    """Write table.json, table.md and priors.png from the results on disk; return the rows and the table."""
    found = all_rows(requested, output)
    rows = [row for _, row in found]
    text = markdown(rows)
    cells.write_table(output, rows, text)
    data = SIZES[requested[0].size].data  # images of one shape
    ran = [cell for cell, row in found if row["seeds"] and SIZES[cell.size].data == data]
    if ran:
        gates = {cell: ", gated" if SIZES[cell.size].gated else "" for cell in ran}
        groups = [{f"{cell.name}{gates[cell]}, {cell.epochs} epochs": samples_of(cell, output)} for cell in ran]
        image_grids.save_comparison(output / "priors.png", groups, title="Decoded samples of each prior")
    return rows, text


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the requested cells; write the table and the figure, print the table, and return its rows."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cells", nargs="+", choices=NAMES, default=NAMES, help="PRIOR or PRIOR+POSTERIOR")
    parser.add_argument("--epochs", type=int, default=60, help="passes over the training images")
    parser.add_argument("--seeds", type=int, default=1, help="number of seeds, 0, 1, ..., trained in one program")
    parser.add_argument("--num-samples", type=int, default=5000, help="K of the NLL")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--gated", action="store_true", help="gated hidden layers")
    kind.add_argument("--quick", action="store_true", help="small digits and networks, to test the code")
    parser.add_argument("--data-dir", help="folder of prepared data sets")
    parser.add_argument("--output", type=Path, default=Path("runs/priors"), help="folder for runs and results")
    options = parser.parse_args(argv)
    for name in ("epochs", "seeds", "num_samples"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')}={getattr(options, name)} must be 1 or more")
    size = "quick" if options.quick else "mnist-gated" if options.gated else "mnist"
    requested = [Cell(name, options.epochs, size) for name in options.cells]
    planned = [
        cells.Planned(
            f"{cell.name}, {cell.epochs} epochs",
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
