"""The families of p(x|z) of images and real numbers: parameters, initial outputs, and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from built_models import NETWORKS, built, random_images
from jitted import apply, log_prob
from subsets import by_default

from vae_jax.config import Config, apply_overrides, choices, override
from vae_jax.data import from_arrays
from vae_jax.distributions import Bernoulli, ContinuousBernoulli, DiscretizedLogisticMixture, Normal, StudentT
from vae_jax.errors import InputError
from vae_jax.models.likelihoods import (
    ContinuousBernoulliConfig,
    HeteroscedasticGaussianConfig,
    LogisticMixtureConfig,
    StudentTConfig,
)
from vae_jax.models.vae import with_output_bias
from vae_jax.runs.experiment.experiment import build_experiment

FAMILIES = {
    "bernoulli": Bernoulli,
    "continuous-bernoulli": ContinuousBernoulli,
    "gaussian": Normal,
    "learned-gaussian": Normal,
    "heteroscedastic-gaussian": Normal,
    "student-t": StudentT,
    "logistic-mixture": DiscretizedLogisticMixture,
}


@pytest.mark.parametrize(
    ("network", "likelihood", "kind"),
    by_default(
        lambda case: case[0] == "mlp" or case[1] == "logistic-mixture",
        [(network, *family) for network in NETWORKS for family in FAMILIES.items()],
    ),
)
def test_every_likelihood_with_every_network(network, likelihood, kind):
    shape = (4, 3, 3)
    model, params = built(network, shape, likelihood=likelihood)
    p = apply(model, params, jnp.zeros((2, 3)), method="decode")
    assert isinstance(p, kind)
    assert p.mean().shape == (2, *shape)
    density = log_prob(p, random_images(shape))
    assert density.shape == (2,)
    assert np.all(np.isfinite(density))


@pytest.mark.parametrize("likelihood", sorted(FAMILIES.keys() - {"logistic-mixture"}))
def test_vectors_are_one_event(likelihood):
    model, params = built("mlp", (5,), likelihood=likelihood)
    p = apply(model, params, jnp.zeros((4, 2, 3)), method="decode")
    assert p.mean().shape == (4, 2, 5)
    assert log_prob(p, random_images((5,))).shape == (4, 2)


def test_the_gaussian_scales_are_those_of_the_settings():
    shape = (6, 4, 1)
    model, params = built("mlp", shape, likelihood="gaussian", likelihood__scale=0.25)
    p = apply(model, params, jnp.zeros((2, 3)), method="decode")
    np.testing.assert_allclose(jnp.exp(p.log_scale), 0.25, rtol=1e-6)


def test_the_heteroscedastic_scales_are_outputs_of_the_decoder_above_a_minimum():
    """σ = σ_min + log2(1 + 2^s) of s = 0, 3, -1000, and a mean that is not affected."""
    config = HeteroscedasticGaussianConfig(min_scale=0.25)
    features = jnp.asarray([[[5.0, 0.0], [6.0, 3.0], [7.0, -1000.0]]])  # [1, H = 3, 2C]
    p = config.distribution(features, {}, (3, 1))
    np.testing.assert_array_equal(p.mean(), [[[5], [6], [7]]])
    np.testing.assert_allclose(p.stddev(), [[[1.25], [0.25 + np.log2(9)], [0.25]]], rtol=1e-6)
    gradient = jax.grad(lambda f: config.distribution(f, {}, (3, 1)).log_prob(jnp.zeros((3, 1))).sum())(features)
    assert np.isfinite(gradient).all()
    assert (np.abs(gradient[0, :2]) > 0.01).all()
    assert log_prob(p, jnp.zeros((3, 1))).shape == (1,)


@pytest.mark.parametrize(
    ("likelihood", "shapes"),
    [
        ("learned-gaussian", {"log_scale": ()}),
        ("student-t", {"log_scale": (6, 4, 1), "log_df": (6, 4, 1)}),
    ],
)
def test_learned_parameters_are_parameters_of_the_model_and_have_a_gradient(likelihood, shapes):
    shape = (6, 4, 1)
    model, params = built("mlp", shape, likelihood=likelihood)
    density = lambda w: log_prob(apply(model, w, jnp.zeros((2, 3)), method="decode"), random_images(shape)).sum()  # noqa: E731
    gradient = jax.jit(jax.grad(density))(params)
    names = {name for name in params if name.startswith("likelihood_")}
    assert names == {f"likelihood_{name}" for name in shapes}
    for name, parameter_shape in shapes.items():
        assert params[f"likelihood_{name}"].shape == parameter_shape
        assert np.all(gradient[f"likelihood_{name}"] != 0)
    changed = params | {name: params[name] + 0.3 for name in names}
    p = apply(model, changed, jnp.zeros((2, 3)), method="decode")
    np.testing.assert_allclose(p.log_scale, np.full((2, *shape), 0.3), rtol=1e-6)


def test_each_number_of_the_student_t_has_a_scale_and_ten_degrees_of_freedom_at_first():
    config = StudentTConfig()
    parameters = config.parameters((3,))
    p = config.distribution(jnp.zeros((2, 3)), parameters | {"log_scale": jnp.arange(3.0)}, (3,))
    np.testing.assert_allclose(p.log_scale, [[0, 1, 2]] * 2)
    np.testing.assert_allclose(jnp.exp(p.log_df), np.full((2, 3), 10.0), rtol=1e-5)


@pytest.mark.parametrize(
    ("likelihood", "mean"),
    [
        ("bernoulli", 0.3), ("gaussian", 0.3), ("learned-gaussian", 0.3), ("student-t", 0.3),
        ("heteroscedastic-gaussian", 0.3), ("continuous-bernoulli", 0.3), ("logistic-mixture", 0.3),
    ],
)  # fmt: skip
def test_the_output_starts_at_the_mean_of_the_data(likelihood, mean):
    shape = (6, 4, 1)
    model, params = built("mlp", shape, likelihood=likelihood)
    params = with_output_bias(params, jnp.full(shape, 0.3), likelihood=model.likelihood)
    silent = jax.tree.map(jnp.zeros_like, params["decoder"])
    p = apply(model, params | {"decoder": silent}, jnp.ones((2, 3)), method="decode")
    np.testing.assert_allclose(p.mean(), mean, rtol=1e-5)


def colour_gradients(count=300, side=8):
    """Colour images that differ by a gradient of brightness and, much less, by their hue, uint8."""
    rng = np.random.default_rng(0)
    right = np.linspace(0, 1, side)
    weights = np.stack([1 - right, right], axis=1)
    brightness = 0.5 + np.einsum("ya,nab,xb->nyx", weights, rng.normal(0, 0.2, (count, 2, 2)), weights)
    hue, noise = rng.normal(0, 0.04, (count, 1, 1, 3)), rng.normal(0, 0.01, (count, side, side, 3))
    return np.rint(255 * np.clip(brightness[..., None] + hue + noise, 0, 1)).astype(np.uint8)


def explained(x, y):
    """The fraction of the variance of images x [N, H, W] that reconstructions y explain."""
    return 1 - ((x - y) ** 2).mean() / ((x - x.mean(0)) ** 2).mean()


@pytest.mark.parametrize(
    "likelihood",
    by_default(lambda name: name in ("bernoulli", "logistic-mixture"),
               sorted(n for n, cls in choices("likelihood").items() if "images" in cls.kinds)),
)  # fmt: skip
def test_reconstructions_show_brightness_and_each_channel(likelihood):
    settings = {
        "preprocess": "scale", "likelihood": likelihood, "posterior": "deterministic", "objective": "reconstruction",
        "network": "conv", "network.hidden": (8,), "network.activation": "gelu", "model.latent_dim": 8,
        "optimizer.learning_rate": 1e-2, "train.steps": 120, "train.batch_size": 16, "train.log_every": 10,
        "train.evaluate_every": 0, "train.save_every": 120,
    }  # fmt: skip
    if likelihood == "logistic-mixture":
        settings["likelihood.components"] = 3
    images = colour_gradients()
    experiment = build_experiment(apply_overrides(Config(), settings), source=from_arrays(images))
    state, _ = jax.jit(experiment.train)(experiment.key)
    x = images[:200].astype(np.float32) / 255
    codes = apply(experiment.model, state.params, {"x": jnp.asarray(x)}, method="encode").mean()
    y = np.asarray(apply(experiment.model, state.params, codes, method="decode").mean())
    assert explained(x.mean(-1), y.mean(-1)) > 0.6
    assert all(explained(x[..., channel], y[..., channel]) > 0.6 for channel in range(3))


def test_the_continuous_bernoulli_starts_at_every_mean_from_a_hundredth():
    means = jnp.linspace(0, 1, 101)
    logits = ContinuousBernoulliConfig().initial_bias(means)
    found = ContinuousBernoulliConfig().distribution(logits, {}, (101,)).mean()
    np.testing.assert_allclose(found, np.clip(means, 0.01, 0.99), atol=1e-6)
    assert np.abs(logits).max() < 101


def test_a_pixel_that_is_always_off_or_on_starts_at_a_thousandth():
    shape = (1, 3, 1)
    model, params = built("mlp", shape)
    biased = with_output_bias(params, jnp.array([0.0, 0.002, 1.0]).reshape(shape), likelihood=model.likelihood)
    expected = np.log([0.001 / 0.999, 0.002 / 0.998, 0.999 / 0.001])
    np.testing.assert_allclose(biased["output_bias"].ravel(), expected, rtol=1e-4)


def test_the_mixture_has_the_components_of_its_setting():
    assert LogisticMixtureConfig(components=4).num_features(3) == 40
    assert LogisticMixtureConfig(components=4).num_features(1) == 12
    model, params = built("mlp", (2, 3, 1), likelihood="logistic-mixture", likelihood__components=4)
    assert params["output_bias"].shape == (2, 3, 12)
    assert apply(model, params, jnp.zeros((1, 3)), method="decode").logits.shape == (1, 2, 3, 4)


def test_what_x_may_hold_for_a_probability_or_density_without_a_caveat():
    scores = {name: cls.scores for name, cls in choices("likelihood").items() if name in FAMILIES}
    assert scores == {
        "bernoulli": ("binary",),
        "continuous-bernoulli": ("reals",),
        "gaussian": ("reals",),
        "learned-gaussian": ("reals",),
        "heteroscedastic-gaussian": ("reals",),
        "student-t": ("reals",),
        "logistic-mixture": ("levels",),
    }
    for cls in choices("likelihood").values():
        assert set(cls.scores) <= set(cls.accepts)


@pytest.mark.fault
def test_settings_of_likelihoods_are_checked():
    with pytest.raises(InputError, match=r"^likelihood\.scale=0.0 must be greater than 0"):
        override(Config(), likelihood="gaussian", likelihood__scale=0.0)
    with pytest.raises(
        InputError, match=r"^likelihood\.scale has no effect with likelihood=bernoulli; remove it or use"
    ):
        override(Config(), likelihood__scale=2.0)
    with pytest.raises(InputError, match=r"^likelihood='gausian' must be one of .*; did you mean 'gaussian'\?"):
        override(Config(), likelihood="gausian")
