"""MNIST with 100 labels: the classification error of semi-supervised VAEs, over draws of the labels.

    vae-jax data prepare mnist
    python experiments/labels.py --cells m2     # one cell; without flags: all cells

Cells:

    conditional    p(x|y) with all labels: the generative classifier argmax p(x|y), and samples of each class
    m2             M2 of Kingma et al., arXiv 1406.5298: an unknown label is summed out
    m1+m2          M2 on the codes of M1, a VAE that is trained without labels: their posterior means
    sdgm           the skip deep generative model of Maaløe et al., arXiv 1602.05473: M2 with an auxiliary variable

The published errors of the classifier with 100 labels are 11.97 ± 1.71 % (M2), 3.33 ± 0.14 % (M1+M2) and 1.32 ± 0.07 %
(SDGM). The rest is equal in all cells:
- All 60,000 training images. Each time an image is used, each pixel is sampled again from Bernoulli(pixel/255). Batches
  of 200, half of them labelled, equally many of each class.
- Networks 784-500-500 and their mirror, softplus between layers, 50 latents; the embedding of a label has 16 numbers.
- `--epochs` passes over 60,000 images, Adam with the learning rate 1e-3 and cosine decay to 0.
- Evaluation on all 10,000 test images: the error of q(y|x) and that of p(y|x) = p(x|y) / Σ p(x|y) with
  `--class-samples` samples for each class, expected calibration errors, and -log p(x) summed over the classes.

The `--draws` of the labels of a cell are trained in one program, with the same seed. DIR (runs/labels) contains a run
directory for each draw, table.md and table.json with all cells found there, and for each cell of images CELL.png: ten
samples of each class of draw 0. SIGTERM and SIGINT save the training after the current dispatch. The same command
resumes, and trains and evaluates nothing twice; a larger `--draws` adds to the finished ones.
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
from vae_jax.runs import encode_examples, image_grids, open_run, restored_params, sample_means
from vae_jax.runtime import atomic_files

NAMES = ("conditional", "m2", "m1+m2", "sdgm")
DRAWS = "data.labelled_draw"
PUBLISHED = {"m2": "11.97 ± 1.71", "m1+m2": "3.33 ± 0.14", "sdgm": "1.32 ± 0.07"}
METRICS = (
    "classifier_error", "generative_error", "classifier_calibration_error", "nll_unlabelled", "nll", "elbo", "kl",
)  # fmt: skip


class Size(NamedTuple):
    """The data and the networks of a table."""

    data: str
    holdout: float
    steps_per_epoch: int
    batch_size: int
    hidden: tuple[int, ...]
    latent_dim: int


SIZES = {
    "mnist": Size("mnist", 0.0, 300, 200, (500, 500), 50),
    "quick": Size("digits", 0.1, 13, 100, (16,), 4),
}


class Cell(NamedTuple):
    """One cell: its name in `NAMES`, the number of labels and of epochs, and the name in `SIZES`."""

    name: str
    labels: int
    epochs: int
    size: str

    @property
    def steps(self) -> int:
        """The number of training steps."""
        return self.epochs * SIZES[self.size].steps_per_epoch

    def directory(self, output: Path) -> Path:
        """Return the folder of the cell's runs, which has a subfolder for each draw of the labels."""
        return output / f"{self.size},labels={self.labels},epochs={self.epochs}" / self.name

    def codes(self, output: Path) -> Path:
        """Return the file of the codes of M1."""
        return self.directory(output) / "codes.npz"


def shared_settings(cell: Cell, *, num_samples: int, class_samples: int) -> dict[str, Any]:
    """Return the settings of all models that are trained for a cell."""
    size = SIZES[cell.size]
    return {
        "data__holdout": size.holdout,
        "network": "mlp",
        "network__hidden": size.hidden,
        "network__activation": "softplus",
        "model__latent_dim": size.latent_dim,
        "optimizer__learning_rate": 1e-3,
        "train__steps": cell.steps,
        "train__batch_size": size.batch_size,
        "train__log_every": size.steps_per_epoch,
        "train__evaluate_every": 0,
        "train__save_every": 5 * size.steps_per_epoch,
        "evaluation__num_samples": num_samples,
    } | ({"evaluation__class_samples": class_samples} if class_samples else {})


