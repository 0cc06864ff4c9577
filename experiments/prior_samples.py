"""Samples of an autoencoder and of a VAE whose codes come from different densities, by the same scores.

    vae-jax data prepare mnist
    python experiments/prior_samples.py

The models are the presets `autoencoder` and `vae`: 784-1000-500-250-30 and its mirror, 30 numbers for each image of
MNIST, pixels divided by 255. After the training, codes are sampled from four densities, and decoded:

    N(0, I)          the prior of the VAE; the autoencoder has none
    Gaussian         one normal distribution with full covariance
    mixture of 10    ten normal distributions
    coupling flow    flow with eight affine couplings of width 256

All but the first are fitted by maximum likelihood to the codes of the training images (`vae_jax.runs.fit_prior`): the
codes of an autoencoder, and samples of q(z|x) of the VAE. The model does not change. The row `reconstructions` decodes
the codes of training images (means of q(z|x)): it separates the decoder's part of the distance from the density's part.

Images are compared with the 10,000 test images by the features of the classifier of gan_comparison.py: Fréchet
distance, precision, recall and sharpness (see image_scores.py), for grey and for thresholded images. The row `training
images` is the best score that can be expected. The last table contains the log density of the codes of validation
images under each fitted density, in nats: larger is better, and only the numbers of one model can be compared.
`--seeds` trains several of each model; all numbers are then mean ± standard deviation over seeds.

Output in DIR (runs/prior_samples, or runs/prior_samples-quick with --quick): a run directory and the images of each
model and seed, and prior_samples.md, .json and .png, which has a row of samples of each density. SIGTERM and SIGINT
save the training; the same command resumes, and trains and samples no model twice.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gan_comparison
import numpy as np
import pca_to_vae
from gan_comparison import ModelOutput, Settings, cached, make_scorer
from image_scores import DOMAINS, score_tables, score_text, summarize

from vae_jax.config import Config, choice, flatten, override
from vae_jax.errors import VaeJaxError
from vae_jax.inference import Params
from vae_jax.models import PriorConfig
from vae_jax.runs import (
    CodeReader,
    Experiment,
    FitSettings,
    Interrupted,
    build_experiment,
    decode_codes,
    default_callbacks,
    encode_examples,
    fit,
    fit_prior,
    image_grids,
    mean_and_sd,
    prepare_experiment,
    sample_prior,
)
from vae_jax.runtime import atomic_files, signals

MODELS = {"autoencoder": "autoencoder", "VAE": "vae"}  # name in the table -> preset
PRIOR = "N(0, I)"
DENSITIES: dict[str, PriorConfig] = {
    "Gaussian": choice("prior", "standard-normal"),
    "mixture of 10": choice("prior", "mixture", components=10),
    "coupling flow": choice("prior", "coupling", layers=8, hidden=(256,)),
}
SHOWN = 16  # samples in a row of the figure


def as_images(experiment: Experiment, params: Params, z: np.ndarray) -> np.ndarray:
    """Decode codes [N, D] to 8-bit images: all scores are computed on these."""
    return np.round(255 * decode_codes(experiment, params, z)).astype(np.uint8)


def sample_all(experiment: Experiment, params: Params, count: int, fit_steps: int | None) -> ModelOutput:
    """Return `count` images of each density and reconstructions, and the log densities of held-out codes in nats."""
    key, seed, codes = experiment.evaluation_key("test"), int(experiment.seed), CodeReader(experiment, params)
    images, numbers = {PRIOR: as_images(experiment, params, sample_prior(experiment, params, key, count))}, {}
    for name, prior in DENSITIES.items():
        settings = FitSettings(steps=None if prior.name == "standard-normal" else fit_steps, seed=seed)
        fitted = fit_prior(experiment, params, prior, settings, codes=codes)
        numbers[name] = fitted.summary["validation"]["log_prob"]
        images[name] = as_images(experiment, params, fitted.sample(key, count))
    last = {name: array[-count:] for name, array in experiment.dataset("train").arrays.items()}
    means = encode_examples(experiment, params, key, last, with_seen=False)["mean"]
    return ModelOutput(numbers, images | {"reconstructions": as_images(experiment, params, means)})


def run_model(
    config: Config, directory: Path, count: int, fit_steps: int | None, stop: Callable[[], bool]
) -> ModelOutput:
    """Train or resume a model, and return its images and log densities; raise Interrupted if `stop()` is true."""

    def make() -> ModelOutput:
        experiment, placement = prepare_experiment(config, directory)
        trained = fit(experiment, directory, placement, callbacks=default_callbacks(stop))
        if trained.status == "interrupted":
            raise Interrupted
        return sample_all(experiment, trained.params, count, fit_steps)

    described = {"model": flatten(config), "count": count, "fit_steps": fit_steps}
    return cached(directory / "images.npz", json.loads(json.dumps(described)), make)


def markdown(result: dict[str, Any]) -> str:
    """Return the tables in Markdown."""
    lines = score_tables(result["scores"], result["classifier_accuracy"])
    lines += [f"| log density of codes, nats | {' | '.join(DENSITIES)} |", "|---" * (1 + len(DENSITIES)) + "|"]
    for model, numbers in result["log_densities"].items():
        lines.append(f"| {model} | " + " | ".join(score_text(numbers[name], 2) for name in DENSITIES) + " |")
    return "\n".join(lines) + "\n"


def compare(outputs: dict[str, list[ModelOutput]], scale: Settings, experiment: Experiment) -> dict[str, Any]:
    """Return the scores of the images of all models and seeds, {model: [output of a seed]}."""
    images, labels, test, test_labels = (
        experiment.dataset(split).arrays[name] for split in ("train", "test") for name in ("x", "y")
    )
    scorer = make_scorer(scale, images, labels, test)
    rows = {"training images": [images[scale.classifier_images :][: scale.count]]}
    for model, seeds in outputs.items():
        for name in ("reconstructions", PRIOR, *DENSITIES):
            rows[f"{model}, {name}"] = [seed.images[name] for seed in seeds]
    scores = {row: [scorer.scores(x) for x in sets] for row, sets in rows.items()}
    return {
        "classifier_accuracy": {d: scorer.accuracy(test_labels[: scale.count], d) for d in DOMAINS},
        "scores": {row: summarize(seeds) for row, seeds in scores.items()},
        "scores_of_seeds": scores,
        "log_densities": {
            model: {name: mean_and_sd([seed.numbers[name] for seed in seeds]) for name in DENSITIES}
            for model, seeds in outputs.items()
        },
    }


def write(output: Path, result: dict[str, Any], outputs: dict[str, list[ModelOutput]]) -> str:
    """Write prior_samples.json, .md and .png; return the tables."""
    text = markdown(result)
    atomic_files.write_json(output / "prior_samples.json", result)
    atomic_files.write_file(output / "prior_samples.md", lambda file: file.write(text.encode()))
    groups = [
        {f"{model}, {name}": seeds[0].images[name][:SHOWN] for name in (PRIOR, *DENSITIES)}
        for model, seeds in outputs.items()
    ]
    image_grids.save_comparison(output / "prior_samples.png", groups, title="Decoded samples of each density")
    return text


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the comparison, write and print the tables, and return the scores."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=1, help="number of seeds, 0, 1, ..., of each model")
    parser.add_argument("--fit-steps", type=int, help="updates of each fitted density; default: those of fit_prior")
    parser.add_argument("--quick", action="store_true", help="small digits and networks, to test the code")
    parser.add_argument("--output", type=Path, help="default: runs/prior_samples, or runs/prior_samples-quick")
    options = parser.parse_args(argv)
    output = options.output or Path("runs/prior_samples-quick" if options.quick else "runs/prior_samples")
    if options.seeds < 1:
        parser.error(f"--seeds={options.seeds} must be 1 or more")
    scale = gan_comparison.QUICK if options.quick else gan_comparison.FULL
    configs = {name: pca_to_vae.config_of(preset, quick=options.quick) for name, preset in MODELS.items()}

    def output_of(name: str, seed: int, stop: Callable[[], bool]) -> ModelOutput:
        directory, config = output / f"{MODELS[name]}-{seed}", override(configs[name], seed=seed)
        return run_model(config, directory, scale.count, options.fit_steps, stop)

    try:
        with signals.stop_on_signals() as stop:
            outputs = {name: [output_of(name, seed, stop) for seed in range(options.seeds)] for name in configs}
    except Interrupted:
        print("interrupted, saved; the same command resumes", file=sys.stderr)
        return {"output": str(output), "status": "interrupted"}
    result = compare(outputs, scale, build_experiment(configs["VAE"]))
    print(write(output, result, outputs), file=sys.stderr)
    return {"output": str(output), "status": "done", "scores": result["scores"]}


if __name__ == "__main__":
    try:
        print(json.dumps(main()))
    except VaeJaxError as error:
        raise SystemExit(str(error)) from None
