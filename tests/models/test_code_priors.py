"""Families of p(z) over integer codes: their densities at the initial parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jitted import init

from vae_jax.config import choice


@pytest.mark.parametrize("name", ["uniform-codes", "categorical-codes"])
def test_the_codes_have_equal_probabilities_at_first(name):
    module = choice("prior", name).build_codes(5, 7)
    params = init(module, jax.random.key(0), None)
    density = module.apply(params)
    z = jnp.asarray(np.random.default_rng(0).integers(0, 7, (3, 5)))
    np.testing.assert_allclose(density.log_prob(z), np.full(3, -5 * np.log(7)), rtol=1e-6)