def config_of(cell: Cell, output: Path, *, num_samples: int, class_samples: int, data_dir: str | None = None) -> Config:
    """Return the settings of a cell's training and evaluation, except for the draw and the devices."""
    shared = shared_settings(cell, num_samples=num_samples, class_samples=class_samples)
    data = {"data__name": SIZES[cell.size].data, "data__data_dir": data_dir}
    labelled = {"data__labelled": cell.labels}
    if cell.name == "conditional":
        return override(Config(), **shared, **data, model="conditional")
    if cell.name == "m1+m2":
        vectors = {"preprocess": "identity", "likelihood": "learned-gaussian", "data__name": str(cell.codes(output))}
        return override(Config(), **shared, **labelled, **vectors, model="m2")
    auxiliary = {"model__auxiliary_dim": SIZES[cell.size].latent_dim} if cell.name == "sdgm" else {}
    return override(Config(), **shared, **data, **labelled, **auxiliary, model=cell.name)


def train_m1(cell: Cell, output: Path, *, data_dir: str | None) -> bool:
    """Train M1, and write the codes of all images and their labels; return whether they are written."""
    path, folder = cell.codes(output), cell.directory(output) / "m1"
    if path.exists():
        return True
    shared = shared_settings(cell, num_samples=1, class_samples=0)
    config = override(Config(), **shared, data__name=SIZES[cell.size].data, data__data_dir=data_dir)
    planned = [cells.Planned(f"M1 of {cell.name}, {cell.epochs} epochs", folder, config)]
    if cells.run_table(planned, 1, lambda: ([], ""))["status"] != "done":
        return False
    run, arrays = open_run(folder / "seed=0"), {}
    with restored_params(run.experiment, run.directory, run.placement, changed=run.changed) as (_, params):
        for split in ("train", "test"):
            examples, key = run.experiment.dataset(split).arrays, run.experiment.evaluation_key(split)
            codes = encode_examples(run.experiment, params, key, examples, run.placement, with_seen=False)
            arrays |= {f"x_{split}": codes["mean"], f"y_{split}": examples["y"]}
    atomic_files.write_file(path, lambda file: np.savez(file, **arrays))
    return True


def all_rows(requested: Sequence[Cell], output: Path) -> list[tuple[Cell, dict[str, Any]]]:
    """Return the rows of all cells with the requested labels, epochs and size, and of every other cell that was run."""
    kinds = {(cell.labels, cell.epochs, cell.size) for cell in requested}
    for path in output.glob("*,labels=*,epochs=*"):
        size, labels, epochs = path.name.split(",")
        kinds.add((int(labels.partition("=")[2]), int(epochs.partition("=")[2]), size))
    table = [Cell(name, *kind) for kind in sorted(kinds) for name in NAMES]
    summaries = [
        cells.summarize_cell(cell.directory(output), cell.steps, varied=DRAWS, metrics=METRICS) for cell in table
    ]
    rows = [(cell, cell._asdict() | summary) for cell, summary in zip(table, summaries, strict=True)]
    shown = {(cell.labels, cell.epochs, cell.size) for cell in requested}
    return [(cell, row) for cell, row in rows if row["seeds"] or (cell.labels, cell.epochs, cell.size) in shown]


