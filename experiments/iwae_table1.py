"""Table 1 of "Importance Weighted Autoencoders" on MNIST, with two additional columns.

    vae-jax data prepare mnist
    python experiments/iwae_table1.py --layers 1 --k 1 --columns vae     # one cell; without flags: all cells

The NLL is -log p(x) of the test images in nats, by importance sampling with K = 5000; smaller is better. The models
have one or two stochastic layers and are trained with k = 1, 5 or 50 posterior samples in four ways. The first two are
those of the published table:

    vae     the mean of k log weights (the sampled ELBO), pathwise gradient
    iwae    the log of the mean of k weights (Burda et al., arXiv 1509.00519), pathwise gradient
    stl     as vae, sticking the landing (Roeder et al., arXiv 1703.09194)
    dreg    as iwae, doubly reparameterized (Tucker et al., arXiv 1810.04152)

With k = 1, vae and iwae are one objective, and stl and dreg have one gradient: one training serves both cells.

The protocol is that of the authors (experiments/iwae_protocol.py):
- All 60,000 training images. Each time an image is used, in training and evaluation, each pixel is sampled again from
  Bernoulli(pixel/255). Batches of 20.
- Eight stages i = 1, ..., 8 of 3^(i-1) epochs with the learning rate 1e-3 · 10^(-(i-1)/7): 3,280 epochs, which are
  9,840,000 steps; no early stopping.
- Adam with b2 = 0.999 and eps = 1e-4 on the gradient of the *sum* over the 20 images, which is 5e-6 on the gradient of
  the mean in this package; b1 = 0.9 as in the paper, or `--b1 0.99` as in the authors' program.
- tanh networks: 784-200-200-50 and its mirror; or 784-200-200-100, 100-100-100-50 and their mirrors. Gaussian heads
  have a linear mean and σ = exp(linear), and every kernel has a Glorot uniform initialization:
  `posterior.scale_head log-scale`. (The presets' σ = exp(s/2) starts at 1, and Adam, whose steps do not depend on the
  scale of the gradient, changes its log σ at half the speed.) The initial bias of the output is
  logit(clip(mean image, 0.001, 0.999)).
- A unit is active if the variance of its posterior mean over the test images is above 0.01.

`--schedule short` takes minutes on two cores: the same eight stages in 82 epochs with batches of 100 and three times
the learning rate, 49,200 steps instead of 9,840,000. `--schedule medium` is ten times as long, 820 epochs. In the cell
that was run with all three (one layer, k = 1: 86.31 with the full one), the short and the medium schedule lose 5.37 and
0.97 nats. Numbers of one schedule can be compared with each other. Those of the short schedule cannot be compared with
the published ones, nor can its active units of the first of two layers: nearly all 100 of them still vary and follow
the prior that the second layer predicts. For vae with k = 1, the medium schedule ends with 20 such units, the published
table with 16.

The seeds of a cell are trained in one program (`vae_jax.runs.fit_group`), on as many devices as divide both the number
of seeds and the batch. Each seed has a run directory below DIR (runs/iwae_table1). table.md, table.json and table.png
in DIR contain all cells found there, of this command and of earlier ones. SIGTERM and SIGINT save the training after
the current dispatch; a partial evaluation is discarded. The same command resumes, and trains and evaluates nothing
twice. If the process was killed, it repeats at most 90,000 steps of the full schedule. A larger `--seeds` adds to the
finished seeds. The seconds of a cell are those of training, over all processes and seeds.

Time: 85 minutes for the training of the first cell (one layer, k = 1, one seed, the full schedule) on one core, by
`taskset -c 1`, with other work on the other core: 1,936 steps a second. With k = 5, the training started at 840 steps a
second: about 3.3 hours. On a core of an Intel Xeon it started at 415, and at 570 with two layers and k = 1: 6.5 and 4.8
hours; on a core of an EPYC without AVX-512, with k = 5, at 285: 9.6 hours. The short schedule takes 1.5 to 3.5 minutes
with k = 1, and 5 to 10 or more with k = 5, on one core; with k = 50, a step took 95 to 165 ms on one core of the Xeon,
and a cell 90 minutes or more, with other work on the other core. The medium schedule took 30 minutes with k = 1, 46
with two layers, and 140 with k = 5 on a core of that EPYC, with the other column on the other core. On one H100 (jax
0.11.2), a step of the full schedule with k = 5 took 145 us, which is 24 minutes in total, and 156 us with three seeds
in one program; a step of the short schedule with k = 50 took 346 us.
Results of 2026-11-24 (full) and 2026-11-25 (short; AMD EPYC with AVX-512), and of 2026-11-26 and 27 (medium, stl with
k = 5, all with k = 50; Intel Xeon with AVX-512; medium with k = 5: AMD EPYC without), all with Python 3.11.7 and jax
0.10.2, NLL in nats. `elsewhere` is the reproduction at github.com/nbip/IWAE:

    layers  k  column       schedule  published   elsewhere  this package    active units (published)
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

One seed each; ± is the standard error over the test images, which all models share. All other cells: not run. The
posterior mean of an upper unit is estimated with 50 samples. The counts above include the variance of this estimate.
Since 2026-11-27 it is subtracted, which changes none of the four cells that were counted again (k = 5 stl, k = 50 stl,
iwae and dreg).
"""

