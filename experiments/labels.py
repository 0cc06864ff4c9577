"""MNIST with 100 labels: the classification error of semi-supervised VAEs, over draws of the labels.

    vae-jax data prepare mnist
    python experiments/labels.py --cells m2     # one cell; without flags: all cells

Cells:

    classifier     the classifier of m2 alone, with the labelled images and no others
    vae            p(x) without labels: the NLL with which that of conditional is compared, and M1 of m1+m2
    conditional    p(x|y) with all labels: the generative classifier argmax p(x|y), and samples of each class
    m2             M2 of Kingma et al., arXiv 1406.5298: an unknown label is summed out
    m1+m2          M2 on the codes of M1, which is vae: in each step new samples of their posteriors
    sdgm           the skip deep generative model of Maaløe et al., arXiv 1602.05473: M2 with an auxiliary variable

The published errors of the classifier with 100 labels are 11.97 ± 1.71 % (M2), 3.33 ± 0.14 % (M1+M2) and 1.32 ± 0.07 %
(SDGM). The protocol:
- All 60,000 training images. Each time an image is used, each pixel is sampled again from Bernoulli(pixel/255).
- vae and conditional have equal networks, 784-200-200-50 and the mirror, batches of 200, and equally many steps. The
  others have the networks, batches and numbers of steps of `PROTOCOLS`; a batch has 50 images without a label and 10
  with one, one of each class. Everywhere gelu between layers; the embedding of a label has 16 numbers.
- An epoch is 60,000 images without a label; `--epochs` sets that number of each cell, also of M1. Adam with the
  learning rate 1e-3 and cosine decay to 0. In sdgm the weight of the KL divergence grows from 0 to 1 in the first
  quarter of the steps.
- Evaluation on all 10,000 test images: the error of q(y|x) and that of p(y|x) = p(x|y) / Σ p(x|y) with
  `--class-samples` samples for each class, expected calibration errors, and -log p(x) summed over the classes.
- 1,000 samples of conditional, the means of p(x|z, y), equally many of each class. A convolutional classifier, trained
  on all training images and labels, confirms the class or not.

The `--draws` of the labels of a cell with few labels are trained in one program, with the same seed. DIR (runs/labels)
contains a run directory for each draw, table.md and table.json with all cells found there, and for each cell of images
a figure with the name of its directory: ten samples of each class of draw 0. SIGTERM and SIGINT save the training after
the current dispatch. The same command resumes, and trains and evaluates nothing twice; a larger `--draws` adds to the
finished ones.
"""

import argparse
import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cells
import jax
import label_checks
import numpy as np
import sampled_codes
from cells import number

from vae_jax.config import Config, override
from vae_jax.errors import VaeJaxError
from vae_jax.runs import (
    encode_examples,
    image_grids,
    mean_and_sd,
    open_run,
    restored_params,
    sample_means,
    spread_classes,
)
from vae_jax.runtime import atomic_files

NAMES = ("classifier", "vae", "conditional", "m2", "m1+m2", "sdgm")
FEW_LABELS = ("classifier", "m2", "m1+m2", "sdgm")
WITH_SAMPLES = ("conditional", "m2", "sdgm")
DRAWS = "data.labelled_draw"
PUBLISHED = {"m2": "11.97 ± 1.71", "m1+m2": "3.33 ± 0.14", "sdgm": "1.32 ± 0.07"}
METRICS = (
    "classifier_error", "generative_error", "classifier_calibration_error", "nll_unlabelled", "nll", "elbo", "kl",
)  # fmt: skip
SAMPLES = 1000  # whose class the trained classifier confirms


class Protocol(NamedTuple):
    """The networks and the training of a cell: widths, rows of a batch without a label and with one, and epochs."""

    hidden: tuple[int, ...]
    unlabelled: int
    labelled: int
    epochs: int


PROTOCOLS = {
    "classifier": Protocol((200, 200), 0, 10, 2000),
    "vae": Protocol((200, 200), 200, 0, 15),
    "conditional": Protocol((200, 200), 200, 0, 15),
    "m2": Protocol((200, 200), 50, 10, 3),
    "m1+m2": Protocol((200,), 50, 10, 4),
    "sdgm": Protocol((200, 200), 50, 10, 3),
}