def _percent(row: dict[str, Any], name: str) -> str:
    """Return a mean and its standard deviation in percent; "" without a mean."""
    found = row.get(name, {})
    return number(**{key: None if value is None else 100 * value for key, value in found.items()}) if found else ""


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """Return the table."""
    titles = [
        "model", "labels", "error of q(y\\|x), %", "published, %", "error of p(y\\|x), %", "calibration error of "
        "q(y\\|x), %", "-log p(x)", "draws", "data", "epochs", "seconds of training", "seconds of evaluation", "device",
    ]  # fmt: skip
    table = []
    for row in rows:
        labels = "all" if row["name"] == "conditional" else row["labels"]
        line = [row["name"], labels, "not run", PUBLISHED.get(row["name"], ""), *[""] * 4, SIZES[row["size"]].data]
        line += [row["epochs"], *[""] * 3]
        if row["seeds"]:
            line[2] = _percent(row, "classifier_error")
            line[4:8] = [
                _percent(row, "generative_error"), _percent(row, "classifier_calibration_error"),
                number(**row.get("nll_unlabelled", {"mean": None})), row["seeds"],
            ]  # fmt: skip
            line[10:] = [f"{row['seconds']:.0f}", f"{row['evaluation_seconds']:.0f}", row["device"]]
        table.append(line)
    note = (
        "Errors on all test examples, mean ± sd over draws of the labels. -log p(x) of m1+m2 is that of codes in nats, "
        "which is not comparable with that of images. The published errors are those of 100 labels."
    )
    return "\n".join([*cells.markdown_table(titles, table), "", note]) + "\n"


def save_samples(cell: Cell, output: Path) -> None:
    """Save ten samples of each class of a model of images, of draw 0."""
    path, run = output / f"{cell.name}.png", open_run(cell.directory(output) / f"{DRAWS}=0")
    labels = np.repeat(np.arange(10, dtype=np.int32), 10)
    with restored_params(run.experiment, run.directory, run.placement, changed=run.changed) as (_, params):
        images = sample_means(
            run.experiment, params, jax.random.key(0), len(labels), run.placement, conditions={"y": labels}
        )
    image_grids.save_samples_by_class(path, images, labels)


def write(requested: Sequence[Cell], output: Path) -> tuple[cells.Rows, str]:
    """Write table.json, table.md and the figures of the requested cells; return the rows and the table."""
    found = all_rows(requested, output)
    rows = [row for _, row in found]
    text = markdown(rows)
    cells.write_table(output, rows, text)
    for cell, row in found:
        if cell in requested and row["seeds"] and cell.name != "m1+m2":
            save_samples(cell, output)
    return rows, text


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the requested cells; write the table and the figures, print the table, and return its rows."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cells", nargs="+", choices=NAMES, default=NAMES, help="models")
    parser.add_argument("--labels", type=int, default=100, help="number of labels, as many of each class")
    parser.add_argument("--epochs", type=int, default=100, help="passes over the training images")
    parser.add_argument("--draws", type=int, default=5, help="number of draws of the labels, trained in one program")
    parser.add_argument("--num-samples", type=int, default=100, help="K of the NLL given the label")
    parser.add_argument("--class-samples", type=int, default=100, help="K of p(x|y) for each class")
    parser.add_argument("--quick", action="store_true", help="small digits and networks, to test the code")
    parser.add_argument("--data-dir", help="folder of prepared data sets")
    parser.add_argument("--output", type=Path, default=Path("runs/labels"), help="folder for runs and results")
    options = parser.parse_args(argv)
    for name in ("labels", "epochs", "draws", "num_samples", "class_samples"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')}={getattr(options, name)} must be 1 or more")
    output, size = options.output.resolve(), "quick" if options.quick else "mnist"
    requested = [Cell(name, options.labels, options.epochs, size) for name in options.cells]
    samples = {"num_samples": options.num_samples, "class_samples": options.class_samples}
    rows, failures = [], {}
    for cell in requested:
        if cell.name == "m1+m2" and not train_m1(cell, output, data_dir=options.data_dir):
            return {"output": str(output), "status": "interrupted", "failures": failures, "rows": rows}
        config = config_of(cell, output, **samples, data_dir=options.data_dir)
        planned = [cells.Planned(f"{cell.name}, {cell.epochs} epochs", cell.directory(output), config)]
        draws = 1 if cell.name == "conditional" else options.draws
        done = cells.run_table(planned, draws, lambda: write(requested, output), varied=DRAWS)
        rows, failures = done["rows"], failures | done["failures"]
        if done["status"] != "done":
            return {"output": str(output)} | done
    return {"output": str(output), "status": "done", "failures": failures, "rows": rows}


if __name__ == "__main__":
    try:
        print(json.dumps(main()))
    except VaeJaxError as error:
        raise SystemExit(str(error)) from None
