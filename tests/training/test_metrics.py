"""Metrics: means with standard errors, errors of reconstructions by kind of data, and bits per dimension."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from vae_jax.training.metrics import (
    bits_per_dim,
    mean_and_error,
    peak_signal_to_noise,
    reconstruction_errors,
    summarize_errors,
)


def test_bits_per_dim():
    pixels = multivariate_normal([0.0], [[1.0]]).entropy()  # any number of nats
    assert bits_per_dim(float(pixels) * 12, (2, 2, 3)) == pytest.approx(float(pixels) / np.log(2))
    assert bits_per_dim(np.log(256) * 3072, (32, 32, 3)) == pytest.approx(8)
    assert bits_per_dim(np.log(2) * 7, (7,)) == pytest.approx(1)


def test_psnr():
    assert peak_signal_to_noise(7.84, (28, 28, 1)) == pytest.approx(20)
    assert peak_signal_to_noise(0.0, (28, 28, 1)) is None


def test_the_mean_and_its_standard_error_are_in_double_precision():
    values = np.random.default_rng(0).normal(size=1000).astype(np.float32) + np.float32(1e4)
    exact = values.astype(np.float64)
    found = mean_and_error("x", values)
    assert found == {"x": pytest.approx(exact.mean(), rel=1e-15), "x_se": pytest.approx(exact.std(ddof=1) / 1000**0.5)}


def test_a_single_value_has_no_standard_error():
    assert mean_and_error("x", np.ones(1, np.float32)) == {"x": 1.0, "x_se": None}


def summary(x, mean, kind):
    errors = {name: np.asarray(value) for name, value in reconstruction_errors(x, mean, kind=kind).items()}
    return summarize_errors(errors, kind=kind, shape=x.shape[1:])


def test_the_errors_of_images_have_a_signal_to_noise_ratio():
    x, mean = (np.random.default_rng(seed).random((9, 3, 2, 1)).astype(np.float32) for seed in (0, 1))
    error = np.square(x - mean).sum(axis=(1, 2, 3)).mean()
    found = summary(x, mean, "images")
    assert found == {"squared_error": pytest.approx(error), "psnr": pytest.approx(10 * np.log10(6 / error))}
    assert summary(x, x, "images") == {"squared_error": 0, "psnr": None}


def test_the_errors_of_vectors_have_an_explained_variance():
    x = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32) * np.arange(1, 5, dtype=np.float32) + 1000
    assert summary(x, x, "vectors") == {"squared_error": 0, "explained_variance": 1}
    means = np.broadcast_to(x.mean(axis=0), x.shape)
    assert summary(x, means, "vectors")["explained_variance"] == pytest.approx(0, abs=1e-4)
    half = means + 0.5 * (x - means)
    assert summary(x, half, "vectors")["explained_variance"] == pytest.approx(0.75, abs=1e-3)
    same = np.ones((50, 4), np.float32)
    assert summary(same, same, "vectors")["explained_variance"] is None


def test_the_errors_of_counts_are_also_of_their_logarithms():
    x = np.random.default_rng(0).poisson(3, (20, 5)).astype(np.float32)
    mean = np.full_like(x, 3)
    found = summary(x, mean, "counts")
    expected = np.square(np.log1p(x) - np.log(4)).sum(axis=1).mean()
    assert found["log_squared_error"] == pytest.approx(expected, rel=1e-5)
    assert found["squared_error"] == pytest.approx(np.square(x - 3).sum(axis=1).mean(), rel=1e-5)
    assert set(found) == {"squared_error", "log_squared_error"}
    below = summary(x, np.full_like(x, -2), "counts")["log_squared_error"]  # a Gaussian can have such a mean
    assert below == pytest.approx(np.square(np.log1p(x)).sum(axis=1).mean(), rel=1e-5)
