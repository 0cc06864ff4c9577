"""vae_jax/inference/inference_gap.py: the two gaps in closed form for linear-Gaussian models, and refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from code_models import code_config
from ladders import MLP, ladder
from linear_gaussian import SCALE, SHIFT, STRETCH, images, shifted_model
from scipy.stats import multivariate_normal
from small_model import binary_images, small_model

from vae_jax.errors import InputError
from vae_jax.inference import PosteriorOptimization, inference_gap
from vae_jax.models.build import build_model

SETTINGS = PosteriorOptimization(num_steps=200, num_samples=4, evaluation_samples=60, chunk=25)
estimate = jax.jit(inference_gap, static_argnames=("model", "settings"))


def single(params):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)


def test_an_exact_posterior_is_found_where_the_family_contains_it():
    model, params, evidence, deviation = shifted_model()
    x = np.asarray(images(6), np.float32)
    found = estimate(single(params), jax.random.key(0), {"x": x}, model=model, settings=SETTINGS)
    expected = evidence(x)
    np.testing.assert_allclose(found.optimized_elbo, expected, atol=2e-3)  # no approximation gap
    np.testing.assert_allclose(found.log_px, expected, atol=2e-3)
    # KL(q || p) of the encoder: the mean over 60 samples of each example, and of 6 examples
    kl = np.sum(-np.log(STRETCH) + (STRETCH**2 + (SHIFT / deviation) ** 2 - 1) / 2)
    gap = np.asarray(found.optimized_elbo - found.elbo)
    assert gap.mean() == pytest.approx(kl, abs=4 * gap.std() / np.sqrt(6) + 0.02)
    assert gap.min() > 0


def correlated_model():
    """Return (model, params, evidence, approximation gap) of a linear decoder whose columns are not orthogonal."""
    model, params, _, _ = shifted_model()
    weights = np.asarray(params["decoder"]["Dense_0"]["kernel"], np.float64).T @ np.array([[1.0, 0.4], [0.0, 1.0]])
    offset = np.asarray(params["output_bias"], np.float64).reshape(-1)
    evidence = multivariate_normal(offset, weights @ weights.T + SCALE**2 * np.eye(len(offset)))
    precision = np.eye(2) + weights.T @ weights / SCALE**2  # of p(z|x); the best q has its diagonal, and its mean
    gap = (np.log(np.diag(precision)).sum() - np.linalg.slogdet(precision)[1]) / 2
    params = params | {"decoder": {"Dense_0": {"kernel": jnp.asarray(weights.T)}}}
    return model, params, lambda x: evidence.logpdf(x.reshape(len(x), -1)), gap


def test_the_approximation_gap_of_a_correlated_posterior_is_the_closed_form():
    model, params, evidence, gap = correlated_model()
    x = np.asarray(images(12), np.float32)
    settings = PosteriorOptimization(num_steps=200, num_samples=16, evaluation_samples=400, chunk=100)
    found = estimate(single(params), jax.random.key(0), {"x": x}, model=model, settings=settings)
    approximation = np.asarray(evidence(x.astype(np.float64)) - found.optimized_elbo)
    assert gap > 0.05
    assert approximation.mean() == pytest.approx(gap, abs=4 * approximation.std() / np.sqrt(12))
    assert approximation.std() < gap
    np.testing.assert_allclose(found.log_px, evidence(x.astype(np.float64)), atol=0.15)
    assert np.asarray(found.pareto_k).shape == (12,)


def test_without_steps_both_bounds_are_those_of_the_encoder_and_chunks_do_not_matter():
    model, params, *_ = shifted_model()
    x, none = np.asarray(images(3), np.float32), PosteriorOptimization(num_steps=0, evaluation_samples=60, chunk=25)
    found = estimate(single(params), jax.random.key(0), {"x": x}, model=model, settings=none)
    np.testing.assert_array_equal(found.elbo, found.optimized_elbo)
    other = PosteriorOptimization(num_steps=0, evaluation_samples=60, chunk=60)
    again = estimate(single(params), jax.random.key(0), {"x": x}, model=model, settings=other)
    np.testing.assert_allclose(found.elbo, again.elbo, rtol=1e-5)
    assert (found.elbo < found.log_px).all()
    one = estimate(single(params), jax.random.key(1), {"x": x}, model=model, settings=none)
    assert np.abs(one.elbo - found.elbo).min() > 1e-3


def test_each_example_has_a_posterior_and_does_not_read_others():
    model, params, *_ = shifted_model()
    x = np.asarray(images(4), np.float32)
    keys = jax.random.split(jax.random.key(0), 4)
    both = estimate(single(params), keys[:2], {"x": x[:2]}, model=model, settings=SETTINGS)
    swapped = estimate(single(params), keys[jnp.array([0, 2])], {"x": x[[0, 2]]}, model=model, settings=SETTINGS)
    np.testing.assert_allclose(both.optimized_elbo[0], swapped.optimized_elbo[0], rtol=1e-5)
    np.testing.assert_allclose(both.elbo[0], swapped.elbo[0], rtol=1e-5)


@pytest.mark.parametrize("kind", [pytest.param("ladder", marks=pytest.mark.thorough), "codes", "flow"])
def test_models_without_one_gaussian_posterior_are_refused(kind):
    if kind == "ladder":
        model, params = ladder((6,), **MLP)
    elif kind == "codes":
        model = build_model(code_config(), (4, 4, 1))
        params = jax.eval_shape(model.init, jax.random.key(0), {"x": jnp.zeros((2, 4, 4, 1))})["params"]
    else:
        model, params = small_model(posterior="iaf")
    batch = {"x": jnp.zeros((2, 6)) if kind == "ladder" else binary_images(2)}
    with pytest.raises(InputError, match="needs one layer whose posterior is a diagonal Gaussian"):
        jax.eval_shape(
            lambda params: inference_gap(params, jax.random.key(0), batch, model=model, settings=SETTINGS), params
        )


def test_wrong_settings_are_refused():
    with pytest.raises(InputError, match="chunk=0 must be 1 or more"):
        PosteriorOptimization(chunk=0)
    with pytest.raises(InputError, match="num_steps=-1 must be 0 or more"):
        PosteriorOptimization(num_steps=-1)
