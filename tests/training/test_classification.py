"""Classification by a model that reads labels: calibration, Bayes' rule, and the terms of each class."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jitted import log_likelihood
from scipy.special import log_softmax, logsumexp
from small_model import binary_images, small_model

from vae_jax import random
from vae_jax.inference import classify
from vae_jax.training.classification import (
    NUM_BINS,
    posterior_of_classes,
    reliability,
    summarize_classes,
)
from vae_jax.training.evaluator import Evaluator
from vae_jax.training.loss import unprocessed

CLASSES, N = 3, 10
KEY = jax.random.key(3)


@functools.cache
def evaluator(model="m2", batch_size=4):
    made, params = small_model(model=model, model__num_classes=CLASSES, model__embedding=4)
    return Evaluator(made, unprocessed, "images", batch_size), params


def labelled(**arrays):
    return {"x": np.asarray(binary_images(N)), "y": np.arange(N, dtype=np.int32) % CLASSES} | arrays


@functools.cache
def scores(model="m2", batch_size=4, num_samples=3):
    """Return the metrics of a model on labelled images, and the scores of the examples."""
    found, (made, params) = {}, evaluator(model, batch_size)
    return made.classes(params, KEY, labelled(), num_samples=num_samples, chunk=2, receive=found.update), found


def test_the_calibration_error_is_the_mean_distance_of_accuracy_and_confidence():
    confidence = np.array([0.62, 0.62, 0.62, 0.62, 0.9, 0.9, 1.0])
    correct = np.array([True, True, True, False, True, False, True])
    probabilities = np.stack([confidence, 1 - confidence], axis=1)
    with np.errstate(divide="ignore"):
        found = reliability(np.log(probabilities), np.where(correct, 0, 1))
    np.testing.assert_allclose(found.calibration_error, (4 * abs(0.75 - 0.62) + 2 * abs(0.5 - 0.9) + 0) / 7, rtol=1e-6)
    assert found.examples[[9, 13, 14]].tolist() == [4, 2, 1]
    np.testing.assert_allclose(found.accuracy[[9, 13, 14]], [0.75, 0.5, 1])
    assert (found.examples.sum(), len(found.examples)) == (7, NUM_BINS)


def test_probabilities_that_are_frequencies_are_calibrated():
    rng = np.random.default_rng(0)
    log_probability = log_softmax(rng.normal(0, 2, (100_000, 4)), axis=1)
    labels = (rng.random((100_000, 1)) > np.exp(log_probability).cumsum(axis=1)).sum(axis=1)
    assert reliability(log_probability, labels).calibration_error < 0.01
    assert reliability(log_softmax(3 * log_probability, axis=1), labels).calibration_error > 0.1


def test_the_error_is_the_fraction_of_wrong_classes():
    log_probability = np.log([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4], [0.5, 0.2, 0.3]])
    found = summarize_classes("classifier", log_probability, np.array([0, 1, 0, 0]))
    assert found["classifier_error"] == 0.25
    np.testing.assert_allclose(found["classifier_error_se"], np.std([0, 0, 1, 0], ddof=1) / 2)
    expected = (abs(1 - 0.7) + abs(1 - 0.8) + abs(0 - 0.4) + abs(1 - 0.5)) / 4
    np.testing.assert_allclose(found["classifier_calibration_error"], expected)


def test_bayes_rule_with_a_uniform_prior_in_float64():
    log_px_y = np.random.default_rng(0).normal(-90, 4, (5, 3)).astype(np.float32)
    posterior, log_px = posterior_of_classes(log_px_y)
    np.testing.assert_allclose(posterior, log_softmax(log_px_y.astype(np.float64), axis=1), rtol=1e-12)
    np.testing.assert_allclose(log_px, logsumexp(log_px_y.astype(np.float64) - np.log(3), axis=1), rtol=1e-12)


@pytest.mark.parametrize("model", ["m2", "conditional"])
def test_the_terms_of_a_class_are_the_likelihood_given_it(model):
    metrics, found = scores(model)
    made, params = evaluator(model)
    keys = random.fold_in(random.example_keys(KEY, N), 1)
    expected = [
        log_likelihood(params, keys, {"x": labelled()["x"], "y": jnp.full(N, c)}, model=made.model, num_samples=3,
                       chunk=3)[0]
        for c in range(CLASSES)
    ]  # fmt: skip
    np.testing.assert_allclose(found["log_px_y"], np.stack(expected, axis=1), rtol=1e-5)
    assert np.abs(np.diff(found["log_px_y"], axis=1)).min() > 1e-5
    nll = -logsumexp(found["log_px_y"].astype(np.float64) - np.log(3), axis=1)
    np.testing.assert_allclose(metrics["nll_unlabelled"], nll.mean(), rtol=1e-6)
    wrong = found["log_px_y"].argmax(axis=1) != labelled()["y"]
    np.testing.assert_allclose(metrics["generative_error"], wrong.mean())


def test_the_classifier_reads_no_label():
    metrics, found = scores()
    made, params = evaluator()
    expected = jax.jit(functools.partial(classify, model=made.model))(params, {"x": jnp.asarray(labelled()["x"])})
    np.testing.assert_allclose(found["log_qy"], expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["classifier_error"], np.mean(expected.argmax(axis=1) != labelled()["y"]))
    assert not any(name.startswith("classifier") for name in scores("conditional")[0])


def test_examples_without_a_label_count_for_the_likelihood_alone():
    made, params = evaluator()
    y, known = labelled()["y"], np.arange(N) < 4
    hidden = labelled(y=np.where(known, y, -1).astype(np.int32), mask=known)
    found = made.classes(params, KEY, hidden, num_samples=3, chunk=2)
    metrics, values = scores()
    assert found["nll_unlabelled"] == metrics["nll_unlabelled"]
    np.testing.assert_allclose(found["classifier_error"], np.mean(values["log_qy"][:4].argmax(axis=1) != y[:4]))
    none = made.classes(params, KEY, hidden | {"mask": np.zeros(N, bool)}, num_samples=3, chunk=2)
    assert sorted(none) == ["nll_unlabelled", "nll_unlabelled_se"]


def test_without_samples_there_is_the_classifier_alone():
    assert sorted(scores(num_samples=0)[0]) == [
        "classifier_calibration_error", "classifier_error", "classifier_error_se",
    ]  # fmt: skip
