"""Does one latent represent each factor of variation? β-VAE, β-TC-VAE and MMD-VAE on sprites of known factors.

The images are the 92,160 sprites of `vae_jax.data.sprites`, 32x32 binary pixels: three shapes, 6 sizes, 20 rotations
and 16x16 positions. Each model is a 1024-256-256-10 MLP and its mirror with a Bernoulli likelihood, trained with Adam
and batches of 256 on 96 % of the images. The seeds and weights of one method are one program, a sweep.

    beta-vae      E log p(x|z) - β KL                     objective elbo,     over objective.beta
    beta-tc-vae   E log p(x|z) - I - β TC - Σ KL_d        objective beta-tc,  over objective.beta
    mmd-vae       E log p(x|z) - λ MMD²                   objective info-vae, over objective.mmd_weight, with beta=0

The code of an image is the mean of q(z|x). The metrics are those of `vae_jax.metrics` on the codes of all images:

    MIG            mutual information gap, from histograms of 20 bins (Chen et al., arXiv 1802.04942, report on dSprites
                   about 0.2 for β-TC-VAE and 0.06 for β-VAE)
    SAP            gap of the explained variance; the shape is a category
    D, C, I        disentanglement, completeness and informativeness by random forests, on 10,000 images
    FactorVAE      accuracy of votes for the fixed factor
    probe, kNN     accuracy for the shape of a linear probe and of 5 nearest neighbors: 5,000 images for training and
                   5,000 others
    ELBO, KL       nats, on the test images

    python experiments/disentanglement.py --output runs/disentanglement

The same command continues an interrupted run. The output folder (runs/disentanglement, or runs/disentanglement-quick
with --quick) contains table.md, table.json, a run directory for each model, and traversals.png: the decoded codes of
one image for each method and weight of seed 0, of which one latent varies in each row, those of the largest variance
first.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cells
import jax
import numpy as np

from vae_jax import data
from vae_jax.config import Config, override
from vae_jax.data.sprites import NUM_SPRITES
from vae_jax.errors import VaeJaxError
from vae_jax.metrics import factor_metrics, fit_linear_probe, neighbor_accuracy
from vae_jax.runs import (
    decode_codes,
    encode_examples,
    evaluate_run,
    fit_group,
    image_grids,
    make_members,
    mean_and_sd,
)
from vae_jax.runs.sweep import Trained
from vae_jax.runtime import atomic_files, signals


class Method(NamedTuple):
    """A method: its settings, and the setting and the weights that the sweep varies."""

    settings: dict[str, Any]
    varied: str
    weights: tuple[float, ...]


METHODS = {
    "beta-vae": Method({"objective": "elbo"}, "objective.beta", (1.0, 2.0, 4.0)),
    "beta-tc-vae": Method({"objective": "beta-tc"}, "objective.beta", (2.0, 4.0, 8.0)),
    "mmd-vae": Method({"objective": "info-vae", "objective__beta": 0.0}, "objective.mmd_weight", (100.0, 1000.0)),
}
METRICS = {  # heading: name
    "MIG": "mig", "SAP": "sap", "D": "disentanglement", "C": "completeness", "I": "informativeness",
    "FactorVAE": "factor_vae_score", "probe": "linear_probe", "kNN": "neighbors", "ELBO": "elbo", "KL": "kl",
}  # fmt: skip
SHAPE = 0  # the column of the factor that is a category
SHOWN, REACH, FRAMES = 6, 2.5, 9  # rows of a traversal, its largest value in standard deviations, and its columns


FEW = np.arange(0, NUM_SPRITES, 307)  # the numbers of the sprites with --quick: all values of all factors


@data.register_dataset("few-sprites")
def few_sprites() -> dict[str, dict[str, np.ndarray]]:
    """Return the data set of --quick, which takes no time to make."""
    return {"train": {"x": data.render_sprites(data.sprite_factors(FEW))}}


class Size(NamedTuple):
    """The data set with the numbers of its sprites, the networks, and the effort of the metrics."""

    data: str
    numbers: np.ndarray
    hidden: tuple[int, ...]
    probed: int  # images of the probes, and of DCI
    trees: int


FULL = Size("sprites", np.arange(NUM_SPRITES), (256, 256), 10_000, 20)
QUICK = Size("few-sprites", FEW, (8,), 200, 2)


def config_of(method: str, size: Size, *, steps: int, data_dir: str | None = None) -> Config:
    """Return the settings that all members of a method share."""
    return override(
        Config(), data__name=size.data, data__data_dir=data_dir, data__holdout=0.02, preprocess="threshold",
        network="mlp", network__hidden=size.hidden, network__activation="relu", model__latent_dim=10,
        likelihood="bernoulli", **METHODS[method].settings, optimizer__learning_rate=1e-3, schedule="cosine",
        train__steps=steps, train__batch_size=256, train__log_every=min(250, steps), train__evaluate_every=0,
        train__save_every=min(500, steps), evaluation__num_samples=0,
    )  # fmt: skip


class Images(NamedTuple):
    """Images and their factors, in random order: the first half trains the probes, see `Size.probed`."""

    x: np.ndarray  # uint8 [N, H, W, 1]
    factors: np.ndarray  # integers [N, 5]


def read_images(size: Size, data_dir: str | None) -> Images:
    """Return all images of the data set."""
    x = data.load(size.data, "train", data_dir=data_dir, holdout=0)
    order = np.random.default_rng(0).permutation(len(x))
    return Images(x[order], np.stack(data.sprite_factors(size.numbers[order]), axis=1))


def measure(member: Trained, images: Images, size: Size) -> dict[str, float]:
    """Return the metrics of a trained model."""
    experiment, _, params, _ = member
    codes = encode_examples(experiment, params, jax.random.key(0), {"x": images.x}, with_seen=False)["mean"]
    half, end = size.probed // 2, size.probed
    labels = images.factors[:, SHAPE]
    split = codes[:half], labels[:half], codes[half:end], labels[half:end]
    evaluated = evaluate_run(experiment, params, split="test")
    return {
        **factor_metrics(codes, images.factors, categories=[SHAPE], num_examples=size.probed, trees=size.trees),
        "linear_probe": fit_linear_probe(*split[:2]).accuracy(*split[2:]),
        "neighbors": neighbor_accuracy(*split),
        "elbo": evaluated["elbo"], "kl": evaluated["kl"], "active_units": evaluated["active_units"],
    }  # fmt: skip


def run_method(
    method: str, varied: dict[str, Sequence[float]], config: Config, output: Path, images: Images, size: Size, *,
    stop: Callable[[], bool],
) -> bool:  # fmt: skip
    """Train and measure the members of a method; return False if it was stopped."""
    members = make_members(config, varied)
    trained = fit_group(members, output / method, stop=stop)
    if trained is None:
        return False
    for member, result in zip(members, trained, strict=True):
        path = output / method / f"{member.name}.json"
        if stop():
            return False
        if result.params is None or _read_metrics(path, config.train.steps):
            continue
        measured = measure(result, images, size)
        if member.varied["seed"] == 0:
            frames = traverse(result, images)
            atomic_files.write_file(path.with_suffix(".npy"), lambda file, frames=frames: np.save(file, frames))
        about = {"method": method, "weight": member.varied[METHODS[method].varied], "steps": config.train.steps}
        atomic_files.write_json(path, about | measured)
        print(f"{method} {member.name}: MIG {measured['mig']:.3f}", file=sys.stderr, flush=True)
    return True


def _read_metrics(path: Path, steps: int) -> dict[str, Any] | None:
    """Return the metrics of a model after so many steps; None if they are not stored."""
    found = json.loads(path.read_text()) if path.exists() else {}
    return found if found.get("steps") == steps else None


def traverse(member: Trained, images: Images) -> np.ndarray:
    """Return decoded codes [SHOWN, FRAMES, H, W, 1] of the first image, one latent varied in each row."""
    experiment, _, params, _ = member
    codes = encode_examples(experiment, params, jax.random.key(0), {"x": images.x[:2000]}, with_seen=False)["mean"]
    scale = codes.std(axis=0)
    z = np.tile(codes[0], (SHOWN, FRAMES, 1))
    for row, number in enumerate(np.argsort(-scale)[:SHOWN]):
        z[row, :, number] = codes[:, number].mean() + scale[number] * np.linspace(-REACH, REACH, FRAMES)
    return decode_codes(experiment, params, z)


def summarize(output: Path, steps: int) -> cells.Rows:
    """Return a row for each method and weight after so many steps: the number of seeds, mean and sd of each metric."""
    rows = []
    for method in METHODS:
        stored = (_read_metrics(path, steps) for path in (output / method).glob("*,seed=*.json"))
        found = [metrics for metrics in stored if metrics]
        for weight in sorted({result["weight"] for result in found}):
            of_seeds = [result for result in found if result["weight"] == weight]
            names = (*METRICS.values(), "active_units")
            metrics = {name: mean_and_sd([result[name] for result in of_seeds]) for name in names}
            rows.append({"method": method, "weight": weight, "seeds": len(of_seeds), **metrics})
    return rows


def markdown(rows: cells.Rows, steps: int) -> str:
    """Return the table."""
    table = []
    for row in rows:
        texts = [f"{row[name]['mean']:.{2 if name in ('elbo', 'kl') else 3}f}" for name in METRICS.values()]
        sds = [row[name]["sd"] for name in METRICS.values()]
        texts = [text if sd is None else f"{text} ± {sd:.{2 if sd >= 1 else 3}f}" for text, sd in
                 zip(texts, sds, strict=True)]  # fmt: skip
        table.append([row["method"], f"{row['weight']:g}", row["seeds"], *texts, f"{row['active_units']['mean']:.1f}"])
    titles = ["method", "weight", "seeds", *METRICS, "active units"]
    return "\n".join([*cells.markdown_table(titles, table), "", f"Mean ± sd over seeds, {steps} steps."]) + "\n"


def write(output: Path, steps: int) -> tuple[cells.Rows, str]:
    """Write table.json, table.md and traversals.png from the results on disk; return the rows and the table."""
    rows = summarize(output, steps)
    text = markdown(rows, steps)
    cells.write_table(output, rows, text)
    groups = []
    for row in rows:
        method, weight = row["method"], row["weight"]
        path = output / method / f"{METHODS[method].varied}={weight},seed=0.npy"
        if path.exists():
            frames = np.load(path, allow_pickle=False)
            groups.append({f"{method} {weight:g}, {i}": images for i, images in enumerate(frames, start=1)})
    if groups:
        title = "Traversals: in each row one latent varies, the largest variance first"
        image_grids.save_comparison(output / "traversals.png", groups, title=title)
    return rows, text


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Train and measure the requested methods; write the table and the figure, print the table, return its rows."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--weights", nargs="+", type=float, help="weights of each method; default: those of the table")
    parser.add_argument("--steps", type=int, default=5000, help="training steps of each model")
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds, 0, 1, ...")
    parser.add_argument("--quick", action="store_true", help="small networks and few images, to test the code")
    parser.add_argument("--data-dir", help="folder of prepared data sets")
    parser.add_argument("--output", type=Path, help="default: runs/disentanglement, or runs/disentanglement-quick")
    options = parser.parse_args(argv)
    output = options.output or Path("runs/disentanglement-quick" if options.quick else "runs/disentanglement")
    size = QUICK if options.quick else FULL
    images, status = read_images(size, options.data_dir), "done"
    with signals.stop_on_signals() as stop:
        for method in options.methods:
            config = config_of(method, size, steps=options.steps, data_dir=options.data_dir)
            weights = options.weights or METHODS[method].weights
            varied = {METHODS[method].varied: weights, "seed": range(options.seeds)}
            if not run_method(method, varied, config, output, images, size, stop=stop):
                status = "interrupted"
                break
    rows, text = write(output, options.steps)
    print(text, file=sys.stderr)
    return {"status": status, "output": str(output), "rows": rows}


if __name__ == "__main__":
    try:
        print(json.dumps(main()))
    except VaeJaxError as error:
        raise SystemExit(str(error)) from None
