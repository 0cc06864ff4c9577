"""The VAE with several stochastic layers: both directions of its walk, its likelihood, and settings that it refuses."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from built_models import model_config
from jitted import apply, init, negative_bound, sample_terms
from linear_gaussian import images
from small_model import binary_images, small_model
from two_layer_gaussian import two_layer_model

from vae_jax.config import Config, override
from vae_jax.distributions import from_means, from_posterior, from_prior, kl_divergence, standard_normal
from vae_jax.errors import InputError
from vae_jax.inference import iwae
from vae_jax.models.build import build_model
from vae_jax.models.layered import LayeredConfig
from vae_jax.models.posteriors import ConditionalNormal

THREE = {"model": "layered", "model__latent_layers": (5, 4), "model__layer_hidden": (7, 3)}
NAMES = ["z1", "z2", "z3"]


def layered():
    """Return (model, params) of three layers away from the initial parameters, with images [4, 4, 1]."""
    return small_model(**THREE)


def walk(model, params, draw, evidence=None):
    return jax.jit(lambda params, evidence: model.apply({"params": params}, draw, evidence, method="decode"))(
        params, evidence
    )


@functools.partial(jax.jit, static_argnums=(0, 2, 3))
def conditional(model, params, direction, i, z):
    """Return the density of module i of the layers `posterior` or `prior`, given z."""
    module = getattr(model, f"{direction}_layers")[i]
    return module.apply({"params": params[f"{direction}_layers_{i}"]}, z)


def test_the_defaults_are_the_two_layers_of_burda_et_al():
    config = LayeredConfig()
    assert (config.latent_dim, config.latent_layers, config.layer_hidden) == (50, (100,), (100, 100))
    model = build_model(override(Config(), model="layered"), (28, 28, 1))
    assert model.posterior.size == 100
    assert model.posterior_layers == (ConditionalNormal(50, (100, 100), jnp.tanh),)
    assert model.prior_layers == (ConditionalNormal(100, (100, 100), jnp.tanh),)


def test_three_layers_in_both_directions():
    model = build_model(model_config(**THREE, model__latent_dim=2), (4, 4, 1))
    x = jnp.ones((2, 4, 4, 1))
    params = init(model, jax.random.key(0), x)["params"]
    shapes = {name: jax.tree.map(jnp.shape, params[name]) for name in params if "layers" in name}
    assert shapes["posterior_layers_0"]["Dense_0"]["kernel"] == (5, 7)
    assert shapes["posterior_layers_1"]["mean"]["kernel"] == (3, 2)
    assert shapes["prior_layers_0"]["Dense_0"]["kernel"] == (2, 3)
    assert shapes["prior_layers_1"]["mean"]["kernel"] == (7, 5)
    _, drawn = walk(model, params, from_prior(jax.random.key(0), 3))
    assert {latent.name: latent.z.shape for latent in drawn} == {"z1": (3, 5), "z2": (3, 4), "z3": (3, 2)}
    terms = sample_terms(params, jax.random.key(1), x, model=model, num_samples=4)
    assert [latent.z.shape for latent in terms.latents] == [(4, 2, 5), (4, 2, 4), (4, 2, 2)]
    assert terms.log_qz.shape == (4, 2)
    assert terms.kl.shape == (3, 2)
    *lower, top = terms.latents  # the prior of a lower layer depends on the layer above, which is drawn later
    sampled = [jnp.mean(latent.log_q - latent.log_p, axis=0) for latent in lower]
    closed_form = jnp.mean(kl_divergence(top.posterior, top.prior), axis=0)
    np.testing.assert_allclose(terms.kl, jnp.stack([*sampled, closed_form]), rtol=1e-5)
    loss = lambda p: negative_bound(p, jax.random.key(1), x, model=model, objective=iwae)[0]  # noqa: E731
    grads = jax.jit(jax.grad(loss))(params)
    assert all(jnp.any(leaf["mean"]["kernel"] != 0) for name, leaf in grads.items() if "layers" in name)


def test_all_layers_have_the_activation_of_the_network_and_the_head_of_the_posterior():
    settings = {"network__activation": "relu", "posterior__scale_head": "log-scale"}
    model = build_model(model_config(**THREE, **settings), (4, 4, 1))
    for module in (*model.posterior_layers, *model.prior_layers):
        assert module.activation is jax.nn.relu
    for module in (model.posterior, *model.posterior_layers, *model.prior_layers):
        assert module.scale_head == "log-scale"


def test_each_layer_of_the_posterior_is_given_the_layer_below_and_of_the_prior_the_layer_above():
    model, params = layered()
    x = binary_images(2)
    q = apply(model, params, x, method="encode")
    draw = from_posterior(jax.random.key(1), 2, 6)
    _, latents = walk(model, params, draw, q)
    assert [latent.name for latent in latents] == NAMES
    values = [latent.z for latent in latents]
    upwards = [q, *(conditional(model, params, "posterior", i, z) for i, z in enumerate(values[:-1]))]
    downwards = [*(conditional(model, params, "prior", 1 - i, z) for i, z in enumerate(values[1:])), None]
    for latent, posterior, prior in zip(latents, upwards, downwards, strict=True):
        np.testing.assert_allclose(latent.log_q, posterior.log_prob(latent.z), rtol=1e-5)
        prior = prior or standard_normal((3,))
        np.testing.assert_allclose(latent.log_p, prior.log_prob(latent.z), rtol=1e-5)
    assert len({z.shape for z in values}) == 3


def test_samples_of_the_prior_are_drawn_from_the_top():
    model, params = layered()
    p_x, latents = walk(model, params, from_prior(jax.random.key(0), 8))
    z1, z2, z3 = (latent.z for latent in latents)
    np.testing.assert_allclose(latents[2].log_p, standard_normal((3,)).log_prob(z3), rtol=1e-5)
    np.testing.assert_allclose(latents[1].log_p, conditional(model, params, "prior", 0, z3).log_prob(z2), rtol=1e-5)
    np.testing.assert_allclose(latents[0].log_p, conditional(model, params, "prior", 1, z2).log_prob(z1), rtol=1e-5)
    assert all(latent.posterior is latent.log_q is None for latent in latents)
    values = {"z1": z1, "z2": z2, "z3": z3}
    np.testing.assert_allclose(apply(model, params, values, method="decode").logits, p_x.logits, rtol=1e-5)


def test_the_likelihood_depends_on_the_first_layer_alone():
    model, params = layered()
    values = {"z1": jnp.ones((2, 5)), "z2": jnp.ones((2, 4)), "z3": jnp.ones((2, 3))}
    logits = [apply(model, params, values | change, method="decode").logits
              for change in ({}, {"z2": jnp.zeros((2, 4))}, {"z1": jnp.zeros((2, 5))})]  # fmt: skip
    np.testing.assert_array_equal(logits[1], logits[0])
    assert np.abs(logits[2] - logits[0]).max() > 1e-2


def test_a_call_decodes_the_mean_of_each_layer():
    model, params = layered()
    x = binary_images(2)
    q = apply(model, params, x, method="encode")
    _, latents = walk(model, params, from_means(), q)
    np.testing.assert_allclose(latents[0].z, q.mean(), rtol=1e-6)
    np.testing.assert_allclose(latents[1].z, conditional(model, params, "posterior", 0, q.mean()).mean(), rtol=1e-5)
    expected = apply(model, params, {latent.name: latent.z for latent in latents}, method="decode")
    np.testing.assert_allclose(model.apply({"params": params}, {"x": x}).logits, expected.logits, rtol=1e-5)


def test_a_prior_receives_the_posterior_of_the_highest_layer():
    model, params = layered()
    x = binary_images(2)
    found = []

    class Prior(nn.Module):
        def __call__(self, posterior_of):
            found.append(posterior_of(x))
            return standard_normal((3,))

    model.clone(prior=Prior()).apply({"params": params}, from_prior(jax.random.key(0), 2), method="decode")
    q = apply(model, params, x, method="encode")
    for i in range(2):
        q = conditional(model, params, "posterior", i, q.mean())
    np.testing.assert_allclose(found[0].mean(), q.mean(), rtol=1e-5, atol=1e-6)
    assert found[0].mean().shape == (2, 3)


def test_codes_of_another_size_are_refused():
    model, params = layered()
    values = {"z1": jnp.ones((2, 5)), "z2": jnp.ones((2, 4)), "z3": jnp.ones((2, 4))}
    with pytest.raises(InputError, match=r"^codes z3 have shape \[2, 4\] and dtype float32; pass floats \[..., 3\]"):
        apply(model, params, values, method="decode")
    with pytest.raises(InputError, match=r"^codes z1 have shape \[2, 6\] and dtype float32; pass floats \[..., 5\]"):
        apply(model, params, values | {"z1": jnp.ones((2, 6)), "z3": jnp.ones((2, 3))}, method="decode")


@pytest.mark.usefixtures("x64")
def test_the_parameters_of_two_layers_have_the_shapes_of_init():
    model, params, _ = two_layer_model()
    made = init(model, jax.random.key(0), images())["params"]
    assert jax.tree.map(jnp.shape, made) == jax.tree.map(jnp.shape, params)


@pytest.mark.fault
def test_different_numbers_of_layers_upwards_and_downwards_are_refused():
    model = two_layer_model()[0].clone(prior_layers=())
    with pytest.raises(InputError, match=r"^posterior_layers has 1 modules and prior_layers 0; pass equal numbers"):
        init(model, jax.random.key(0), images().astype(jnp.float32))


@pytest.mark.fault
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"posterior": "fixed-noise"}, "posterior=fixed-noise must be gaussian with model=layered"),
        ({"network__tied": True}, "network.tied=True must be False with model=layered"),
        ({"objective": "beta-tc"}, "objective=beta-tc must be another objective with model=layered; beta-tc needs a "),
        ({"model__latent_layers": ()}, r"model.latent_layers=\(\) must be one or more dimensions with model=layered"),
        ({"model__latent_layers": (0,)}, r"model.latent_layers=\(0,\) must be numbers greater than 0"),
        ({"model": "vae", "model__layer_hidden": (4,)}, "model.layer_hidden has no effect with model=vae; remove it"),
    ],
)
def test_settings_that_several_layers_do_not_support_are_refused(settings, message):
    with pytest.raises(InputError, match=f"^{message}"):
        override(Config(), **{"model": "layered"} | settings)