import argparse
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cells
from cells import number
from iwae_protocol import COLUMNS, LAYERS, PUBLISHED, REPRODUCED, SAMPLES, SCHEDULES, Cell, config_of

from vae_jax.errors import VaeJaxError
from vae_jax.runtime import atomic_files


def row_of(cell: Cell, output: Path) -> dict[str, Any]:
    """Return the table's row of a cell, from the runs on disk; `seeds` is 0 if it was not run."""
    row: dict[str, Any] = cell._asdict()
    row["published"], row["published_active_units"] = PUBLISHED[cell.layers, cell.k].get(cell.column, (None, None))
    row["reproduced"] = REPRODUCED[cell.layers, cell.k].get(cell.column)
    if cell.schedule == "quick":
        row |= {"published": None, "published_active_units": None, "reproduced": None}
    return row | cells.summarize_cell(cell.directory(output), SCHEDULES[cell.schedule].steps)


def all_rows(requested: Sequence[Cell], output: Path) -> list[dict[str, Any]]:
    """Return the rows of every cell with the requested schedules and b1, and of every other cell that was run."""
    kinds = {(cell.schedule, cell.b1) for cell in requested}
    for path in output.glob("*,b1=*"):
        schedule, _, b1 = path.name.partition(",b1=")
        kinds.add((schedule, float(b1)))
    table = itertools.product(LAYERS, SAMPLES, COLUMNS, sorted(kinds))
    rows = [row_of(Cell(layers, k, column, *kind), output) for layers, k, column, kind in table]
    shown = {(cell.schedule, cell.b1) for cell in requested}
    return [row for row in rows if row["seeds"] or (row["schedule"], row["b1"]) in shown]


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """Return the table, and the loss of a shorter schedule in cells that were run with the full one too."""

    titles = [
        "layers", "k", "column", "published", "reproduced elsewhere", "this package, mean ± sd", "seeds",
        "active units, published", "active units, this package", "schedule", "b1", "seconds", "device",
    ]  # fmt: skip
    table = []
    for row in rows:
        line = [row["layers"], row["k"], row["column"], number(row["published"]), number(row["reproduced"])]
        ran = row["seeds"] > 0
        line += [number(**row["nll"]) if ran else "not run", row["seeds"] or "", row["published_active_units"] or ""]
        line += [cells.mean_active_units(row) if ran else "", row["schedule"], row["b1"]]
        table.append(line + ([f"{row['seconds']:.0f}", row["device"]] if ran else ["", ""]))
    lines = cells.markdown_table(titles, table)
    lines += ["", "NLL in nats on all test images. The columns of this package are means over seeds."]
    if any(row["seeds"] for row in rows):
        samples = {row["num_samples"] for row in rows if row["seeds"]}
        error = max(row["nll_se"] for row in rows if row["seeds"])
        lines.append(
            f"K = {', '.join(map(str, sorted(samples)))}; the standard error over the test images, which all models "
            f"share, is at most {error:.2f}. With k = 1, vae and iwae are one training, and so are stl and dreg."
        )
    return "\n".join([*lines, *losses(rows)]) + "\n"


