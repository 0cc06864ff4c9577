"""Quantizers of equal size: the bound with each prior of codes, the use of the codebook, and samples of each prior.

    vae-jax data prepare mnist
    python experiments/codes.py            # --quick: digits of scikit-learn, a few steps

Each cell but the last encodes an image by about 128 bits:

    fsq             16 codes of 240, each three numbers rounded to 8, 6 and 5 values
    vq              16 codes of 256, a codebook that follows the averages of its encodings
    vq-gradient     the same, a codebook that the optimizer moves
    residual-vq     8 places with 2 codes of 256 each
    gumbel-softmax  16 codes of 256 that are random given the image, by which the KL is smaller than the code length
    fsq-8           8 codes of 240, 63 bits, trained for 20 epochs

The rest is that of the preset `mnist-vq` with `prior=uniform-codes`: binarized MNIST, an MLP 784-512-512 and its
mirror, 50 epochs. Then priors are fitted to the codes of the training images: `categorical-codes`, and
`transformer-codes` with 2 layers of width 64 by 6,000 updates with 128 images. The bound is
-log p(x) <= -log p(x|z) - log p(z) on all 10,000 test images, in nats, and the negative ELBO for gumbel-softmax;
smaller is better.

10,000 samples of each prior are decoded to the means of p(x|z). They are compared with the test images by the features
of the classifier of gan_comparison.py: Fréchet distance, precision, recall and sharpness (see image_scores.py), for
grey and for thresholded images. The row `training images` is the best score that can be expected, and the row
`reconstructions` that of the decoder: the means of p(x|z) of the codes of 10,000 training images.

Results of 2026-11-30 (one core of an AMD EPYC, Python 3.11, jax 0.10.2, seed 0), bounds in nats; Fréchet distances of
grey images: training images 2.3, reconstructions of fsq 14.5 and of fsq-8 15.1. fsq was run with `--updates 2000`. The
other cells are not measured:

                 -log p(x|z)   uniform           categorical       transformer
    fsq              43.00     130.69 ± 0.18     127.46 ± 0.19     123.35 ± 0.21
      Fréchet                  711               714               417
    fsq-8            60.80     104.64 ± 0.22     103.64 ± 0.22      98.61 ± 0.24
      Fréchet                  482               455                67.7

DIR (runs/codes, or runs/codes-quick with --quick) contains a run for each cell, with the numbers and the images of each
prior; codes.json, codes.md, and codes.png with samples of each prior. SIGTERM and SIGINT save the training; the same
command resumes, and trains and fits nothing twice.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cells
import gan_comparison
import numpy as np
from gan_comparison import ModelOutput, Settings, cached, make_scorer
from image_scores import DOMAINS, Scores, score_tables, summarize

from vae_jax.config import PRESETS, Config, choice, flatten, override
from vae_jax.errors import VaeJaxError
from vae_jax.inference import Params
from vae_jax.models import PriorConfig
from vae_jax.runs import (
    Experiment,
    FitSettings,
    Interrupted,
    build_experiment,
    decode_codes,
    default_callbacks,
    encode_examples,
    evaluate_run,
    fit,
    fit_prior,
    image_grids,
    prepare_experiment,
)
from vae_jax.runtime import atomic_files, signals

CELLS: dict[str, dict[str, Any]] = {
    "fsq": {"posterior": "fsq", "posterior__levels": (8, 6, 5)},
    "vq": {"posterior": "vq", "posterior__codebook_size": 256},
    "vq-gradient": {"posterior": "vq", "posterior__codebook_size": 256, "posterior__update": "gradient"},
    "residual-vq": {
        "posterior": "residual-vq",
        "posterior__codebook_size": 256,
        "posterior__num_levels": 2,
        "model__places": 8,
    },
    "gumbel-softmax": {"posterior": "gumbel-softmax", "posterior__codebook_size": 256},
    "fsq-8": {"posterior": "fsq", "posterior__levels": (8, 6, 5), "model__places": 8, "train__steps": 9180},
}
PRIORS: dict[str, PriorConfig] = {
    "uniform-codes": choice("prior", "uniform-codes"),
    "categorical-codes": choice("prior", "categorical-codes"),
    "transformer-codes": choice("prior", "transformer-codes", layers=2, width=64),
}
METRICS = ("elbo", "elbo_se", "reconstruction", "code_perplexity", "code_usage", "bits_per_code")
SHOWN = 16  # samples in a row of the figure


def config_of(name: str, *, quick: bool = False) -> Config:
    """Return the settings of a cell."""
    config = override(PRESETS["mnist-vq"], prior="uniform-codes", evaluation__num_samples=0, **CELLS[name])
    if not quick:
        return config
    return override(config, data__name="digits", network__hidden=(16,), train__steps=20, train__log_every=10,
                    train__evaluate_every=0, train__save_every=20, train__batch_size=16)  # fmt: skip


def as_images(experiment: Experiment, params: Params, z: np.ndarray) -> np.ndarray:
    """Decode codes [N, G] to 8-bit images: all scores are computed on these."""
    return np.round(255 * decode_codes(experiment, params, z)).astype(np.uint8)


def fit_and_sample(experiment: Experiment, params: Params, name: str, count: int, settings: FitSettings) -> ModelOutput:
    """Fit a prior; return the numbers of the test images, log p(z) of both splits, and `count` images."""
    prior = PRIORS[name]
    settings = FitSettings() if name == "uniform-codes" else settings
    fitted = fit_prior(experiment, params, prior, settings, log=lambda line: print(line, file=sys.stderr))
    result = evaluate_run(*fitted.replace_prior(experiment, params), split="test")
    key = experiment.evaluation_key("test")
    numbers = {metric: result[metric] for metric in METRICS}
    numbers |= {split: fitted.summary[split]["log_prob"] for split in ("train", "validation")}
    return ModelOutput(numbers, {"samples": as_images(experiment, params, fitted.sample(key, count))})


def reconstruct(experiment: Experiment, params: Params, count: int) -> ModelOutput:
    """Return the means of p(x|z) of the codes of the last training images."""
    last = {name: array[-count:] for name, array in experiment.dataset("train").arrays.items()}
    codes = encode_examples(experiment, params, experiment.evaluation_key("test"), last, with_seen=False)["mean"]
    return ModelOutput({}, {"samples": as_images(experiment, params, codes)})


def run_cell(
    config: Config, directory: Path, count: int, settings: FitSettings, stop: Callable[[], bool]
) -> dict[str, ModelOutput]:
    """Train or resume a cell, fit its priors, and return the output of each; raise Interrupted if `stop()` is true."""
    experiment, placement = prepare_experiment(config, directory)
    trained = fit(experiment, directory, placement, callbacks=default_callbacks(stop))
    if trained.status == "interrupted":
        raise Interrupted
    outputs = {}
    for name, prior in PRIORS.items():
        described = {"model": flatten(config), "count": count, "prior": repr(prior), "fit": repr(settings)}
        described = json.loads(json.dumps(described))
        make = lambda name=name: fit_and_sample(experiment, trained.params, name, count, settings)  # noqa: E731
        outputs[name] = cached(directory / f"{name}.npz", described, make)
        if stop():
            raise Interrupted
    return outputs | {"reconstructions": reconstruct(experiment, trained.params, count)}


def score(outputs: dict[str, dict[str, ModelOutput]], scale: Settings, experiment: Experiment) -> dict[str, Any]:
    """Return the scores of the images of all cells, and the accuracy of the classifier."""
    images, labels, test, test_labels = (
        experiment.dataset(split).arrays[name] for split in ("train", "test") for name in ("x", "y")
    )
    scorer = make_scorer(scale, images, labels, test)
    rows = {"training images": images[scale.classifier_images :][: scale.count]}
    for cell, of_cell in outputs.items():
        rows |= {f"{cell}, {name}": output.images["samples"] for name, output in of_cell.items()}
    scores: dict[str, Scores] = {row: scorer.scores(x) for row, x in rows.items()}
    accuracy = {domain: scorer.accuracy(test_labels[: scale.count], domain) for domain in DOMAINS}
    return {"scores": {row: summarize([each]) for row, each in scores.items()}, "classifier_accuracy": accuracy}


def markdown(result: dict[str, Any]) -> str:
    """Return the tables in Markdown."""
    titles = ["quantizer", "-log p(x\\|z)", *(f"bound, {prior}" for prior in PRIORS), "bits per code", "perplexity",
              "usage"]  # fmt: skip
    lines = []
    for cell, of_cell in result["cells"].items():
        last = of_cell["transformer-codes"]
        bounds = [cells.number(-of_cell[prior]["elbo"], of_cell[prior]["elbo_se"]) for prior in PRIORS]
        bits = " / ".join(f"{of_cell[prior]['bits_per_code']:.2f}" for prior in PRIORS)
        use = [f"{last['code_perplexity']:.0f}", f"{100 * last['code_usage']:.0f} %"]
        lines.append([cell, cells.number(-last["reconstruction"]), *bounds, bits, *use])
    scores = score_tables(result["scores"], result["classifier_accuracy"]) if "scores" in result else []
    return "\n".join([*cells.markdown_table(titles, lines), "", *scores]) + "\n"


def write(output: Path, result: dict[str, Any], outputs: dict[str, dict[str, ModelOutput]]) -> str:
    """Write codes.json, .md and .png; return the tables."""
    text = markdown(result)
    atomic_files.write_json(output / "codes.json", result)
    atomic_files.write_file(output / "codes.md", lambda file: file.write(text.encode()))
    groups = [
        {f"{cell}, {prior}": of_cell[prior].images["samples"][:SHOWN] for prior in PRIORS}
        for cell, of_cell in outputs.items()
    ]
    image_grids.save_comparison(output / "codes.png", groups, title="Decoded samples of each prior of codes")
    return text


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the cells, write and print the tables, and return the numbers."""
    parser = argparse.ArgumentParser(description="Quantizers of equal size and their priors.")
    parser.add_argument("--cells", nargs="+", choices=list(CELLS), default=list(CELLS))
    parser.add_argument("--updates", type=int, default=6000, help="updates of a fitted prior")
    parser.add_argument("--no-scores", action="store_true", help="bounds and samples, without the classifier")
    parser.add_argument("--quick", action="store_true", help="a small size, to try the program")
    parser.add_argument("--output", type=Path, help="default: runs/codes, or runs/codes-quick")
    options = parser.parse_args(argv)
    output = options.output or Path("runs/codes-quick" if options.quick else "runs/codes")
    atomic_files.check_writable(output, "--output")
    scale = gan_comparison.QUICK if options.quick else gan_comparison.FULL
    settings = FitSettings(steps=options.updates, batch_size=128)
    outputs: dict[str, dict[str, ModelOutput]] = {}
    try:
        with signals.stop_on_signals() as stop:
            for name in options.cells:
                config = config_of(name, quick=options.quick)
                outputs[name] = run_cell(config, output / name, scale.count, settings, stop)
    except Interrupted:
        print("interrupted, saved; the same command resumes", file=sys.stderr)
        return {"output": str(output), "status": "interrupted"}
    numbers = {cell: {prior: of_cell[prior].numbers for prior in PRIORS} for cell, of_cell in outputs.items()}
    result: dict[str, Any] = {"cells": numbers}
    if not options.no_scores:
        result |= score(outputs, scale, build_experiment(config_of("fsq", quick=options.quick)))
    print(write(output, result, outputs), file=sys.stderr)
    return {"output": str(output), "status": "done"} | result


if __name__ == "__main__":
    try:
        print(json.dumps(main()))
    except VaeJaxError as error:
        raise SystemExit(str(error)) from None
