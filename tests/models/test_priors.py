"""The families of p(z)."""

import jax
import numpy as np
from built_models import built

from vae_jax.distributions import from_prior
from vae_jax.models.priors import StandardNormal, StandardNormalConfig


def test_the_standard_normal_has_no_parameters_and_does_not_call_the_posterior():
    module = StandardNormalConfig().build(3, (4,))
    assert module == StandardNormal(3)
    variables = module.init(jax.random.key(0), None)
    assert jax.tree.leaves(variables) == []
    p = module.apply(variables, None)
    np.testing.assert_array_equal(p.mean(), np.zeros(3))
    np.testing.assert_array_equal(p.log_scale, np.zeros(3))


def test_the_prior_of_the_code_is_a_standard_normal():
    model, params = built("mlp", (8, 8, 1))
    _, (latent,) = model.apply({"params": params}, from_prior(jax.random.key(0), 2), method="decode")
    assert (latent.name, latent.z.shape) == ("z", (2, 3))
    np.testing.assert_array_equal(latent.prior.mean(), np.zeros(3))
    np.testing.assert_array_equal(latent.prior.log_scale, np.zeros(3))
