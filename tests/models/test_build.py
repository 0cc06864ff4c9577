"""Models from a ModelConfig: activations, several layers, and settings that are refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from built_models import BASE, built, random_images
from jitted import init, negative_bound, sample_terms

from vae_jax.config.schema import ModelConfig
from vae_jax.distributions.drawers import from_prior
from vae_jax.distributions.kl import kl_divergence
from vae_jax.errors import InputError
from vae_jax.inference import importance
from vae_jax.models.build import ACTIVATIONS, build_model


def test_activations_are_the_functions_of_their_names():
    x = jnp.linspace(-3, 3, 7)
    for name, function in ACTIVATIONS.items():
        expected = {"identity": lambda v: v, "tanh": jnp.tanh}.get(name) or getattr(jax.nn, name)
        np.testing.assert_allclose(function(x), expected(x), rtol=1e-6)


@pytest.mark.fault
def test_an_unknown_name_is_refused_when_the_model_is_built():
    for name, value in {"network": "con", "likelihood": "gausian", "activation": "tan", "posterior": "point"}.items():
        with pytest.raises(InputError, match=rf"^model\.{name}='{value}' must be one of "):
            built("mlp", (4, 4, 1), **{name: value}) if name != "network" else built(value, (4, 4, 1))
    custom = build_model(BASE, (4, 4, 1)).clone(likelihood="poisson")
    with pytest.raises(InputError, match=r"^model\.likelihood='poisson' must be one of"):
        custom.init(jax.random.key(0), {"x": random_images((4, 4, 1))})


def test_three_layers_in_both_directions():
    config = ModelConfig(hidden=(6,), latent_dim=2, latent_layers=(5, 4), layer_hidden=(7, 3))
    model = build_model(config, (4, 4, 1))
    x = jnp.ones((2, 4, 4, 1))
    params = init(model, jax.random.key(0), x)["params"]
    shapes = {name: jax.tree.map(jnp.shape, params[name]) for name in params if "layers" in name}
    assert shapes["posterior_layers_0"]["Dense_0"]["kernel"] == (5, 7)
    assert shapes["posterior_layers_1"]["mean"]["kernel"] == (3, 2)
    assert shapes["prior_layers_0"]["Dense_0"]["kernel"] == (2, 3)
    assert shapes["prior_layers_1"]["mean"]["kernel"] == (7, 5)
    assert model.latent_sizes == {"z1": 5, "z2": 4, "z3": 2}
    _, drawn = model.apply({"params": params}, from_prior(jax.random.key(0), 3), method="decode")
    assert {latent.name: latent.z.shape for latent in drawn} == {"z1": (3, 5), "z2": (3, 4), "z3": (3, 2)}
    terms = sample_terms(params, jax.random.key(1), x, model=model, num_samples=4)
    assert [latent.z.shape for latent in terms.latents] == [(4, 2, 5), (4, 2, 4), (4, 2, 2)]
    assert terms.log_qz.shape == (4, 2)
    assert terms.kl.shape == (3, 2)
    *lower, top = terms.latents  # the prior of a lower layer depends on the layer above, which is drawn later
    sampled = [jnp.mean(latent.log_q - latent.log_p, axis=0) for latent in lower]
    closed_form = jnp.mean(kl_divergence(top.posterior, top.prior), axis=0)
    np.testing.assert_allclose(terms.kl, jnp.stack([*sampled, closed_form]), rtol=1e-5)
    loss = lambda p: negative_bound(p, jax.random.key(1), x, model=model, objective=importance.iwae)[0]  # noqa: E731
    grads = jax.jit(jax.grad(loss))(params)
    assert all(jnp.any(leaf["mean"]["kernel"] != 0) for name, leaf in grads.items() if "layers" in name)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"model__posterior": "fixed-noise"}, "model.posterior"),
        ({"model__tied": True}, "model.tied"),
        ({"objective__name": "beta-tc"}, "objective.name"),
        ({"model__latent_layers": (), "model__layer_hidden": (4,)}, "model.layer_hidden"),
        ({"model__latent_layers": (0,)}, "model.latent_layers"),
    ],
)
def test_settings_that_several_layers_do_not_support_are_refused(small, settings, named):
    with pytest.raises(InputError, match=f"^{named}="):
        small(**{"model__latent_layers": (3,)} | settings)
