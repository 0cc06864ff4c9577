"""Metrics: means with standard errors, peak signal-to-noise ratio, and bits per dimension."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from vae_jax.training.metrics import bits_per_dim, mean_and_error, peak_signal_to_noise


def test_bits_per_dim():
    pixels = multivariate_normal([0.0], [[1.0]]).entropy()  # any number of nats
    assert bits_per_dim(float(pixels) * 12, (2, 2, 3)) == pytest.approx(float(pixels) / np.log(2))
    assert bits_per_dim(np.log(256) * 3072, (32, 32, 3)) == pytest.approx(8)


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
