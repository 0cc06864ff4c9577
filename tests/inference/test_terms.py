"""Terms: their shapes, the log weights, and objectives with fixed settings."""

import jax.numpy as jnp
import numpy as np
import pytest
from random_terms import B, L, random_terms

from vae_jax.inference import elbos, importance
from vae_jax.inference.objectives import OBJECTIVES
from vae_jax.inference.terms import Pair, bind, check_terms, layer_kl, log_weights, posterior_log_density


def test_a_pair_binds_its_settings_to_the_encoders_objective_and_has_the_decoders_value():
    terms = random_terms()
    piwae, cubo = bind(OBJECTIVES["piwae"], num_inner_samples=3), bind(OBJECTIVES["cubo"], order=2.0)
    np.testing.assert_array_equal(piwae.inference(terms), importance.miwae(terms, num_inner_samples=3))
    np.testing.assert_array_equal(cubo.inference(terms), -importance.cubo(terms, order=2.0))
    for pair in (piwae, cubo):
        assert isinstance(pair, Pair)
        np.testing.assert_array_equal(pair(terms), importance.iwae(terms))


def test_bind_fixes_the_settings_of_a_function():
    terms = random_terms()
    np.testing.assert_array_equal(bind(elbos.elbo, beta=3.0)(terms), elbos.elbo(terms, beta=3.0))


def test_log_weights_are_the_sum_of_the_log_densities():
    terms = random_terms()
    expected = np.asarray(terms.log_px_z) + np.asarray(terms.log_pz) - np.asarray(terms.log_qz)
    np.testing.assert_allclose(log_weights(terms), expected, rtol=1e-6)
    np.testing.assert_array_equal(posterior_log_density(terms), terms.log_qz)
    np.testing.assert_array_equal(layer_kl(terms), terms.kl)


@pytest.mark.parametrize("name", ["log_px_z", "log_pz", "log_qz", "kl"])
def test_terms_of_unequal_shapes_are_refused(name):
    terms = random_terms()
    check_terms(terms)
    for function in (check_terms, log_weights, layer_kl):
        with pytest.raises(AssertionError):
            function(terms._replace(**{name: getattr(terms, name)[:, :1]}))


def test_missing_terms_are_refused():
    point = random_terms()._replace(log_qz=None, kl=None)
    assert elbos.reconstruction(point).shape == (B,)
    for function in (log_weights, elbos.sampled_elbo):
        with pytest.raises(ValueError, match=r"^terms\.log_qz=None: .* no density .* use `reconstruction`$"):
            function(point)
    for function in (layer_kl, elbos.elbo):
        with pytest.raises(ValueError, match=r"^terms\.kl=None: no KL .* use `sampled_elbo`$"):
            function(point)
    assert layer_kl(point._replace(kl=jnp.zeros((L, B)))).shape == (L, B)
