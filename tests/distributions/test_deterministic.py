"""Deterministic: its samples, its gradient and its missing density."""

import jax
import numpy as np
from densities import B, D, normals

from vae_jax.distributions.deterministic import Deterministic


def test_samples_repeat_loc_and_there_is_no_density():
    density = Deterministic(normals(0, B, D))
    for draw in density.sample(jax.random.key(0), (3,)):
        np.testing.assert_array_equal(draw, density.loc)
    np.testing.assert_array_equal(density.mean(), density.loc)
    assert not hasattr(density, "log_prob")
    value, log_prob = density.sample_and_log_prob(jax.random.key(0), (3,))
    assert log_prob is None
    np.testing.assert_array_equal(value, density.sample(jax.random.key(0), (3,)))
    gradient = jax.grad(lambda q: q.sample(jax.random.key(0), (3,)).sum())(density)
    np.testing.assert_array_equal(gradient.loc, 3.0)


def test_the_standard_deviation_is_zero():
    np.testing.assert_array_equal(Deterministic(normals(0, B, D)).stddev(), np.zeros((B, D)))