class Size(NamedTuple):
    """The data of a table, their training images, and the networks if they are not those of `PROTOCOLS`."""

    data: str
    holdout: float
    images: int
    hidden: tuple[int, ...] | None
    latent_dim: int


SIZES = {
    "mnist": Size("mnist", 0.0, 60_000, None, 50),
    "quick": Size("digits", 0.1, 1_300, (16,), 4),
}


class Cell(NamedTuple):
    """One cell: its name in `NAMES`, its labels and epochs, the name in `SIZES`, and of m1+m2 the epochs of M1."""

    name: str
    labels: int
    epochs: int
    size: str
    m1_epochs: int = 0

    @property
    def steps(self) -> int:
        """The number of training steps; those of the classifier each use all labelled images."""
        rows = PROTOCOLS[self.name].unlabelled
        return self.epochs * SIZES[self.size].images // rows if rows else self.epochs

    def directory(self, output: Path) -> Path:
        """Return the folder of the cell's runs, which has a subfolder for each draw of the labels."""
        m1 = f",m1_epochs={self.m1_epochs}" if self.m1_epochs else ""
        return output / f"{self.name},labels={self.labels},epochs={self.epochs}{m1},{self.size}"

    def run(self, output: Path) -> Path:
        """Return the directory of the run of draw 0."""
        return self.directory(output) / f"{DRAWS}=0"


def make_cell(name: str, labels: int, epochs: int | None, size: str) -> Cell:
    """Return a cell: `labels` is its number of labels if it has few, `epochs` replaces the number of `PROTOCOLS`."""
    m1_epochs = epochs or PROTOCOLS["vae"].epochs if name == "m1+m2" else 0
    return Cell(name, labels if name in FEW_LABELS else 0, epochs or PROTOCOLS[name].epochs, size, m1_epochs)


