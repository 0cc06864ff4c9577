"""The VAE: shapes and densities of its two functions for every network, posterior and likelihood."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from built_models import NETWORKS, built, random_images
from jitted import apply, init, log_prob
from linear_gaussian import LATENT, exact_model, images
from small_model import binary_images, small_model
from two_layer_gaussian import two_layer_model

from vae_jax.distributions.bernoulli import Bernoulli
from vae_jax.distributions.deterministic import Deterministic
from vae_jax.distributions.drawers import from_means, from_posterior, from_prior
from vae_jax.distributions.logistic_mixture import DiscretizedLogisticMixture
from vae_jax.distributions.normal import Normal, standard_normal
from vae_jax.errors import InputError
from vae_jax.models.vae import with_output_bias
from vae_jax.runs import decoding, evaluation, opening, plots, train_loop

SHAPES = [(8, 8, 1), (28, 20, 1), (7, 5, 3), (1, 9, 1)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("network", NETWORKS)
def test_any_image_size_and_any_leading_axes(network, shape):
    model, params = built(network, shape)
    q = apply(model, params, random_images(shape), method="encode")
    assert isinstance(q, Normal)
    assert q.mean().shape == (2, 3)
    z = jax.random.normal(jax.random.key(2), (4, 2, 3))
    p = apply(model, params, z, method="decode")
    assert p.mean().shape == (4, 2, *shape)
    assert log_prob(p, random_images(shape)).shape == (4, 2)


@pytest.mark.parametrize("network", NETWORKS)
def test_each_code_is_decoded_alone(network):
    shape = (8, 8, 1)
    model, params = built(network, shape)
    z = jax.random.normal(jax.random.key(2), (4, 2, 3))
    together = apply(model, params, z, method="decode").logits
    for k in range(4):
        for b in range(2):
            one = apply(model, params, z[k, b][None], method="decode").logits[0]
            np.testing.assert_allclose(together[k, b], one, atol=1e-5)


@pytest.mark.parametrize(
    ("likelihood", "kind"),
    [
        ("bernoulli", Bernoulli),
        ("gaussian", Normal),
        ("learned-gaussian", Normal),
        ("logistic-mixture", DiscretizedLogisticMixture),
    ],
)
@pytest.mark.parametrize("network", NETWORKS)
def test_every_likelihood_with_every_network(network, likelihood, kind):
    shape = (6, 4, 3)
    model, params = built(network, shape, likelihood=likelihood)
    p = apply(model, params, jnp.zeros((2, 3)), method="decode")
    assert isinstance(p, kind)
    assert p.mean().shape == (2, *shape)
    assert np.all(np.isfinite(log_prob(p, random_images(shape))))


def test_the_gaussian_scales_are_those_of_the_settings():
    shape = (6, 4, 1)
    model, params = built("mlp", shape, likelihood="gaussian", likelihood_scale=0.25)
    p = apply(model, params, jnp.zeros((2, 3)), method="decode")
    np.testing.assert_allclose(jnp.exp(p.log_scale), 0.25, rtol=1e-6)
    model, params = built("mlp", shape, likelihood="learned-gaussian")
    density = lambda w: log_prob(apply(model, w, jnp.zeros((2, 3)), method="decode"), random_images(shape)).sum()  # noqa: E731
    assert jax.jit(jax.grad(density))(params)["likelihood_log_scale"] != 0


def test_a_deterministic_posterior_has_no_variance():
    shape = (8, 8, 1)
    model, params = built("mlp", shape, posterior="deterministic")
    assert isinstance(apply(model, params, random_images(shape), method="encode"), Deterministic)
    assert "posterior_log_variance" not in params


def test_the_prior_of_the_code_is_a_standard_normal():
    model, params = built("mlp", (8, 8, 1))
    _, (latent,) = model.apply({"params": params}, from_prior(jax.random.key(0), 2), method="decode")
    assert (latent.name, latent.z.shape) == ("z", (2, 3))
    np.testing.assert_array_equal(latent.prior.mean(), np.zeros(3))
    np.testing.assert_array_equal(latent.prior.log_scale, np.zeros(3))


@pytest.mark.parametrize(
    ("likelihood", "mean"),
    [("bernoulli", 0.3), ("gaussian", 0.3), ("learned-gaussian", 0.3), ("logistic-mixture", 0.5)],
)
def test_the_output_starts_at_the_mean_image(likelihood, mean):
    shape = (6, 4, 1)
    model, params = built("mlp", shape, likelihood=likelihood)
    params = with_output_bias(params, jnp.full(shape, 0.3), likelihood=likelihood)
    silent = jax.tree.map(jnp.zeros_like, params["decoder"])
    p = apply(model, params | {"decoder": silent}, jnp.ones((2, 3)), method="decode")
    np.testing.assert_allclose(p.mean(), mean, rtol=1e-5)


def test_a_pixel_that_is_always_off_or_on_starts_at_a_thousandth():
    shape = (1, 3, 1)
    _, params = built("mlp", shape)
    biased = with_output_bias(params, jnp.array([0.0, 0.002, 1.0]).reshape(shape), likelihood="bernoulli")
    expected = np.log([0.001 / 0.999, 0.002 / 0.998, 0.999 / 0.001])
    np.testing.assert_allclose(biased["output_bias"].ravel(), expected, rtol=1e-4)


def test_a_mean_image_of_another_shape_is_refused():
    _, params = built("mlp", (6, 4, 1))
    with pytest.raises(AssertionError):
        with_output_bias(params, jnp.zeros((1, 1, 1)), likelihood="bernoulli")


@pytest.mark.fault
@pytest.mark.parametrize("kind", ["uint8", "int32", "bool"])
def test_images_and_codes_that_are_no_floats_are_refused(kind):
    shape = (4, 3, 1)
    model, params = built("mlp", shape)
    with pytest.raises(
        InputError, match=rf"^images have shape \[2, 4, 3, 1\] and dtype {kind}; pass floats \[B, 4, 3, 1\]"
    ):
        apply(model, params, jnp.ones((2, *shape), kind), method="encode")
    with pytest.raises(InputError, match=rf"^codes z have shape \[2, 3\] and dtype {kind}; pass floats \[..., 3\]"):
        apply(model, params, jnp.ones((2, 3), kind), method="decode")


def test_a_log_scale_head_is_initialized_like_the_other_layers_and_returns_the_log_scale():
    shape = (4, 4, 1)
    model, params = built("mlp", shape, latent_layers=(3,), layer_hidden=(5,), scale_head="log-scale")
    heads = {
        "posterior": params["posterior_log_scale"],
        "upwards": params["posterior_layers_0"]["log_scale"],
        "downwards": params["prior_layers_0"]["log_scale"],
    }
    for name, head in heads.items():
        bound = np.sqrt(6 / sum(head["kernel"].shape))  # Glorot's
        assert bound / 2 < np.abs(head["kernel"]).max() <= bound, name
        np.testing.assert_array_equal(head["bias"], 0, err_msg=name)
    x, shift = random_images(shape), 0.3
    before = apply(model, params, x, method="encode")
    head = heads["posterior"]
    params = params | {"posterior_log_scale": head | {"bias": head["bias"] + shift}}
    after = apply(model, params, x, method="encode")
    np.testing.assert_allclose(after.log_scale - before.log_scale, shift, rtol=1e-4)


def layered():
    """Return (model, params) of three layers away from the initial parameters, with images [4, 4, 1]."""
    return small_model(latent_layers=(5, 4), layer_hidden=(7, 3))


def test_each_layer_of_the_posterior_is_given_the_layer_below_and_of_the_prior_the_layer_above():
    model, params = layered()
    x = binary_images(2)
    q = apply(model, params, x, method="encode")
    draw = from_posterior(jax.random.key(1), 2, 6)
    _, latents = model.apply({"params": params}, draw, q, method="decode")
    assert [latent.name for latent in latents] == list(model.latent_sizes)
    values = [latent.z for latent in latents]
    upwards = [q, *(conditional(model, params, "posterior", i, z) for i, z in enumerate(values[:-1]))]
    downwards = [*(conditional(model, params, "prior", 1 - i, z) for i, z in enumerate(values[1:])), None]
    for latent, posterior, prior in zip(latents, upwards, downwards, strict=True):
        np.testing.assert_allclose(latent.log_q, posterior.log_prob(latent.z), rtol=1e-5)
        prior = prior or standard_normal((3,))
        np.testing.assert_allclose(latent.log_p, prior.log_prob(latent.z), rtol=1e-5)
    assert len({z.shape for z in values}) == 3


def conditional(model, params, direction, i, z):
    """Return the density of module i of the layers `posterior` or `prior`, given z."""
    module = getattr(model, f"{direction}_layers")[i]
    return module.apply({"params": params[f"{direction}_layers_{i}"]}, z)


def test_samples_of_the_prior_are_drawn_from_the_top():
    model, params = layered()
    p_x, latents = model.apply({"params": params}, from_prior(jax.random.key(0), 8), method="decode")
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
    _, latents = model.apply({"params": params}, from_means(), q, method="decode")
    np.testing.assert_allclose(latents[0].z, q.mean(), rtol=1e-6)
    np.testing.assert_allclose(latents[1].z, conditional(model, params, "posterior", 0, q.mean()).mean(), rtol=1e-5)
    expected = apply(model, params, {latent.name: latent.z for latent in latents}, method="decode")
    np.testing.assert_allclose(model.apply({"params": params}, {"x": x}).logits, expected.logits, rtol=1e-5)


def test_codes_of_another_size_are_refused():
    model, params = layered()
    values = {"z1": jnp.ones((2, 5)), "z2": jnp.ones((2, 4)), "z3": jnp.ones((2, 4))}
    with pytest.raises(InputError, match=r"^codes z3 have shape \[2, 4\] and dtype float32; pass floats \[..., 3\]"):
        apply(model, params, values, method="decode")
    with pytest.raises(InputError, match=r"^codes z1 have shape \[2, 6\] and dtype float32; pass floats \[..., 5\]"):
        apply(model, params, values | {"z1": jnp.ones((2, 6)), "z3": jnp.ones((2, 3))}, method="decode")


def test_latent_size_of_the_exact_model():
    model, params, _ = exact_model()
    assert apply(model, params, images().astype(jnp.float32), method="encode").mean().shape == (4, LATENT)


@pytest.mark.usefixtures("x64")
def test_the_parameters_of_two_layers_have_the_shapes_of_init():
    model, params, _ = two_layer_model()
    made = init(model, jax.random.key(0), images())["params"]
    assert jax.tree.map(jnp.shape, made) == jax.tree.map(jnp.shape, params)


def test_a_run_of_two_layers_is_trained_evaluated_and_plotted(small, tmp_path):
    layers = {"model__latent_layers": (3,), "model__layer_hidden": (4,), "objective__name": "iwae"}
    config = small(**layers, objective__num_samples=2, objective__estimator="doubly-reparameterized")
    run, train_images = opening.prepare_run(config, tmp_path / "run")
    params = train_loop.fit(run, train_images).state.params
    found = evaluation.evaluate_run(run, params, split="test")
    assert found["kl"] == pytest.approx(found["kl_1"] + found["kl_2"], rel=1e-5)
    assert found["nll"] < -found["elbo"] + 1
    assert len(found["active_units_by_layer"]) == 2
    assert sum(found["active_units_by_layer"]) == found["active_units"]
    codes = decoding.encode_images(run, params, run.key, run.images("test")[:5])
    assert codes["mean"].shape == codes["scale"].shape == (5, 5)
    figures = {path.stem for path in plots.plot_all(run, params)}
    assert figures == {"samples", "reconstructions", "traversals", "curves", "interpolations"}
