"""The families of q(z|x): their distributions, initial scales, kernels, and the objectives that they allow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from built_models import built, random_images
from jitted import apply, init

from vae_jax.config import Config, choices, override
from vae_jax.distributions import Deterministic, Flow, Normal
from vae_jax.errors import InputError
from vae_jax.models.posteriors import (
    ConditionalNormal,
    DeterministicConfig,
    FixedNoise,
    FixedNoiseConfig,
    GaussianPosteriorConfig,
    PointMass,
    SpatialPosterior,
)

H = np.random.default_rng(0).normal(size=(2, 5)).astype(np.float32)


def made(module):
    """Return (the distribution for H, parameters) of a module at its initial parameters."""
    params = init(module, jax.random.key(0), H)["params"]
    return module.apply({"params": params}, H), params


@pytest.mark.parametrize("module", [ConditionalNormal(3), FixedNoise(3, 0.4), PointMass(3)])
def test_the_mean_is_a_dense_layer_whose_kernel_a_tied_decoder_receives(module):
    q, params = made(module)
    np.testing.assert_allclose(q.mean(), H @ params["mean"]["kernel"], rtol=1e-5, atol=1e-6)
    (kernel,) = module.apply({"params": params}, method="kernels")
    np.testing.assert_array_equal(kernel, params["mean"]["kernel"])


@pytest.mark.parametrize("module", [ConditionalNormal(3, scale_head="log-scale"), FixedNoise(3, 0.4), PointMass(3)])
def test_a_posterior_is_shared_by_the_places_of_a_feature_map(module):
    features = np.random.default_rng(1).normal(size=(2, 4, 5)).astype(np.float32)  # of 4 places
    spatial = SpatialPosterior(4, module)
    params = init(spatial, jax.random.key(0), features.reshape(2, -1))["params"]
    q = spatial.apply({"params": params}, features.reshape(2, -1))
    assert q.batch_shape == (2,)
    for place in range(4):
        one = module.apply({"params": params["posterior"]}, features[:, place])
        for moment in ("mean", "stddev"):
            found = getattr(q, moment)()[:, 3 * place : 3 * place + 3]
            np.testing.assert_allclose(found, getattr(one, moment)(), rtol=1e-5, atol=1e-6)


def test_the_scale_is_one_at_first_constant_or_zero():
    gaussian, params = made(ConditionalNormal(3))
    np.testing.assert_array_equal(gaussian.stddev(), np.ones((2, 3)))
    assert set(params) == {"mean", "log_variance"}
    fixed, params = made(FixedNoise(3, 0.4))
    np.testing.assert_allclose(fixed.stddev(), np.full((2, 3), 0.4), rtol=1e-6)
    assert set(params) == {"mean"}
    point, params = made(PointMass(3))
    assert isinstance(point, Deterministic)
    assert set(params) == {"mean"}


def test_the_head_returns_half_the_log_variance_or_the_log_scale():
    for head, factor in {"log-variance": 0.5, "log-scale": 1.0}.items():
        module = ConditionalNormal(3, scale_head=head)
        _, params = made(module)
        name = head.replace("-", "_")
        bias = jnp.array([0.0, 1.0, -2.0])
        params = params | {name: {"kernel": jnp.zeros((5, 3)), "bias": bias}}
        q = module.apply({"params": params}, H)
        np.testing.assert_allclose(q.log_scale, np.broadcast_to(factor * bias, (2, 3)), rtol=1e-6)


def test_a_log_scale_head_is_initialized_like_the_other_layers():
    _, params = made(ConditionalNormal(3, (4,), scale_head="log-scale"))
    head = params["log_scale"]
    bound = np.sqrt(6 / sum(head["kernel"].shape))  # Glorot's
    assert bound / 2 < np.abs(head["kernel"]).max() <= bound
    np.testing.assert_array_equal(head["bias"], 0)


def test_hidden_layers_and_leading_axes():
    module = ConditionalNormal(3, (4, 6), jax.nn.softplus)
    _, params = made(module)
    h = H
    for layer in (params["Dense_0"], params["Dense_1"]):
        h = np.log1p(np.exp(h @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])))
    q = module.apply({"params": params}, H[None])
    assert q.mean().shape == (1, 2, 3)
    np.testing.assert_allclose(q.mean()[0], h @ params["mean"]["kernel"], rtol=1e-4, atol=1e-5)


def test_the_settings_are_those_of_the_modules():
    assert GaussianPosteriorConfig("log-scale").build(3) == ConditionalNormal(3, scale_head="log-scale")
    layer = GaussianPosteriorConfig("log-scale").build_layer(3, (4,), jax.nn.relu)
    assert layer == ConditionalNormal(3, (4,), jax.nn.relu, "log-scale")
    assert FixedNoiseConfig(0.2).build(3) == FixedNoise(3, 0.2)
    assert DeterministicConfig().build(3) == PointMass(3)


def test_what_each_family_is_capable_of():
    families = choices("posterior")
    assert {name for name, cls in families.items() if not cls.has_density} == {"deterministic"}
    assert {name for name, cls in families.items() if cls.supports_layers} == {"gaussian"}
    assert {name for name, cls in families.items() if cls.is_flow} == {"planar", "iaf", "coupling"}
    for name, cls in families.items():
        if cls.has_codes:
            continue
        module = cls().build(3)
        q, _ = made(module)
        assert isinstance(q, Flow if cls.is_flow else Normal) is cls.has_density, name
        assert hasattr(module, "kernels") is cls.supports_tied, name


def test_a_deterministic_posterior_has_no_variance():
    model, params = built("mlp", (8, 8, 1), posterior="deterministic")
    assert isinstance(apply(model, params, random_images((8, 8, 1)), method="encode"), Deterministic)
    assert set(params["posterior"]) == {"mean"}


@pytest.mark.fault
def test_settings_that_a_posterior_does_not_support_are_refused():
    point = {"posterior": "deterministic", "objective": "reconstruction"}
    override(Config(), **point)
    with pytest.raises(InputError, match=r"^objective=iwae must be reconstruction with posterior=deterministic, which"):
        override(Config(), posterior="deterministic", objective="iwae")
    with pytest.raises(
        InputError, match=r"^objective\.num_samples=2 must be 1 with posterior=deterministic, whose sam"
    ):
        override(Config(), **point, objective__num_samples=2)
    with pytest.raises(InputError, match=r"^posterior\.noise_scale=0.0 must be greater than 0"):
        override(Config(), posterior="fixed-noise", posterior__noise_scale=0.0)
    with pytest.raises(
        InputError, match=r"^posterior\.scale_head has no effect with posterior=fixed-noise; remove it "
    ):
        override(Config(), posterior="fixed-noise", posterior__scale_head="log-scale")
    with pytest.raises(InputError, match=r"^posterior='point' must be one of "):
        override(Config(), posterior="point")
