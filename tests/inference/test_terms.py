"""Terms: their shapes, the log weights, and objectives with fixed settings."""

import jax.numpy as jnp
import numpy as np
import pytest
from random_terms import B, K, L, change_layer, random_terms, with_kl

from vae_jax.distributions import Latent
from vae_jax.inference import elbos, importance
from vae_jax.inference.terms import Pair, Terms, bind, check_terms, layer_kl, log_weights, posterior_log_density


def test_a_pair_binds_its_settings_to_the_encoders_objective_and_has_the_decoders_value():
    terms = random_terms()
    pairs = Pair(importance.iwae, importance.miwae), Pair(importance.iwae, importance.negative_cubo)
    piwae, cubo = bind(pairs[0], num_inner_samples=3), bind(pairs[1], order=2.0)
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
    lower, upper = terms.latents
    np.testing.assert_allclose(terms.log_pz, np.asarray(lower.log_p) + np.asarray(upper.log_p), rtol=1e-6)
    np.testing.assert_allclose(terms.log_qz, np.asarray(lower.log_q) + np.asarray(upper.log_q), rtol=1e-6)
    expected = np.asarray(terms.log_px_z) + np.asarray(terms.log_pz) - np.asarray(terms.log_qz)
    np.testing.assert_allclose(log_weights(terms), expected, rtol=1e-6)
    np.testing.assert_array_equal(posterior_log_density(terms), terms.log_qz)
    np.testing.assert_array_equal(layer_kl(terms), terms.kl)


def test_a_layers_kl_is_in_closed_form_or_the_mean_over_the_samples():
    terms = random_terms()
    lower, upper = terms.latents
    np.testing.assert_array_equal(terms.kl[0], lower.kl)  # [B]: the posterior does not depend on other layers
    np.testing.assert_allclose(terms.kl[1], np.mean(upper.kl, axis=0), rtol=1e-6)
    estimated = with_kl(terms, [lower.kl, None]).kl
    np.testing.assert_array_equal(estimated[0], lower.kl)
    np.testing.assert_allclose(estimated[1], np.mean(upper.log_q - upper.log_p, axis=0), rtol=1e-5)


def test_blocks_of_a_layer_are_summed_and_have_a_row_of_the_kl_each():
    """Equal blocks inside of `nn.scan` are one layer with a leading axis."""
    terms = random_terms(layers=3)
    fields = ("z", "log_p", "log_q")
    stacked = {name: jnp.stack([getattr(latent, name) for latent in terms.latents]) for name in fields}
    first, second, third = terms.latents
    rows = jnp.stack([first.kl, jnp.mean(second.kl, axis=0), jnp.mean(third.kl, axis=0)])  # [L, B]
    for kl in (None, rows, jnp.broadcast_to(rows[:, None], (3, K, B))):
        blocks = Terms(terms.log_px_z, (Latent("z", **stacked, kl=kl, penalty=stacked["log_p"]),))
        np.testing.assert_allclose(log_weights(blocks), log_weights(terms), rtol=1e-5)
        np.testing.assert_allclose(blocks.penalty, terms.log_pz, rtol=1e-5)
        expected = np.mean(stacked["log_q"] - stacked["log_p"], axis=1) if kl is None else rows
        np.testing.assert_allclose(layer_kl(blocks), expected, rtol=1e-5)


def test_penalties_are_summed_over_the_layers_that_have_one():
    terms = random_terms()
    assert terms.penalty is None
    np.testing.assert_array_equal(change_layer(terms, 1, penalty=jnp.full((K, B), 2.0)).penalty, np.full((K, B), 2.0))
    both = change_layer(change_layer(terms, 0, penalty=jnp.ones((K, B))), 1, penalty=jnp.full((K, B), 2.0))
    np.testing.assert_array_equal(both.penalty, np.full((K, B), 3.0))


@pytest.mark.parametrize("layer", range(L))
@pytest.mark.parametrize("name", ["log_px_z", "log_p", "log_q", "kl", "penalty"])
def test_terms_of_unequal_shapes_are_refused(name, layer):
    terms = change_layer(random_terms(), layer, penalty=jnp.zeros((K, B)))
    check_terms(terms)
    if name == "log_px_z":
        wrong = [terms._replace(log_px_z=terms.log_px_z[:, :1]), terms._replace(log_px_z=terms.log_px_z[0])]
    else:
        values = getattr(terms.latents[layer], name)
        wrong = [change_layer(terms, layer, **{name: part}) for part in (values[..., :1], values[None, None])]
        wrong += [change_layer(terms, layer, **{name: values[:1]})]  # of one sample, or of one example
    for function in (check_terms, log_weights, layer_kl):
        for each in wrong:
            with pytest.raises(AssertionError):
                function(each)


def test_missing_terms_are_refused():
    point = change_layer(random_terms(), 0, log_q=None, kl=None)
    assert elbos.reconstruction(point).shape == (B,)
    for function in (log_weights, elbos.sampled_elbo):
        with pytest.raises(ValueError, match=r"^terms\.log_qz=None: .* no density .* use `reconstruction`$"):
            function(point)
    for function in (layer_kl, elbos.elbo):
        with pytest.raises(ValueError, match=r"^terms\.kl=None: .* a point, which has no KL; use `reconstruction`$"):
            function(point)
    with pytest.raises(ValueError, match=r"^layer 'z2' has no log p\(z\); pass its prior to `draw`"):
        log_weights(change_layer(random_terms(), 1, log_p=None))
    with pytest.raises(ValueError, match=r"^terms have no stochastic layers"):
        log_weights(random_terms(layers=0))
