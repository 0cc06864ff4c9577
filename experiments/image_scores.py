"""Scores of generated images: Fréchet distance, precision, recall and sharpness, with the features of a classifier.

The scores compare a set of images with the test images. They depend on the classifier and on the number of images.
Compare them with each other and with the score of other real images, never with published numbers.
"""

import functools
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vae_jax.data import PreprocessConfig, ScaleConfig, ThresholdConfig
from vae_jax.distributions import Batch
from vae_jax.inference import Params
from vae_jax.metrics import frechet_distance, precision_recall
from vae_jax.models import ImageClassifier
from vae_jax.runs import mean_and_sd
from vae_jax.training import evaluate_examples

BATCH = 500  # images evaluated in one dispatch
# {domain: preprocessing before the scores are computed}
DOMAINS: dict[str, PreprocessConfig] = {"grey": ScaleConfig(), "thresholded": ThresholdConfig()}
SCORES = ("frechet_distance", "precision", "recall", "sharpness")

_DIGITS = {"frechet_distance": 2, "precision": 3, "recall": 3, "sharpness": 3}  # decimal places in the tables

Scores = dict[str, dict[str, float]]  # {domain: {score: value}}


def sharpness(x: np.ndarray) -> float:
    """Compute the mean over images [N, H, W, C] of the variance of their Laplacian; blur lowers it."""
    x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge").astype(np.float32)
    neighbors = x[:, :-2, 1:-1] + x[:, 2:, 1:-1] + x[:, 1:-1, :-2] + x[:, 1:-1, 2:]
    return float((neighbors - 4 * x[:, 1:-1, 1:-1]).var(axis=(1, 2, 3)).mean(dtype=np.float64))


class Scorer:
    """Scores of uint8 images [N, H, W, C] against test images, from a classifier's features, in each of `DOMAINS`."""

    def __init__(self, classifier: ImageClassifier, params: Params, test: np.ndarray):
        def classify(params: Params, keys: Array, batch: Batch, preprocess: PreprocessConfig) -> dict[str, Array]:
            x = preprocess(keys, batch)["x"]
            features, logits = classifier.apply({"params": params}, x)
            return {"x": x, "features": features, "label": jnp.argmax(logits, axis=-1)}

        self.params = params
        self.programs = {
            domain: jax.jit(functools.partial(classify, preprocess=preprocess))
            for domain, preprocess in DOMAINS.items()
        }
        self.test = {domain: self.classify(test, domain) for domain in DOMAINS}

    def classify(self, images: np.ndarray, domain: str) -> dict[str, np.ndarray]:
        """Return the preprocessed images `x`, and the classifier's `features` and predicted `label`."""
        return evaluate_examples(self.programs[domain], self.params, jax.random.key(0), {"x": images}, batch_size=BATCH)

    def accuracy(self, labels: np.ndarray, domain: str) -> float:
        """Return the share of the test images that the classifier labels correctly."""
        return float((self.test[domain]["label"] == labels).mean())

    def scores(self, images: np.ndarray) -> Scores:
        """Return {domain: {score: value}}; sharpness is divided by that of the test images."""
        result = {}
        for domain, test in self.test.items():
            fake = self.classify(images, domain)
            precision, recall = precision_recall(test["features"], fake["features"])
            distance = frechet_distance(test["features"], fake["features"])
            values = (distance, precision, recall, sharpness(fake["x"]) / sharpness(test["x"]))
            result[domain] = dict(zip(SCORES, values, strict=True))
        return result


Summary = dict[str, dict[str, dict[str, float | None]]]  # {domain: {score: its mean and sd}}


def summarize(seeds: Sequence[Scores]) -> Summary:
    """Return the mean and sd of each score over seeds."""
    return {d: {score: mean_and_sd([scores[d][score] for scores in seeds]) for score in SCORES} for d in DOMAINS}


def score_text(value: Mapping[str, float | None], digits: int) -> str:
    """Return a mean and, if there is one, its standard deviation as text."""
    sd = value["sd"]
    return f"{value['mean']:.{digits}f}" + ("" if sd is None else f" ± {sd:.{digits}f}")


def score_tables(scores: Mapping[str, Summary], accuracy: Mapping[str, float]) -> list[str]:
    """Return the lines of a Markdown table for each domain.

    Args:
      scores: {row: scores of its images}.
      accuracy: {domain: accuracy of the classifier on the test images}.
    """
    lines = []
    for domain in DOMAINS:
        lines += [
            f"{domain.capitalize()} images against test images with the same preprocessing "
            f"(accuracy of the classifier on these: {accuracy[domain]:.2%})",
            "",
            "| images | Fréchet distance ↓ | precision ↑ | recall ↑ | sharpness (test images: 1) |",
            "|---|---|---|---|---|",
        ]
        for row, summary in scores.items():
            texts = [score_text(summary[domain][score], _DIGITS[score]) for score in SCORES]
            lines.append(f"| {row} | " + " | ".join(texts) + " |")
        lines.append("")
    return lines
