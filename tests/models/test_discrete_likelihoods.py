"""The families of p(x|z) of counts and categories: parameters, initial outputs, and an exact probability."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from built_models import built
from jitted import apply, log_prob
from scipy import stats

from vae_jax.config import choices
from vae_jax.distributions import Categorical, NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial
from vae_jax.models.discrete_likelihoods import (
    CategoricalConfig,
    NegativeBinomialConfig,
    PoissonConfig,
    ZeroInflatedNegativeBinomialConfig,
)
from vae_jax.models.vae import with_output_bias

COUNTS = {
    "poisson": Poisson,
    "negative-binomial": NegativeBinomial,
    "zero-inflated-negative-binomial": ZeroInflatedNegativeBinomial,
}
X = jnp.array([[0.0, 3.0, 1.0, 40.0], [2.0, 0.0, 7.0, 12.0]])


@pytest.mark.parametrize(("likelihood", "kind"), COUNTS.items())
def test_every_likelihood_of_counts(likelihood, kind):
    model, params = built("mlp", (4,), likelihood=likelihood, network__log1p=True)
    q = apply(model, params, X, method="encode")
    p = apply(model, params, jnp.broadcast_to(q.mean(), (3, 2, 3)), method="decode")
    assert isinstance(p, kind)
    assert p.mean().shape == (3, 2, 4)
    density = log_prob(p, X)
    assert density.shape == (3, 2)
    assert np.all(np.isfinite(density))
    assert np.all(density < 0)


@pytest.mark.parametrize("likelihood", COUNTS)
def test_the_output_starts_at_the_mean_of_the_data(likelihood):
    model, params = built("mlp", (4,), likelihood=likelihood)
    mean = jnp.array([0.5, 3.0, 120.0, 0.0])
    params = with_output_bias(params, mean, likelihood=model.likelihood)
    silent = jax.tree.map(jnp.zeros_like, params["decoder"])
    p = apply(model, params | {"decoder": silent}, jnp.ones((2, 3)), method="decode")
    np.testing.assert_allclose(p.mean(), [[0.5, 3.0, 120.0, 0.001]] * 2, rtol=1e-5)


@pytest.mark.parametrize("likelihood", ["negative-binomial", "zero-inflated-negative-binomial"])
def test_each_number_has_a_learned_dispersion(likelihood):
    model, params = built("mlp", (4,), likelihood=likelihood)
    assert params["likelihood_log_dispersion"].shape == (4,)
    density = lambda w: log_prob(apply(model, w, jnp.zeros((2, 3)), method="decode"), X).sum()  # noqa: E731
    assert np.all(jax.jit(jax.grad(density))(params)["likelihood_log_dispersion"] != 0)
    changed = params | {"likelihood_log_dispersion": jnp.arange(4.0)}
    p = apply(model, changed, jnp.zeros((2, 3)), method="decode")
    np.testing.assert_array_equal(p.log_dispersion, [[0, 1, 2, 3]] * 2)


def test_the_features_are_log_means_and_then_log_odds_of_zeros():
    config = ZeroInflatedNegativeBinomialConfig()
    assert config.num_features(4) == 8
    features = jnp.array([[1.0, 2.0, -0.5, 0.3]])
    p = config.distribution(features, {"log_dispersion": jnp.array([0.4, -0.2])}, (2,))
    np.testing.assert_array_equal(p.log_mean, [[1.0, 2.0]])
    np.testing.assert_array_equal(p.dropout_logits, np.float32([[-0.5, 0.3]]))
    np.testing.assert_array_equal(p.log_dispersion, np.float32([[0.4, -0.2]]))


def test_probabilities_are_those_of_scipy():
    log_mean, log_r, x = np.array([0.5, 1.5]), np.array([0.2, 2.0]), np.array([2.0, 0.0])
    mean, r = np.exp(log_mean), np.exp(log_r)
    poisson = PoissonConfig().distribution(jnp.float32(log_mean), {}, (2,))
    np.testing.assert_allclose(poisson.log_prob(jnp.float32(x)), stats.poisson(mean).logpmf(x).sum(), rtol=1e-5)
    parameters = {"log_dispersion": jnp.float32(log_r)}
    negative = NegativeBinomialConfig().distribution(jnp.float32(log_mean), parameters, (2,))
    expected = stats.nbinom(r, r / (r + mean)).logpmf(x)
    np.testing.assert_allclose(negative.log_prob(jnp.float32(x)), expected.sum(), rtol=1e-5)
    features = jnp.float32(np.concatenate([log_mean, [0.0, 0.0]]))
    inflated = ZeroInflatedNegativeBinomialConfig().distribution(features, parameters, (2,))
    halved = 0.5 * np.exp(expected) + 0.5 * (x == 0)
    np.testing.assert_allclose(inflated.log_prob(jnp.float32(x)), np.log(halved).sum(), rtol=1e-5)


def test_categories_are_one_hot_along_the_last_axis():
    model, params = built("mlp", (4, 3), likelihood="categorical")
    x = jax.nn.one_hot(jnp.array([[0, 2, 1, 1], [2, 2, 0, 1]]), 3)
    p = apply(model, params, apply(model, params, x, method="encode").mean(), method="decode")
    assert isinstance(p, Categorical)
    expected = (x * jax.nn.log_softmax(p.logits)).sum(axis=(1, 2))
    np.testing.assert_allclose(log_prob(p, x), expected, rtol=1e-5)
    frequency = jnp.array([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0], [0.2, 0.2, 0.6], [0.1, 0.8, 0.1]])
    start = CategoricalConfig().distribution(CategoricalConfig().initial_bias(frequency), {}, (4, 3))
    np.testing.assert_allclose(start.mean(), frequency, atol=2e-3)
    assert start.mean().min() > 5e-4


def test_what_x_may_hold():
    for name in COUNTS:
        cls = choices("likelihood")[name]
        assert (cls.kinds, cls.scores, cls.accepts) == (("counts",),) * 3
    assert CategoricalConfig.scores == CategoricalConfig.accepts == ("categories",)
