"""Classification by a model that reads labels: by its classifier q(y|x), and by Bayes' rule from p(x|y)."""

import math
from typing import Any, NamedTuple

import chex
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from vae_jax import random
from vae_jax.distributions import Batch, from_means
from vae_jax.inference import Params, classify, decode, encode, log_likelihood, with_label
from vae_jax.training.loss import Preprocess
from vae_jax.training.metrics import mean_and_error

NUM_BINS = 15  # of the confidence, as in Guo et al., ICML 2017


class Reliability(NamedTuple):
    """Examples in bins of the confidence, the probability of the most probable class; the bins are equally wide.

    Attributes:
      examples: their number in each bin, [bins].
      confidence: mean confidence, [bins]; 0 in an empty bin.
      accuracy: fraction of examples whose most probable class is their label, [bins]; 0 in an empty bin.
    """

    examples: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def calibration_error(self) -> float:
        """The expected calibration error Σ_b n_b/N |accuracy_b - confidence_b|."""
        return float(np.sum(self.examples * np.abs(self.accuracy - self.confidence)) / np.sum(self.examples))


def reliability(log_probabilities: np.ndarray, labels: np.ndarray) -> Reliability:
    """Return how often the most probable class is the label, by its probability.

    Args:
      log_probabilities: log p(y|x), [N, C] in nats.
      labels: integers [N].
    """
    chex.assert_shape(log_probabilities, (len(labels), None))
    confidence = np.exp(log_probabilities.max(axis=1).astype(np.float64))
    correct = log_probabilities.argmax(axis=1) == labels
    bins = np.clip(np.ceil(confidence * NUM_BINS).astype(int) - 1, 0, NUM_BINS - 1)
    count = np.bincount(bins, minlength=NUM_BINS)
    sums = (np.bincount(bins, weights=values, minlength=NUM_BINS) for values in (confidence, correct))
    mean_confidence, accuracy = (total / np.maximum(count, 1) for total in sums)
    return Reliability(count, mean_confidence, accuracy)


def summarize_classes(prefix: str, log_probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float | None]:
    """Return the metrics of the probabilities of classes.

    Args:
      prefix: of the names.
      log_probabilities: log p(y|x), [N, C] in nats.
      labels: integers [N].

    Returns:
      `{prefix}_error`, the fraction of examples whose most probable class is not their label, its standard error
      `{prefix}_error_se`, and `{prefix}_calibration_error`, see `Reliability`.
    """
    wrong = log_probabilities.argmax(axis=1) != labels
    calibration_error = reliability(log_probabilities, labels).calibration_error
    return mean_and_error(f"{prefix}_error", wrong) | {f"{prefix}_calibration_error": calibration_error}


def posterior_of_classes(log_px_y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return log p(y|x) and log p(x) = log Σ_y p(x|y) / C for a uniform p(y).

    Args:
      log_px_y: log p(x|y), [N, C] in nats.

    Returns:
      float64 [N, C] and [N], in nats.
    """
    total = np.logaddexp.reduce(log_px_y.astype(np.float64), axis=1)
    return log_px_y - total[:, None], total - math.log(log_px_y.shape[1])


def classifier_terms(
    params: Params, keys: Array, batch: Batch, *, model: Any, preprocess: Preprocess
) -> dict[str, Array]:
    """Return `log_qy` [B, C], log q(y|x) of each example in nats; layers that q(y|x) reads have their means.

    Args:
      params: parameters of the model, or its `Variables`.
      keys: a key for each example, [B].
      batch: stored examples, {"x": [B, ...], ...}; labels are not read.
      model: a Linen module with the methods `encode`, `decode` and `classify`.
      preprocess: (keys [B], stored examples) -> inputs of the model.
    """
    inputs = preprocess(random.fold_in(keys, 0), {name: a for name, a in batch.items() if name not in ("y", "mask")})
    _, layers = decode(params, from_means(), encode(params, inputs, model=model), inputs, model=model)
    return {"log_qy": classify(params, inputs, {name: layer.z for name, layer in layers.items()}, model=model)}


def class_likelihood_terms(
    params: Params, keys: Array, batch: Batch, *, model: Any, preprocess: Preprocess, num_samples: int, chunk: int
) -> dict[str, Array]:
    """Return `log_px_y` [B, C], the importance-sampling estimate of log p(x|y) given each class in nats.

    Args:
      params: parameters of the model, or its `Variables`.
      keys: a key for each example, [B].
      batch: stored examples, {"x": [B, ...], ...}; labels are not read.
      model: a `ConditionalVAE`, or another module with its methods and the attribute `num_classes`.
      preprocess: (keys [B], stored examples) -> inputs of the model.
      num_samples: K, for each class.
      chunk: how many samples are computed at once.
    """
    inputs, sample_keys = preprocess(random.fold_in(keys, 0), batch), random.fold_in(keys, 1)
    settings = {"model": model, "num_samples": num_samples, "chunk": chunk}

    def given(label: Array) -> Array:
        return log_likelihood(params, sample_keys, with_label(inputs, label), **settings)[0]

    return {"log_px_y": lax.map(given, jnp.arange(model.num_classes)).T}  # in turn, in the memory of one class
