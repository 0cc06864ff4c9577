"""Priors of standardized codes: densities in the original coordinates; and models whose prior is replaced."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flow_models import SETTINGS, D, binary_batch, pair_model

from vae_jax.config import choice
from vae_jax.distributions import LowerCholeskyAffine, from_posterior, from_prior
from vae_jax.errors import InputError
from vae_jax.models.replaced_prior import StandardizedPrior, WithPrior

AFFINE = {"loc": jnp.array([1.0, -2.0]), "scale_tril": jnp.array([[2.0, 0.0], [0.5, 0.3]])}
KEY = jax.random.key(0)


def standardized(name):
    """Return (the module, its parameters away from the initial ones, that of the prior alone)."""
    prior = choice("prior", name, **SETTINGS["prior"].get(name, {}))
    module, rng = StandardizedPrior(prior.build(D, (4, 4, 1)), D, name), np.random.default_rng(0)
    params = jax.jit(module.init)(KEY)["params"]
    moved = jax.tree.map(lambda leaf: leaf + 0.3 * rng.normal(size=leaf.shape).astype(np.float32), params)
    return module, moved | AFFINE, prior.build(D, (4, 4, 1))


@pytest.mark.parametrize("name", ["standard-normal", "mixture", "coupling"])
def test_the_density_is_that_of_the_standardized_code_and_its_moments_have_no_gradient(name):
    module, params, alone = standardized(name)

    @jax.jit
    def evaluate(params, z):
        e, log_det = LowerCholeskyAffine(**AFFINE).inverse(z)
        expected = alone.apply({"params": params.get("prior", {})}, None).log_prob(e) + log_det
        total = lambda params: jnp.sum(module.apply({"params": params}).log_prob(z))  # noqa: E731
        return module.apply({"params": params}).log_prob(z), expected, jax.grad(total)(params)

    found, expected, gradient = evaluate(params, jax.random.normal(KEY, (5, D)))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    sizes = {name: max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(tree)) for name, tree in gradient.items()}
    assert {name for name, size in sizes.items() if size > 0} == ({"prior"} if "prior" in params else set())


def test_a_model_with_another_prior_draws_from_it_and_evaluates_it():
    model, _, params = pair_model("mixture", "gaussian")
    module, prior_params, _ = standardized("mixture")
    replaced, joined = WithPrior(model, module), {"model": params, "prior": prior_params}

    @jax.jit
    def walk(joined, batch):
        q = replaced.apply({"params": joined}, batch, method="encode")
        drawn = [m.apply({"params": p}, from_posterior(KEY, 8), q, batch, method="decode")
                 for m, p in ((replaced, joined), (model, joined["model"]))]  # fmt: skip
        p_x, (latent,) = replaced.apply({"params": joined}, from_prior(KEY, 4), method="decode")
        density = module.apply({"params": joined["prior"]})
        own = from_prior(KEY, 4)("z", density)
        return drawn, (p_x.mean(), latent.z, latent.log_p), own.z, density.log_prob(drawn[0][1][0].z)

    ((p_x, (latent,)), (own_p_x, (own,))), (mean, z, log_p), expected, log_prob = walk(joined, binary_batch())
    np.testing.assert_array_equal(latent.z, own.z)  # the posterior is that of the model
    np.testing.assert_array_equal(p_x.mean(), own_p_x.mean())
    np.testing.assert_allclose(latent.log_p, log_prob, rtol=1e-5)
    assert np.abs(latent.log_p - own.log_p).min() > 1e-3
    assert latent.kl is None
    np.testing.assert_array_equal(z, expected)
    assert mean.shape == (4, 4, 4, 1)
    assert log_p.shape == (4,)
    assert replaced.likelihood is model.likelihood


@pytest.mark.fault
def test_a_prior_that_depends_on_the_encoder_is_refused():
    module = StandardizedPrior(choice("prior", "vamp", components=3).build(D, (4, 4, 1)), D, "vamp")
    with pytest.raises(InputError, match=r"^prior=vamp is made of posteriors of the encoder, so it cannot be fitted"):
        jax.eval_shape(module.init, KEY)
