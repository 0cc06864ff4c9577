"""Every bound, its bias and its gradient on linear-Gaussian models, against log p(x) and other closed forms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jitted import negative_bound, sample_terms
from linear_gaussian import SCALE, SHIFT, STRETCH, exact_model, images, shifted_model

from vae_jax.inference import aggregate, elbos, importance
from vae_jax.inference.objectives import OBJECTIVES
from vae_jax.inference.terms import Pair, bind

BOUNDS = {
    "sampled-elbo": {},
    "iwae": {},
    "renyi": {"alpha": 0.5},
    "miwae": {"num_inner_samples": 2},
    "ciwae": {"elbo_weight": 0.5},
    "piwae": {"num_inner_samples": 2},
    "cubo": {"order": 2.0},
    "beta-tc": {"beta": 1.0, "num_examples": 100},
}


@pytest.fixture(autouse=True)
def _x64():
    with jax.enable_x64(True):
        yield


def bound_named(name):
    return bind(OBJECTIVES[name], **BOUNDS[name])


def log_moment(t, deviation):
    """log E_q[(p(z|x) / q(z|x))^t], by the Gaussian integral of p^t q^(1-t) in each dimension."""
    p, q = deviation, deviation * STRETCH
    precision = t / p**2 + (1 - t) / q**2
    exponent = -0.5 * (t / p**2) * ((1 - t) / q**2) / precision * SHIFT**2
    return np.sum(-t * np.log(p) - (1 - t) * np.log(q) - 0.5 * np.log(precision) + exponent)


def log_evidence(params, x):
    """log N(x; b, W Wᵀ + σ² I) of the linear decoder, [B], differentiable."""
    weights, offset = params["decoder"]["Dense_0"]["kernel"], params["output_bias"].reshape(-1)  # [D, P], [P]
    covariance = weights.T @ weights + SCALE**2 * jnp.eye(len(offset))
    density = lambda row: jax.scipy.stats.multivariate_normal.logpdf(row, offset, covariance)  # noqa: E731
    return jax.vmap(density)(x.reshape(len(x), -1))


@pytest.mark.parametrize("name", BOUNDS)
def test_with_the_exact_posterior_every_bound_is_the_evidence(name):
    model, params, evidence = exact_model()
    x = images()
    terms = sample_terms(params, jax.random.key(0), x, model=model, num_samples=4)
    objective = bound_named(name)
    np.testing.assert_allclose(objective(terms), evidence(x), rtol=1e-9)
    if isinstance(objective, Pair):
        np.testing.assert_allclose(np.abs(objective.inference(terms)), np.abs(evidence(x)), rtol=1e-9)


@pytest.mark.parametrize("name", BOUNDS)
def test_with_the_exact_posterior_every_expected_gradient_is_that_of_the_evidence(name):
    model, params, _ = exact_model()
    x = images()
    decoder = ("decoder", "output_bias")
    exact = jax.grad(lambda p: log_evidence(p, x).mean())(params)
    loss = functools.partial(negative_bound, model=model, objective=bound_named(name), num_samples=4)
    gradient = jax.grad(lambda p, key: -loss(p, key, x)[0])
    found = jax.jit(jax.vmap(gradient, in_axes=(None, 0)))(params, jax.random.split(jax.random.key(0), 4000))
    for part in params:
        target = exact[part] if part in decoder else jax.tree.map(jnp.zeros_like, params[part])  # q is at its best
        for each, truth in zip(jax.tree.leaves(found[part]), jax.tree.leaves(target), strict=True):
            error = each.std(axis=0) / np.sqrt(len(each))
            np.testing.assert_array_less(np.abs(each.mean(axis=0) - truth), 5 * error + 1e-12)
            assert part not in decoder or np.all(error < 0.1 * np.abs(truth).max())  # the test can tell


def estimates(objective, num_samples, count=64):
    """Means over `count` images of a bound minus log p(x), and their standard errors."""
    model, params, evidence, _ = shifted_model()
    x = images(count)
    terms = sample_terms(params, jax.random.key(5), x, model=model, num_samples=num_samples)
    gap = np.asarray(objective(terms)) - evidence(x)
    return gap.mean(), gap.std() / np.sqrt(count)


@pytest.mark.parametrize("alpha", [-1.0, -0.5, 0.25, 0.5, 2.0])
def test_renyi_with_many_samples_is_its_closed_form(alpha):
    gap, error = estimates(bind(importance.renyi, alpha=alpha), 20_000)
    *_, deviation = shifted_model()
    expected = log_moment(1 - alpha, deviation) / (1 - alpha)
    assert (expected > 0) == (alpha < 0)
    assert abs(gap - expected) < 4 * error < 0.2 * abs(expected)


def test_the_elbo_is_its_closed_form():
    gap, error = estimates(elbos.sampled_elbo, 20_000)
    *_, deviation = shifted_model()
    kl = np.sum(-np.log(STRETCH) + 0.5 * (STRETCH**2 + (SHIFT / deviation) ** 2 - 1))
    assert abs(gap + kl) < 4 * error < 0.2 * kl


@pytest.mark.parametrize("order", [1.5, 2.0, 2.5])
def test_cubo_with_many_samples_lies_above_the_evidence_as_far_as_its_closed_form_says(order):
    gap, error = estimates(bind(importance.cubo, order=order), 20_000)
    *_, deviation = shifted_model()
    expected = log_moment(order, deviation) / order
    assert expected > 0
    assert abs(gap - expected) < 4 * error < 0.2 * expected


def test_the_bias_of_iwae_falls_as_one_over_the_number_of_samples():
    """K (log p(x) - E IWAE_K) tends to χ²(p(z|x) || q(z|x)) / 2; E mean(w)/p(x) = 1 takes most of the noise away."""
    model, params, evidence, deviation = shifted_model()
    limit = np.expm1(log_moment(2.0, deviation)) / 2
    x = images(3000)
    log_px = jnp.asarray(evidence(x))
    counts, scaled = np.array([8, 32, 128]), []
    for k in counts:
        terms = sample_terms(params, jax.random.key(k), x, model=model, num_samples=int(k))
        gap = importance.iwae(terms) - log_px  # [B]
        bias = gap - jnp.expm1(gap)  # exp(gap) is mean(w)/p(x), of mean 1
        scaled.append((float(-k * bias.mean()), float(k * bias.std() / np.sqrt(len(x)))))
    (_, _), (_, _), (last, error) = scaled
    assert abs(last - limit) < 4 * error + 0.1 * limit  # what is left is of order 1/K
    assert error < 0.1 * limit
    slope = np.polyfit(np.log(counts), [np.log(value / k) for (value, _), k in zip(scaled, counts, strict=True)], 1)[0]
    assert abs(slope + 1) < 0.1


def test_aggregate_posterior_of_the_exact_model_is_the_prior():
    """Of x ~ p(x), q(z) = E q(z|x) is p(z): no discrepancy on average, and next to no total correlation."""
    model, params, _ = exact_model()
    z = jax.random.normal(jax.random.key(0), (400, 2))
    mean = model.apply({"params": params}, z, method="decode").mean()
    x = mean + SCALE * jax.random.normal(jax.random.key(1), mean.shape)
    terms = sample_terms(params, jax.random.key(2), x, model=model)
    information, correlation, latent_kl = (
        float(p.mean()) for p in aggregate.kl_decomposition(terms, num_examples=len(x))
    )
    assert abs(correlation) < 0.1
    assert abs(latent_kl) < 0.1
    np.testing.assert_allclose(information + correlation + latent_kl, (terms.log_qz - terms.log_pz).mean(), rtol=1e-9)
    exact = -np.asarray(params["posterior_log_variance"]["bias"]).sum() / 2  # H(z) - H(z|x), nats
    assert abs(information - exact) < 0.2 * exact
    discrepancy = np.asarray(aggregate.squared_mmd(terms))
    assert abs(discrepancy.mean()) < 0.01