def config_of(cell: Cell, *, data: str, options: argparse.Namespace) -> Config:
    """Return the settings of a cell's training and evaluation, except for the draw and the devices.

    Args:
      cell: the cell.
      data: the data set, or the file of codes of m1+m2.
      options: K of the NLL, and for each class, and the folder of prepared data sets.
    """
    size, protocol = SIZES[cell.size], PROTOCOLS[cell.name]
    model = {"classifier": "m2", "m1+m2": "m2"}.get(cell.name, cell.name)
    every = max(1, min(500, cell.steps // 10))
    settings = {
        "data__name": data,
        "data__data_dir": options.data_dir,
        "data__holdout": size.holdout,
        "model": model,
        "model__latent_dim": size.latent_dim,
        "network": "mlp",
        "network__hidden": size.hidden or protocol.hidden,
        "network__activation": "gelu",
        "optimizer__learning_rate": 1e-3,
        "train__steps": cell.steps,
        "train__batch_size": protocol.unlabelled + protocol.labelled,
        "train__log_every": every,
        "train__evaluate_every": 0,
        "train__save_every": 5 * every,
        "evaluation__num_samples": options.num_samples,
    }
    if cell.name in FEW_LABELS:
        share = protocol.labelled / (protocol.unlabelled + protocol.labelled)
        settings |= {"data__labelled": cell.labels, "train__labelled_share": min(share, 0.99)}
    if cell.name == "m1+m2":
        preprocess = sampled_codes.SampledCodesConfig.name
        settings |= {"preprocess": preprocess, "likelihood": "heteroscedastic-gaussian", "data__data_dir": None}
    if cell.name != "vae":
        settings["evaluation__class_samples"] = options.class_samples
    if cell.name == "sdgm":
        settings |= {"model__auxiliary_dim": size.latent_dim, "objective__warmup_steps": cell.steps // 4}
    return override(Config(), **settings)


def write_codes(vae: Cell, output: Path) -> str:
    """Return the file of the posteriors of M1 and the labels, which is written if it does not exist."""
    path = vae.directory(output) / "codes.npz"
    if path.exists():
        return str(path)
    run, arrays = open_run(vae.run(output)), {}
    with restored_params(run.experiment, run.directory, run.placement, changed=run.changed) as (_, params):
        for split in ("train", "test"):
            examples, key = run.experiment.dataset(split).arrays, run.experiment.evaluation_key(split)
            codes = encode_examples(run.experiment, params, key, examples, run.placement, with_seen=False)
            x = np.concatenate([codes["mean"], codes["scale"]], axis=1)
            arrays |= {f"x_{split}": x, f"y_{split}": examples["y"]}
    atomic_files.write_file(path, lambda file: np.savez(file, **arrays))
    return str(path)


def run_classifier(cell: Cell, config: Config, output: Path, draws: int) -> None:
    """Train the classifier of the labelled images for each draw that has no result, and write results.json."""
    path = cell.directory(output) / "results.json"
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    for draw in range(draws):
        if str(draw) not in results:
            results[str(draw)] = label_checks.supervised_error(override(config, data__labelled_draw=draw))
            atomic_files.write_json(path, results)


def row_of(cell: Cell, output: Path) -> dict[str, Any]:
    """Return the numbers of a cell on disk; `seeds` is 0 if there are none."""
    folder = cell.directory(output)
    if cell.name != "classifier":
        row = cells.summarize_cell(folder, cell.steps, varied=DRAWS, metrics=METRICS)
        path = folder / "samples.json"
        return cell._asdict() | row | (json.loads(path.read_text()) if path.exists() else {})
    path = folder / "results.json"
    results = list(json.loads(path.read_text()).values()) if path.exists() else []
    means = {
        name: mean_and_sd([result[name] for result in results]) for name in METRICS if results and name in results[0]
    }
    return cell._asdict() | {"seeds": len(results)} | means


def all_cells(requested: Sequence[Cell], output: Path) -> list[Cell]:
    """Return the requested cells, those on disk, and the other cells of MNIST with their default epochs."""
    found = {*requested}
    for path in filter(Path.is_dir, output.glob("*,labels=*,epochs=*,*")):
        name, *numbers, size = path.name.split(",")
        labels, epochs, *m1_epochs = (int(number.partition("=")[2]) for number in numbers)
        found.add(Cell(name, labels, epochs, size, *m1_epochs))
    size, few = requested[0].size, max(cell.labels for cell in requested) or 100
    found |= {make_cell(name, few, None, size) for name in set(NAMES) - {cell.name for cell in found}}
    return sorted(found, key=lambda cell: (cell.size, NAMES.index(cell.name), cell.labels, cell.epochs, cell.m1_epochs))


def _percent(row: dict[str, Any], name: str) -> str:
    """Return a mean and its standard deviation in percent; "" without a mean."""
    found = row.get(name, {})
    return number(**{key: None if value is None else 100 * value for key, value in found.items()}) if found else ""


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """Return the table."""
    titles = [
        "model", "labels", "error of q(y\\|x), %", "published, %", "error of p(y\\|x), %", "calibration error of "
        "q(y\\|x), %", "-log p(x\\|y)", "-log p(x)", "samples confirmed, %", "draws", "data", "epochs",
        "seconds of training", "seconds of evaluation", "device",
    ]  # fmt: skip
    table = []
    for row in rows:
        name, seeds = row["name"], row["seeds"]
        labels = row["labels"] if name in FEW_LABELS else {"vae": "none"}.get(name, "all")
        errors = [_percent(row, metric) for metric in METRICS[:3]]
        nll = [number(**row[metric]) if metric in row else "" for metric in ("nll", "nll_unlabelled")]
        nll = ["", nll[0]] if name == "vae" else nll
        confirmed = f"{100 * row['confirmed']:.1f}" if "confirmed" in row else ""
        seconds = [f"{row[key]:.0f}" if key in row else "" for key in ("seconds", "evaluation_seconds")]
        error = errors[0] if seeds else "not run"
        cells_of_row = [name, labels, error, PUBLISHED.get(name, ""), *errors[1:], *nll, confirmed, seeds or ""]
        epochs = f"{row['m1_epochs']} + {row['epochs']}" if row["m1_epochs"] else row["epochs"]
        table.append([*cells_of_row, SIZES[row["size"]].data, epochs, *seconds, row.get("device", "")])
    note = (
        "Errors on all test examples, mean ± sd over draws of the labels. The likelihoods of m1+m2 are those of codes, "
        "which are not comparable with those of images, and its epochs are those of M1 and of M2. An epoch of "
        "classifier is a step with all labelled images. The published errors are those of 100 labels."
    )
    return "\n".join([*cells.markdown_table(titles, table), "", note]) + "\n"


def save_samples(cell: Cell, output: Path) -> None:
    """Save ten samples of each class of draw 0; of conditional also what fraction of more samples is confirmed."""
    path, found = output / f"{cell.directory(output).name}.png", cell.directory(output) / "samples.json"
    confirms = cell.name == "conditional"
    if path.exists() and (found.exists() or not confirms):
        return
    run, count = open_run(cell.run(output)), SAMPLES if cell.size == "mnist" else 100
    labels = spread_classes(count, 10)
    with restored_params(run.experiment, run.directory, run.placement, changed=run.changed) as (_, params):
        draw = functools.partial(sample_means, run.experiment, params, jax.random.key(0), placement=run.placement)
        images = draw(count, conditions={"y": labels})
    shown = np.concatenate([np.flatnonzero(labels == label)[:10] for label in range(10)])
    image_grids.save_samples_by_class(path, images[shown], labels[shown])
    if confirms:
        assert run.experiment.config is not None, "open_run requires it"
        steps, samples = 2000 if cell.size == "mnist" else 100, np.rint(images * 255).astype(np.uint8)
        confirmed = label_checks.confirm_classes(samples, labels, run.experiment.config, steps=steps)
        atomic_files.write_json(found, confirmed | {"samples": count})


def write(requested: Sequence[Cell], output: Path) -> tuple[cells.Rows, str]:
    """Write table.json, table.md and the figures of the requested cells; return the rows and the table."""
    for cell in requested:
        if cell.name in WITH_SAMPLES and row_of(cell, output)["seeds"]:
            save_samples(cell, output)
    rows = [row_of(cell, output) for cell in all_cells(requested, output)]
    text = markdown(rows)
    cells.write_table(output, rows, text)
    return rows, text


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cells", nargs="+", choices=NAMES, default=NAMES, help="models")
    parser.add_argument("--labels", type=int, default=100, help="number of labels, as many of each class")
    parser.add_argument("--epochs", type=int, help="passes over the training images; default: those of each cell")
    parser.add_argument("--draws", type=int, default=5, help="draws of the labels, of the cells with few labels")
    parser.add_argument("--num-samples", type=int, default=100, help="K of the NLL given the label; not for classifier")
    parser.add_argument("--class-samples", type=int, default=20, help="K for each class; not for vae and classifier")
    parser.add_argument("--quick", action="store_true", help="small digits and networks, to test the code")
    parser.add_argument("--data-dir", help="folder of prepared data sets")
    parser.add_argument("--output", type=Path, default=Path("runs/labels"), help="folder for runs and results")
    options = parser.parse_args(argv)
    for name in ("labels", "epochs", "draws", "num_samples", "class_samples"):
        value = getattr(options, name)
        if value is not None and value < 1:
            parser.error(f"--{name.replace('_', '-')}={value} must be 1 or more")
    return options


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the requested cells; write the table and the figures, print the table, and return its rows."""
    options = parse(argv)
    output, rows, failures = options.output.resolve(), [], {}
    chosen = options.labels, options.epochs, "quick" if options.quick else "mnist"
    requested, vae = [make_cell(name, *chosen) for name in options.cells], make_cell("vae", *chosen)
    if "m1+m2" in options.cells and vae not in requested:
        requested = [vae, *requested]
    for cell in requested:
        data = write_codes(vae, output) if cell.name == "m1+m2" else SIZES[cell.size].data
        config = config_of(cell, data=data, options=options)
        if cell.name == "classifier":
            run_classifier(cell, config, output, options.draws)
            rows = write(requested, output)[0]
            continue
        planned = [cells.Planned(f"{cell.name}, {cell.epochs} epochs", cell.directory(output), config)]
        draws = options.draws if cell.name in FEW_LABELS else 1
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
