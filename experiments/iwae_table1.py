"""Table 1 of "Importance Weighted Autoencoders" on MNIST, and two columns that it does not have.

    vae-jax data prepare mnist
    python experiments/iwae_table1.py --layers 1 --k 1 --columns vae     # one cell; without flags: all of them

NLL is -log p(x) of the test images in nats, by importance sampling with K = 5000, smaller is better. One or two
stochastic layers, k = 1, 5 or 50 posterior samples in training, and four ways to train, of which the table has two:

    vae     the mean of k log weights (the sampled ELBO), its gradient as it is
    iwae    the log of the mean of k weights (Burda et al., arXiv 1509.00519), its gradient as it is
    stl     as vae, sticking the landing (Roeder et al., arXiv 1703.09194)
    dreg    as iwae, doubly reparameterised (Tucker et al., arXiv 1810.04152)

With k = 1 vae and iwae are one objective, and stl and dreg one gradient: one training serves both cells.

The protocol is the authors':
- all 60,000 training images, each pixel a fresh Bernoulli(pixel/255) whenever an image is read, in training and in
  evaluation; batches of 20;
- eight stages i = 1, ..., 8 of 3^(i-1) epochs at a learning rate of 1e-3 · 10^(-(i-1)/7): 3,280 epochs, which are
  9,840,000 steps; no early stopping;
- Adam with b2 = 0.999 and eps = 1e-4 on the gradient of the *sum* over the 20 images, which is 5e-6 on that of our
  mean; b1 = 0.9 as in the paper, or `--b1 0.99` as in the authors' program;
- tanh networks 784-200-200-50 and its mirror; or 784-200-200-100, 100-100-100-50 and their mirrors. Gaussian heads have
  a linear mean and σ = exp(linear), and every kernel starts Glorot uniform: `model.scale_head log-scale`. (The presets'
  σ = exp(s/2) starts at 1, and Adam, whose steps do not depend on a gradient's scale, moves its log σ half as fast.)
  The output's bias starts at logit(clip(mean image, 0.001, 0.999));
- a unit is active if its posterior mean varies by more than 0.01 over the test images.

`--schedule short` is meant for minutes on two cores: the same eight stages in 82 epochs of batches of 100 at three
times the learning rate, 49,200 steps in place of 9,840,000. `--schedule medium` is ten times as long, 820 epochs. Where
all three were run (one layer, k = 1: 86.31 by the full one) they lose 5.37 and 0.97 nats: numbers of one schedule can
be compared with each other, and those of the short one not with the published. Nor can its active units of the first
of two layers: nearly all 100 still vary, and follow what the second layer says of them; of vae with k = 1 the medium
one leaves 20, the published table 16.

The seeds of a cell are trained side by side in one program (`vae_jax.sweeping`), over as many devices as divide both
the seeds and the batch. Each leaves a run directory below DIR (runs/iwae_table1); table.md, table.json and table.png in
DIR hold all cells that are found there, of this command and of earlier ones. SIGTERM and SIGINT save what the dispatch
under way has trained; of an evaluation under way nothing is kept. The same command goes on, where the process was
killed at most 90,000 steps back in the full schedule, and trains and evaluates nothing twice; more `--seeds` add to
those that are done. Seconds are those of training, over all processes that worked on a cell and for all its seeds.

Time: 85 minutes for the training of the first cell (one layer, k = 1, one seed, the full schedule) on one core, by
`taskset -c 1`, with other work on the other core: 1,936 steps a second. With k = 5 it began at 840: some 3.3 hours. On
a core of an Intel Xeon it began at 415, and at 570 with two layers and k = 1: 6.5 and 4.8 hours; on a core of an EPYC
that has no AVX-512 with k = 5 at 285, 9.6 hours. The short schedule takes 1.5 to 3.5 minutes with k = 1, and 5 to 10 or
more with k = 5, on one core; with k = 50 a step took 95 to 165 ms on one core of the Xeon, and a cell 90 minutes or
more with other work on the other core. The medium one took 30 minutes with k = 1, 46 with two layers, and 140 with
k = 5 on a core of that EPYC, beside the other column on the other. On one H100 (jax 0.11.2) a step of the full schedule
with k = 5 took 145 us, which makes 24 minutes, and 156 us with three seeds side by side; one of the short schedule with
k = 50 took 346 us.
Numbers of 2026-11-24 (full) and 2026-11-25 (short; AMD EPYC with AVX-512), and of 2026-11-26 and 27 (medium, stl with
k = 5, all with k = 50; Intel Xeon with AVX-512; medium with k = 5: AMD EPYC without), all with Python 3.11.7 and jax
0.10.2, NLL in nats:

    layers  k  column       schedule  published   elsewhere  ours            active units (published)
    1       1  vae, iwae    full      86.76       86.35      86.31 ± 0.23    19 (19)
    1       1  vae, iwae    medium                           87.28 ± 0.23    20
    1       1  vae, iwae    short                            91.68 ± 0.24    21
    1       1  stl, dreg    medium                           86.93 ± 0.23    22
    1       1  stl, dreg    short                            91.18 ± 0.24    22
    1       5  vae          medium   86.47       86.10       86.82 ± 0.23    21 (20)
    1       5  vae          short                            90.86 ± 0.24    21
    1       5  stl          short                            90.65 ± 0.24    22
    1       5  iwae         medium   85.54       85.18       86.15 ± 0.23    23 (22)
    1       5  iwae         short                            90.29 ± 0.24    30
    1       5  dreg         short                            89.81 ± 0.23    30
    1       50 vae          short                            90.41 ± 0.24    21
    1       50 stl          short                            90.43 ± 0.24    21
    1       50 iwae         short                            89.23 ± 0.23    33
    1       50 dreg         short                            88.70 ± 0.23    32
    2       1  vae, iwae    medium   85.33       84.83      85.63 ± 0.23    20 + 7 (16 + 5)
    2       1  vae, iwae    short                            90.28 ± 0.25    100 + 9
    2       1  stl, dreg    medium                           85.12 ± 0.23    52 + 9
    2       1  stl, dreg    short                            89.80 ± 0.25    100 + 11
    2       5  vae          short                            89.21 ± 0.24    100 + 9
    2       5  stl          short                            89.13 ± 0.24    97 + 11
    2       5  iwae         short                            88.65 ± 0.24    100 + 10
    2       5  dreg         short                            88.25 ± 0.24    100 + 12
    2       50 vae          short                            88.78 ± 0.24    87 + 10
    2       50 stl          short                            88.83 ± 0.24    82 + 11
    2       50 iwae         short                            87.77 ± 0.24    100 + 11
    2       50 dreg         short                            87.02 ± 0.23    100 + 13

one seed each; ± is the standard error over the test images, which all share. All other cells: not run. The mean of an
upper unit is estimated by 50 draws. These counts are of the estimate's variance as it is; since 2026-11-27 its own part
is taken off, which changes none of the four that were counted again (k = 5 stl, k = 50 stl, iwae and dreg).
"""

