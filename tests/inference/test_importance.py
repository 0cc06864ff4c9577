"""Importance-weighted bounds: closed forms with many samples, identities, order, and extreme weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jitted import sample_terms
from linear_gaussian import images, log_moment, shifted_model
from random_terms import K, objective_named, random_terms, terms_of_weights
from subsets import by_default

from vae_jax.config import Config, apply_overrides
from vae_jax.errors import InputError
from vae_jax.inference import elbos, importance
from vae_jax.inference.terms import Pair, bind, log_weights


def gap_to_evidence(objective, num_samples, count=64):
    """Return the mean over `count` images of a bound minus log p(x), and its standard error."""
    model, params, evidence, _ = shifted_model()
    x = images(count)
    terms = sample_terms(params, jax.random.key(5), x, model=model, num_samples=num_samples)
    gap = np.asarray(objective(terms)) - evidence(x)
    return gap.mean(), gap.std() / np.sqrt(count)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("alpha", by_default(lambda alpha: alpha in (-0.5, 0.5, 2.0), [-1.0, -0.5, 0.25, 0.5, 2.0]))
def test_renyi_with_many_samples_is_its_closed_form(alpha):
    gap, error = gap_to_evidence(bind(importance.renyi, alpha=alpha), 20_000)
    *_, deviation = shifted_model()
    expected = log_moment(1 - alpha, deviation) / (1 - alpha)
    assert (expected > 0) == (alpha < 0)
    assert abs(gap - expected) < 4 * error < 0.2 * abs(expected)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("order", [1.5, 2.0, 2.5])
def test_cubo_with_many_samples_exceeds_the_evidence_by_its_closed_form(order):
    gap, error = gap_to_evidence(bind(importance.cubo, order=order), 20_000)
    *_, deviation = shifted_model()
    expected = log_moment(order, deviation) / order
    assert expected > 0
    assert abs(gap - expected) < 4 * error < 0.2 * expected


@pytest.mark.usefixtures("x64")
def test_the_bias_of_iwae_falls_as_one_over_the_number_of_samples():
    """K (log p(x) - E IWAE_K) tends to χ²(p(z|x) || q(z|x)) / 2; E mean(w)/p(x) = 1 removes most of the noise."""
    model, params, evidence, deviation = shifted_model()
    limit = np.expm1(log_moment(2.0, deviation)) / 2
    x = images(3000)
    log_px = jnp.asarray(evidence(x))
    counts, scaled = np.array([8, 32, 128]), []
    for k in counts:
        terms = sample_terms(params, jax.random.key(k), x, model=model, num_samples=int(k))
        gap = importance.iwae(terms) - log_px  # [B]
        bias = gap - jnp.expm1(gap)  # exp(gap) is mean(w)/p(x), with mean 1
        scaled.append((float(-k * bias.mean()), float(k * bias.std() / np.sqrt(len(x)))))
    (_, _), (_, _), (last, error) = scaled
    assert abs(last - limit) < 4 * error + 0.1 * limit  # the remainder is of order 1/K
    assert error < 0.1 * limit
    slope = np.polyfit(np.log(counts), [np.log(value / k) for (value, _), k in zip(scaled, counts, strict=True)], 1)[0]
    assert abs(slope + 1) < 0.1


def test_identities():
    terms = random_terms(spread=2.0)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6)  # noqa: E731
    mean, iwae = elbos.sampled_elbo(terms), importance.iwae(terms)
    close(importance.renyi(terms, alpha=0.0), iwae)
    np.testing.assert_array_equal(importance.renyi(terms, alpha=1.0), mean)
    for alpha in (1 - 1e-6, 1 + 1e-6):
        close(importance.renyi(terms, alpha=alpha), mean)
    close(importance.cubo(terms, order=1.0), iwae)
    close(importance.cubo(terms, order=2.0), importance.renyi(terms, alpha=-1.0))
    close(importance.miwae(terms, num_inner_samples=1), mean)
    close(importance.miwae(terms, num_inner_samples=K), iwae)
    close(importance.ciwae(terms, elbo_weight=1.0), mean)
    close(importance.ciwae(terms, elbo_weight=0.0), iwae)
    one = terms_of_weights(log_weights(terms)[:1])
    for objective in (importance.iwae, bind(importance.renyi, alpha=0.4), bind(importance.cubo, order=2.0)):
        close(objective(one), log_weights(one)[0])


def test_order_of_the_bounds():
    terms = random_terms(spread=2.0)
    renyi = [importance.renyi(terms, alpha=alpha) for alpha in (3.0, 1.0, 0.5, 0.0, -1.0, -5.0)]
    miwae = [importance.miwae(terms, num_inner_samples=n) for n in (1, 2, 3, 6)]
    assert np.all(np.diff(renyi, axis=0) > 0)
    assert np.all(np.diff([miwae[0], miwae[2], miwae[3]], axis=0) > 0)
    assert np.all(np.diff([miwae[0], miwae[1], miwae[3]], axis=0) > 0)


def test_extreme_weights_have_finite_values_and_gradients():
    terms = random_terms(spread=300.0)
    for name in ("iwae", "renyi", "miwae", "ciwae", "cubo"):
        objective = objective_named(name)
        objective = objective.inference if isinstance(objective, Pair) else objective
        value, gradient = jax.value_and_grad(lambda log_px_z, f=objective: f(terms._replace(log_px_z=log_px_z)).sum())(
            terms.log_px_z
        )
        assert np.isfinite(value)
        assert np.all(np.isfinite(gradient))
        np.testing.assert_allclose(np.abs(gradient).sum(axis=0), 1.0, rtol=1e-5)  # a shift of log p(x) shifts the bound


def test_a_number_of_inner_samples_that_does_not_divide_the_samples_is_refused():
    with pytest.raises(ValueError, match="num_inner_samples=4 must divide the 6 samples"):
        importance.miwae(random_terms(), num_inner_samples=4)


@pytest.mark.parametrize("name", ["miwae", "piwae"])
def test_a_setting_of_inner_samples_that_does_not_divide_the_samples_is_refused(name):
    given = {"objective": name, "objective.num_samples": 6, "objective.num_inner_samples": 3}
    assert apply_overrides(Config(), given).objective.num_inner_samples == 3
    message = r"^objective\.num_inner_samples=4 must be a divisor of objective\.num_samples=6$"
    with pytest.raises(InputError, match=message):
        apply_overrides(Config(), given | {"objective.num_inner_samples": 4})


@pytest.mark.parametrize("alpha", [0.0, 0.5, 2.0])
def test_renyi_of_a_weight_of_0(alpha):
    log_w = np.array([0.0, 1.0, -np.inf])
    found = jax.jit(bind(importance.renyi, alpha=alpha))(terms_of_weights(jnp.asarray(log_w, jnp.float32)[:, None]))
    with np.errstate(all="ignore"):
        expected = np.log(np.mean(np.exp((1 - alpha) * log_w))) / (1 - alpha)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
