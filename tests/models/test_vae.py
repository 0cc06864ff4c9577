"""The VAE: shapes and densities of its three functions for every network, posterior and likelihood."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from built_models import NETWORKS, built, random_images
from jitted import apply, init, log_prob
from linear_gaussian import LATENT, exact_model, images
from two_layer_gaussian import two_layer_model

from vae_jax.distributions.bernoulli import Bernoulli
from vae_jax.distributions.deterministic import Deterministic
from vae_jax.distributions.logistic_mixture import DiscretizedLogisticMixture
from vae_jax.distributions.normal import Normal
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
    prior = model.apply({"params": params}, method="prior")
    np.testing.assert_array_equal(prior.mean(), np.zeros(3))
    np.testing.assert_array_equal(prior.log_scale, np.zeros(3))


@pytest.mark.parametrize(
    ("likelihood", "mean"),
    [("bernoulli", 0.3), ("gaussian", 0.3), ("learned-gaussian", 0.3), ("logistic-mixture", 0.5)],
)
def test_the_output_starts_at_the_mean_image(likelihood, mean):
    shape = (6, 4, 1)
    model, params = built("mlp", shape, likelihood=likelihood)
    params = with_output_bias(params, jnp.full(shape, 0.3), likelihood=likelihood)
    silent = jax.tree.map(jnp.zeros_like, params["decoder"])
    p = model.apply({"params": params | {"decoder": silent}}, jnp.ones((2, 3)), method="decode")
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
    with pytest.raises(InputError, match=rf"^codes have shape \[2, 3\] and dtype {kind}; pass floats \[..., 3\]"):
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
    before = apply(model, params, x, method="encode").along_means()
    head = heads["posterior"]
    params = params | {"posterior_log_scale": head | {"bias": head["bias"] + shift}}
    after = apply(model, params, x, method="encode").along_means()
    np.testing.assert_allclose((after.log_scale - before.log_scale)[:, :3], shift, rtol=1e-4)


def test_latent_size_of_the_exact_model():
    model, params, _ = exact_model()
    assert model.apply({"params": params}, images().astype(jnp.float32), method="encode").mean().shape == (4, LATENT)


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