import argparse
import itertools
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from clock import Clock

from vae_jax.config import PRESETS, Config, override
from vae_jax.errors import VaeJaxError
from vae_jax.runs import Interrupted, evaluate_members, fit_group, mean_and_sd, members, read_evaluation
from vae_jax.runtime import atomic_files, signals

LAYERS, SAMPLES = (1, 2), (1, 5, 50)
COLUMNS = {  # (objective, estimator)
    "vae": ("sampled-elbo", "pathwise"),
    "iwae": ("iwae", "pathwise"),
    "stl": ("sampled-elbo", "sticking-the-landing"),
    "dreg": ("iwae", "doubly-reparameterized"),
}
SAME_WITH_ONE_SAMPLE = {"iwae": "vae", "dreg": "stl"}
STAGES = 8

# arXiv 1509.00519, Table 1: NLL and active units of each layer, from the image upwards.
PUBLISHED = {
    (1, 1): {"vae": (86.76, "19"), "iwae": (86.76, "19")},
    (1, 5): {"vae": (86.47, "20"), "iwae": (85.54, "22")},
    (1, 50): {"vae": (86.35, "20"), "iwae": (84.78, "25")},
    (2, 1): {"vae": (85.33, "16+5"), "iwae": (85.33, "16+5")},
    (2, 5): {"vae": (85.01, "17+5"), "iwae": (83.89, "21+5")},
    (2, 50): {"vae": (84.78, "17+5"), "iwae": (82.90, "26+7")},
}
# github.com/nbip/IWAE, the same schedule.
REPRODUCED = {
    (1, 1): {"vae": 86.35, "iwae": 86.35, "dreg": 86.08},
    (1, 5): {"vae": 86.10, "iwae": 85.18, "dreg": 84.90},
    (1, 50): {"vae": 86.06, "iwae": 84.59, "dreg": 84.32},
    (2, 1): {"vae": 84.83, "iwae": 84.83},
    (2, 5): {"vae": 84.08, "iwae": 83.48},
    (2, 50): {"vae": 83.89, "iwae": 82.82},
}


