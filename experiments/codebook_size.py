"""FSQ and VQ against the number of codes: how many are used, and what the reconstruction gains from them.

    vae-jax data prepare mnist
    python experiments/codebook_size.py            # --quick: digits of scikit-learn, a few steps

A cell is a quantizer and 2^6, 2^8, 2^10, 2^11, 2^12 or 2^14 codes:

    fsq              levels of Mentzer et al., arXiv 2309.15505: 8x8, 8x6x5, 8x5x5x5, 8x8x6x5, 7x5x5x5x5, 8x8x8x6x5
    vq               moving averages, a start by k-means, and restarts of codes that are hardly used
    vq, no restarts  moving averages and a random start, vectors from N(0, I)
    vq, gradient     the same, but the optimizer moves the vectors (van den Oord et al., arXiv 1711.00937)

Binarized MNIST, an MLP 784-256 and its mirror, 16 places, vectors of 8 numbers for VQ, 1,000 steps with 64 images,
Adam with a learning rate of 0.002, seed 0, and no prior. The numbers are those of the 10,000 test images, 160,000
codes:

    usage            share of the codes that occur
    perplexity       exp of the entropy of the codes, all places together; bits are its logarithm to base 2
    -log p(x|z)      the reconstruction, in nats

Results of 2026-11-30 (one core of an AMD EPYC, Python 3.11, jax 0.10.2); the others are in docs/measurements.md:

                       codes     usage    perplexity   -log p(x|z)
    fsq                 1,920   100.0 %     1,714         67.30
    fsq                15,360    99.4 %    12,159         63.87
    vq                  2,048   100.0 %     1,924         65.05
    vq                 16,384    99.7 %    14,261         57.62
    vq, no restarts    16,384    99.6 %    14,342         56.71

Output in DIR (runs/codebook_size, or runs/codebook_size-quick with --quick): a run directory of each cell, table.json,
table.md and codebook_size.png. SIGTERM and SIGINT save the training; the same command resumes it, and trains no cell
twice.
"""

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cells

from vae_jax.config import PRESETS, Config, override
from vae_jax.errors import VaeJaxError
from vae_jax.runs import read_evaluation
from vae_jax.runtime import atomic_files

LEVELS = {
    6: (8, 8),
    8: (8, 6, 5),
    10: (8, 5, 5, 5),
    11: (8, 8, 6, 5),
    12: (7, 5, 5, 5, 5),
    14: (8, 8, 8, 6, 5),
}  # bits -> levels with about 2^bits codes
VQ = {"posterior": "vq", "posterior__code_dim": 8}
_RANDOM = {"posterior__restart_below": 0.0, "posterior__kmeans_steps": 0}
QUANTIZERS: dict[str, dict[str, Any]] = {
    "fsq": {"posterior": "fsq"},
    "vq": VQ,
    "vq, no restarts": VQ | _RANDOM,
    "vq, gradient": VQ | _RANDOM | {"posterior__update": "gradient"},
}


def config_of(quantizer: str, bits: int, *, quick: bool = False) -> Config:
    """Return the settings of a cell."""
    size = {"posterior__levels": LEVELS[bits]} if quantizer == "fsq" else {"posterior__codebook_size": 2**bits}
    config = override(
        PRESETS["mnist-vq"], prior="uniform-codes", network__hidden=(256,), optimizer__learning_rate=2e-3,
        train__steps=1000, train__batch_size=64, train__evaluate_every=0, train__save_every=500,
        train__log_every=100, evaluation__num_samples=1, evaluation__batch_size=250, **QUANTIZERS[quantizer], **size,
    )  # fmt: skip
    if not quick:
        return config
    return override(config, data__name="digits", network__hidden=(16,), train__steps=20, train__log_every=10,
                    train__save_every=20, train__batch_size=16)  # fmt: skip


def directory_of(output: Path, quantizer: str, bits: int) -> Path:
    """Return the directory of a cell."""
    return output / f"{quantizer.replace(', ', '-').replace(' ', '-')}-{bits}"