def losses(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield a line for each shorter schedule and b1: its loss in nats against the full one, where both were run."""
    nll = {tuple(row[name] for name in Cell._fields): row["nll"]["mean"] for row in rows if row["seeds"]}
    for schedule, b1 in itertools.product(("medium", "short"), sorted({row["b1"] for row in rows})):
        lost = {
            cell[:3]: nll[cell] - nll[(*cell[:3], "full", b1)]
            for cell in nll
            if cell[3:] == (schedule, b1) and (*cell[:3], "full", b1) in nll
        }
        if lost:
            text = ", ".join(f"{layers} layer(s) k = {k} {column} {d:+.2f}" for (layers, k, column), d in lost.items())
            yield f"The {schedule} schedule against the full one, b1 = {b1}, in nats: {text}."


def plot(path: Path, rows: Sequence[dict[str, Any]], *, title: str) -> None:
    """Plot measured, published and reproduced NLL against k, with a panel for each number of layers."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.4), dpi=110, layout="constrained")
    figure.suptitle(title)
    for axes, layers in zip(figure.subplots(1, len(LAYERS)), LAYERS, strict=True):
        for i, column in enumerate(COLUMNS):
            column_rows = [row for row in rows if (row["layers"], row["column"]) == (layers, column)]
            ran = [row for row in column_rows if row["seeds"]]
            if ran:
                k, mean = [row["k"] for row in ran], [row["nll"]["mean"] for row in ran]
                error = [row["nll"]["sd"] or 0 for row in ran]
                axes.errorbar(k, mean, error, color=f"C{i}", marker="o", capsize=3, label=f"{column}, this package")
            for source, style in (("published", "--"), ("reproduced", ":")):
                points = [(row["k"], row[source]) for row in column_rows if row[source] is not None]
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


def write(requested: Sequence[Cell], output: Path) -> tuple[list[dict[str, Any]], str]:
    """Write table.json, table.md and table.png from the results on disk; return the rows and the table."""
    rows = all_rows(requested, output)
    text = markdown(rows)
    cells.write_table(output, rows, text)
    schedule, b1 = requested[0].schedule, requested[0].b1
    plotted = [row for row in rows if (row["schedule"], row["b1"]) == (schedule, b1)]
    plot(output / "table.png", plotted, title=f"NLL of the test images, schedule {schedule}, b1 = {b1}")
    return rows, text


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the requested cells; write the table and the figure, print the table, and return its rows."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--layers", type=int, nargs="+", choices=LAYERS, default=LAYERS, help="stochastic layers")
    parser.add_argument("--k", type=int, nargs="+", choices=SAMPLES, default=SAMPLES, help="samples in training")
    parser.add_argument("--columns", nargs="+", choices=COLUMNS, default=list(COLUMNS), help="ways to train")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds, 0, 1, ..., trained in one program")
    parser.add_argument("--schedule", choices=[name for name in SCHEDULES if name != "quick"], default="full")
    parser.add_argument("--b1", type=float, default=0.9, help="of Adam: 0.9 in the paper, 0.99 in the authors' program")
    parser.add_argument("--quick", action="store_true", help="small digits and networks, to test the code")
    parser.add_argument("--data-dir", help="folder of prepared data sets")
    parser.add_argument("--output", type=Path, default=Path("runs/iwae_table1"), help="folder for runs and results")
    options = parser.parse_args(argv)
    if options.seeds < 1:
        parser.error(f"--seeds={options.seeds} must be 1 or more")
    schedule = "quick" if options.quick else options.schedule
    requested = [
        Cell(layers, k, column, schedule, options.b1)
        for layers, k, column in itertools.product(options.layers, options.k, options.columns)
    ]
    planned = [
        cells.Planned(
            ", ".join(f"{name} {value}" for name, value in cell._asdict().items()),
            cell.directory(options.output),
            config_of(cell.trained_as, data_dir=options.data_dir),
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
