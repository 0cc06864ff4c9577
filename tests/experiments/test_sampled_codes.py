"""experiments/sampled_codes.py: samples of normal distributions whose mean and scale are the stored numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from own_choices import own_choices
from scripts import load

from vae_jax import random
from vae_jax.data import from_arrays


@pytest.fixture
def preprocess():
    with own_choices():
        yield load("sampled_codes").SampledCodesConfig()


def test_samples_have_the_mean_and_the_scale_and_depend_on_the_key_of_the_example(preprocess):
    x = jnp.tile(jnp.array([[1.0, -2, 0.5, 0]]), (4000, 1))
    keys = random.example_keys(jax.random.key(0), 4000)
    z = preprocess(keys, {"x": x})["x"]
    assert (z.shape, z.dtype) == ((4000, 2), jnp.float32)
    np.testing.assert_array_equal(z[:, 1], -2)
    assert abs(z[:, 0].mean() - 1) < 4 * 0.5 / np.sqrt(4000)
    assert abs(z[:, 0].std() - 0.5) < 4 * 0.5 / np.sqrt(8000)
    np.testing.assert_array_equal(preprocess(keys[7:9], {"x": x[7:9]})["x"], z[7:9])


def test_the_mean_is_that_of_the_means(preprocess):
    x = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
    dataset = from_arrays(x, holdout=0).training()
    np.testing.assert_allclose(preprocess.mean(dataset), x[:, :3].mean(axis=0), rtol=1e-5)