def read_rows(output: Path, planned: Sequence[tuple[str, int]], steps: int) -> list[dict[str, Any]]:
    """Return the rows of the cells that are evaluated after so many steps."""
    rows = []
    for quantizer, bits in planned:
        found = read_evaluation(directory_of(output, quantizer, bits) / "seed=0", steps)
        if found is not None:
            codes = math.prod(LEVELS[bits]) if quantizer == "fsq" else 2**bits
            row = {"quantizer": quantizer, "codes": codes, "usage": found["code_usage"]}
            row |= {"perplexity": found["code_perplexity"], "bits": math.log2(found["code_perplexity"])}
            rows.append(row | {"reconstruction": -found["reconstruction"], "images": found["num_examples"]})
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table."""
    titles = ["quantizer", "codes", "usage", "perplexity", "bits", "-log p(x\\|z)"]
    lines = [
        [row["quantizer"], row["codes"], f"{100 * row['usage']:.1f} %", f"{row['perplexity']:.0f}",
         f"{row['bits']:.2f}", cells.number(row["reconstruction"])]
        for row in rows
    ]  # fmt: skip
    return "\n".join(cells.markdown_table(titles, lines)) + "\n"


def plot(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write a figure of usage, perplexity, bits and reconstruction against the number of codes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    titles = {"usage": "share of the codes in use", "perplexity": "perplexity of the codes",
              "bits": "entropy of a code, bits", "reconstruction": "-log p(x|z), nats"}  # fmt: skip
    figure = Figure(figsize=(9, 6.4), dpi=110, layout="constrained")
    for axes, (name, title) in zip(figure.subplots(2, 2).flat, titles.items(), strict=True):
        for quantizer in dict.fromkeys(row["quantizer"] for row in rows):
            points = [(row["codes"], row[name]) for row in rows if row["quantizer"] == quantizer]
            axes.plot(*zip(*points, strict=True), marker="o", markersize=4, label=quantizer)
        axes.set_xscale("log", base=2)
        if name == "perplexity":
            axes.set_yscale("log", base=2)
        if name == "usage":
            axes.set_ylim(0, 1.05)
            axes.legend()
        axes.set(title=title, xlabel="codes")
        axes.grid(alpha=0.3)
    atomic_files.write_file(path, FigureCanvasAgg(figure).print_png)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Train and evaluate the cells, and write their table and figure."""
    parser = argparse.ArgumentParser(description="FSQ and VQ against the number of codes.")
    parser.add_argument("--quantizers", nargs="+", choices=list(QUANTIZERS), default=list(QUANTIZERS))
    parser.add_argument("--bits", nargs="+", type=int, choices=list(LEVELS), default=list(LEVELS))
    parser.add_argument("--quick", action="store_true", help="a small size, to try the program")
    parser.add_argument("--output", type=Path, help="default: runs/codebook_size, or runs/codebook_size-quick")
    options = parser.parse_args(argv)
    output = options.output or Path("runs/codebook_size-quick" if options.quick else "runs/codebook_size")
    atomic_files.check_writable(output, "--output")
    chosen = [(quantizer, bits) for quantizer in options.quantizers for bits in options.bits]
    everything = [(quantizer, bits) for quantizer in QUANTIZERS for bits in LEVELS]
    planned = [
        cells.Planned(f"{quantizer}, 2^{bits} codes", directory_of(output, quantizer, bits),
                      config_of(quantizer, bits, quick=options.quick))
        for quantizer, bits in chosen
    ]  # fmt: skip

    def write() -> tuple[cells.Rows, str]:
        rows = read_rows(output, everything, planned[0].config.train.steps)
        text = table(rows)
        cells.write_table(output, rows, text)
        if rows:
            plot(output / "codebook_size.png", rows)
        return rows, text

    return cells.run_table(planned, 1, write) | {"output": str(output)}


if __name__ == "__main__":
    try:
        print(json.dumps(main()))
    except VaeJaxError as error:
        raise SystemExit(str(error)) from None
