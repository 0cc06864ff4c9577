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
    gradient = jax.grad(lambda q: q.sample(jax.random.key(0), (3,)).sum())(density)
    np.testing.assert_array_equal(gradient.loc, 3.0)