class Schedule(NamedTuple):
    """How long and in which batches: stage i of `STAGES` has 3^(i-1) times the steps of the first."""

    first_stage: int  # steps
    batch_size: int
    learning_rate: float  # in the first stage; a tenth of it in the last
    log_every: int
    save_every: int

    @property
    def steps(self) -> int:
        return self.first_stage * (3**STAGES - 1) // 2

    @property
    def milestones(self) -> tuple[int, ...]:
        """The first steps of the stages but the first."""
        return tuple(self.first_stage * (3**i - 1) // 2 for i in range(1, STAGES))


SCHEDULES = {
    "full": Schedule(3000, batch_size=20, learning_rate=1e-3, log_every=3000, save_every=90_000),
    "medium": Schedule(150, batch_size=100, learning_rate=3e-3, log_every=600, save_every=6000),
    "short": Schedule(15, batch_size=100, learning_rate=3e-3, log_every=600, save_every=6000),
    "quick": Schedule(1, batch_size=20, learning_rate=3e-3, log_every=1640, save_every=3280),
}
NETWORKS = {
    1: {"model__hidden": (200, 200), "model__latent_dim": 50},
    2: {
        "model__hidden": (200, 200), "model__latent_layers": (100,), "model__layer_hidden": (100, 100),
        "model__latent_dim": 50,
    },
}  # fmt: skip
QUICK_NETWORKS = {
    1: {"model__hidden": (16,), "model__latent_dim": 4},
    2: {"model__hidden": (16,), "model__latent_layers": (4,), "model__layer_hidden": (8,), "model__latent_dim": 2},
}


class Cell(NamedTuple):
    """One number of the table."""

    layers: int
    k: int
    column: str
    schedule: str
    b1: float

    @property
    def trained_as(self) -> "Cell":
        """The cell whose training is this one's too."""
        column = SAME_WITH_ONE_SAMPLE.get(self.column, self.column) if self.k == 1 else self.column
        return self._replace(column=column)

    def directory(self, output: Path) -> Path:
        """Where the cell's runs are, a folder for each seed."""
        cell = self.trained_as
        return output / f"{cell.schedule},b1={cell.b1}" / f"layers={cell.layers},k={cell.k},{cell.column}"


def config_of(cell: Cell, *, data_dir: str | None = None) -> Config:
    """The settings of a cell's training and evaluation, but for the seed and the devices."""
    schedule, quick = SCHEDULES[cell.schedule], cell.schedule == "quick"
    objective, estimator = COLUMNS[cell.column]
    return override(
        PRESETS["digits" if quick else "mnist"],
        **(QUICK_NETWORKS if quick else NETWORKS)[cell.layers],
        data__data_dir=data_dir,
        data__holdout=0.1 if quick else 0.0,
        data__binarization="dynamic",
        model__activation="tanh",
        model__scale_head="log-scale",
        objective__name=objective,
        objective__estimator=estimator,
        objective__num_samples=cell.k,
        optimizer__name="adam",
        optimizer__learning_rate=schedule.learning_rate,
        optimizer__schedule="staged",
        optimizer__milestones=schedule.milestones,
        optimizer__decay=10 ** (-1 / (STAGES - 1)),
        optimizer__b1=cell.b1,
        optimizer__b2=0.999,
        optimizer__eps=1e-4 / 20,  # theirs, on the gradient of the sum over 20 examples
        train__steps=schedule.steps,
        train__batch_size=schedule.batch_size,
        train__log_every=schedule.log_every,
        train__evaluate_every=0,
        train__save_every=schedule.save_every,
        evaluation__num_samples=20 if quick else 5000,
    )


def run_cell(cell: Cell, seeds: int, output: Path, *, data_dir: str | None, stop: Callable[[], bool]) -> list[str]:
    """Trains and evaluates the seeds of a cell that are not done yet, until `stop()` is true; what failed, in words."""
    cell = cell.trained_as
    directory, config = cell.directory(output), config_of(cell, data_dir=data_dir)
    todo = [seed for seed in range(seeds) if read_evaluation(directory / f"seed={seed}", config.train.steps) is None]
    if not todo:
        return []
    spread = [n for n in range(1, len(jax.devices()) + 1) if len(todo) % n == config.train.batch_size % n == 0]
    group = members(override(config, mesh__data=max(spread)), {"seed": todo})
    clock = Clock(directory / f"clock-of-seeds={','.join(map(str, todo))}.json", stop)
    trained = fit_group(group, directory, stop=clock)
    clock.write()
    try:
        results = evaluate_members(trained, stop=stop) if trained else []
    except Interrupted:
        return []
    return [result["failure"] for result in results if "failure" in result]


# --- The table -------------------------------------------------------------------------------------------------------


def row_of(cell: Cell, output: Path) -> dict[str, Any]:
    """What the table says of a cell, from the runs on disk; `seeds` is 0 where it was not run."""
    directory, steps = cell.directory(output), SCHEDULES[cell.schedule].steps
    paths = sorted(directory.glob("seed=*"), key=lambda path: int(path.name.partition("=")[2]))
    found = [result for path in paths if (result := read_evaluation(path, steps)) is not None]
    row: dict[str, Any] = cell._asdict() | {"seeds": len(found)}
    row["published"], row["published_active_units"] = PUBLISHED[cell.layers, cell.k].get(cell.column, (None, None))
    row["reproduced"] = REPRODUCED[cell.layers, cell.k].get(cell.column)
    if cell.schedule == "quick":
        row |= {"published": None, "published_active_units": None, "reproduced": None}
    if not found:
        return row
    units = [result.get("active_units_by_layer", [result["active_units"]]) for result in found]
    clocks = [json.loads(path.read_text()) for path in sorted(directory.glob("clock-of-seeds=*.json"))]
    return row | {
        "nll": mean_and_sd([result["nll"] for result in found]),
        "nll_se": max(result["nll_se"] for result in found),
        "elbo": mean_and_sd([result["elbo"] for result in found]),
        "num_samples": found[0]["num_samples"],
        "active_units": units,
        "seconds": sum(clock["seconds"] for clock in clocks),
        "device": "; ".join(dict.fromkeys(clock["device"] for clock in clocks)),
    }


def all_rows(asked: Sequence[Cell], output: Path) -> list[dict[str, Any]]:
    """The rows of every cell of the asked cells' schedule and b1, and of every other that has been run."""
    kinds = {(cell.schedule, cell.b1) for cell in asked}
    for path in output.glob("*,b1=*"):
        schedule, _, b1 = path.name.partition(",b1=")
        kinds.add((schedule, float(b1)))
    table = itertools.product(LAYERS, SAMPLES, COLUMNS, sorted(kinds))
    rows = [row_of(Cell(layers, k, column, *kind), output) for layers, k, column, kind in table]
    wanted = {(cell.schedule, cell.b1) for cell in asked}
    return [row for row in rows if row["seeds"] or (row["schedule"], row["b1"]) in wanted]


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The table, and what a shorter schedule loses where a cell has been run with the full one, too."""

    def number(mean: float | None, sd: float | None = None) -> str:
        return "" if mean is None else f"{mean:.2f}" + ("" if sd is None else f" ± {sd:.2f}")

    def units(row: dict[str, Any]) -> str:
        return "+".join(f"{np.mean(layer):.3g}" for layer in zip(*row["active_units"], strict=True))

    titles = ["layers", "k", "column", "published", "reproduced elsewhere", "ours, mean ± sd", "seeds",
              "active units, published", "active units, ours", "schedule", "b1", "seconds", "device"]  # fmt: skip
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for row in rows:
        cells = [row["layers"], row["k"], row["column"], number(row["published"]), number(row["reproduced"])]
        ran = row["seeds"] > 0
        cells += [number(**row["nll"]) if ran else "not run", row["seeds"] or ""]
        cells += [row["published_active_units"] or "", units(row) if ran else "", row["schedule"], row["b1"]]
        cells += [f"{row['seconds']:.0f}", row["device"]] if ran else ["", ""]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    lines += ["", 'NLL in nats on all test images. The columns that say "ours" are means over seeds.']
    if any(row["seeds"] for row in rows):
        samples = {row["num_samples"] for row in rows if row["seeds"]}
        error = max(row["nll_se"] for row in rows if row["seeds"])
        lines.append(
            f"K = {', '.join(map(str, sorted(samples)))}; the standard error over the test images, which all models "
            f"share, is at most {error:.2f}. With k = 1, vae and iwae are one training, and so are stl and dreg."
        )
    return "\n".join([*lines, *losses(rows)]) + "\n"


def losses(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """A line for each shorter schedule and b1 on the nats that it loses against the full, where both were run."""
    nll = {tuple(row[name] for name in Cell._fields): row["nll"]["mean"] for row in rows if row["seeds"]}
    for schedule, b1 in itertools.product(("medium", "short"), sorted({row["b1"] for row in rows})):
        lost = {
            cell[:3]: nll[cell] - nll[(*cell[:3], "full", b1)]
            for cell in nll
            if cell[3:] == (schedule, b1) and (*cell[:3], "full", b1) in nll
        }
        if lost:
            told = ", ".join(f"{layers} layer(s) k = {k} {column} {d:+.2f}" for (layers, k, column), d in lost.items())
            yield f"The {schedule} schedule against the full one, b1 = {b1}, in nats: {told}."


def draw(path: Path, rows: Sequence[dict[str, Any]], *, title: str) -> None:
    """NLL against k, a panel for each number of layers: what was measured, what was published, what others found."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.4), dpi=110, layout="constrained")
    figure.suptitle(title)
    for axes, layers in zip(figure.subplots(1, len(LAYERS)), LAYERS, strict=True):
        for i, column in enumerate(COLUMNS):
            mine = [row for row in rows if (row["layers"], row["column"]) == (layers, column)]
            ran = [row for row in mine if row["seeds"]]
            if ran:
                k, mean = [row["k"] for row in ran], [row["nll"]["mean"] for row in ran]
                error = [row["nll"]["sd"] or 0 for row in ran]
                axes.errorbar(k, mean, error, color=f"C{i}", marker="o", capsize=3, label=f"{column}, ours")
            for source, style in (("published", "--"), ("reproduced", ":")):
                points = [(row["k"], row[source]) for row in mine if row[source] is not None]
                if points:
                    label = f"{column}, {source}"
                    axes.plot(*zip(*points, strict=True), style, color=f"C{i}", marker="x", alpha=0.6, label=label)
        axes.set(xscale="log", xticks=SAMPLES, xticklabels=map(str, SAMPLES), xlabel="samples k", ylabel="NLL, nats")
        axes.minorticks_off()
        axes.set_title(f"{layers} stochastic layer{'s' if layers > 1 else ''}")
        axes.grid(alpha=0.3)
        if axes.has_data():
            axes.legend(fontsize=7)
    atomic_files.write_file(path, lambda file: FigureCanvasAgg(figure).print_png(file))


def write(asked: Sequence[Cell], output: Path) -> tuple[list[dict[str, Any]], str]:
    """Writes table.json, table.md and table.png from what is on disk, and returns the rows and the table."""
    rows = all_rows(asked, output)
    text = markdown(rows)
    atomic_files.write_json(output / "table.json", rows)
    atomic_files.write_file(output / "table.md", lambda file: file.write(text.encode()))
    schedule, b1 = asked[0].schedule, asked[0].b1
    own = [row for row in rows if (row["schedule"], row["b1"]) == (schedule, b1)]
    draw(output / "table.png", own, title=f"NLL of the test images, schedule {schedule}, b1 = {b1}")
    return rows, text


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Runs the cells asked for, writes the table and the figure, prints the table, and returns its rows."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--layers", type=int, nargs="+", choices=LAYERS, default=LAYERS, help="stochastic layers")
    parser.add_argument("--k", type=int, nargs="+", choices=SAMPLES, default=SAMPLES, help="samples in training")
    parser.add_argument("--columns", nargs="+", choices=COLUMNS, default=list(COLUMNS), help="ways to train")
    parser.add_argument("--seeds", type=int, default=3, help="0, 1, ..., side by side")
    parser.add_argument("--schedule", choices=[name for name in SCHEDULES if name != "quick"], default="full")
    parser.add_argument("--b1", type=float, default=0.9, help="Adam's: 0.9 in the paper, 0.99 in their program")
    parser.add_argument("--quick", action="store_true", help="small digits, tiny networks: the same code in seconds")
    parser.add_argument("--data-dir", help="where prepared data sets are")
    parser.add_argument("--output", type=Path, default=Path("runs/iwae_table1"), help="where the runs and results go")
    asked = parser.parse_args(argv)
    if asked.seeds < 1:
        parser.error("--seeds must be 1 or more")
    schedule = "quick" if asked.quick else asked.schedule
    cells = [
        Cell(layers, k, column, schedule, asked.b1)
        for layers, k, column in itertools.product(asked.layers, asked.k, asked.columns)
    ]
    failures, status = {}, "done"
    with signals.stop_on_signals() as stop:
        for i, cell in enumerate(cells, start=1):
            told = ", ".join(f"{name} {value}" for name, value in cell._asdict().items())
            print(f"cell {i} of {len(cells)}: {told}", file=sys.stderr)
            failed = run_cell(cell, asked.seeds, asked.output, data_dir=asked.data_dir, stop=stop)
            failures |= {str(cell.directory(asked.output)): reason for reason in failed}
            rows, text = write(cells, asked.output)
            if stop():
                print("interrupted, saved; the same command goes on", file=sys.stderr)
                status = "interrupted"
                break
    print(text, file=sys.stderr)
    return {"output": str(asked.output), "status": status, "failures": failures, "rows": rows}


if __name__ == "__main__":
    try:
        print(json.dumps(main()))
    except VaeJaxError as error:
        raise SystemExit(str(error)) from None
