"""The codes of all examples: means or samples, in chunks, their moments in closed form, and refused models."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flow_cases import numbers
from known_codes import known_experiment
from small_experiments import image_experiment, initial_params, vector_experiment

from vae_jax import random
from vae_jax.errors import InputError, NoExamplesError, NotFiniteError
from vae_jax.runs import encode_examples
from vae_jax.runs.generation import codes
from vae_jax.runs.generation.codes import CodeReader

KEYS = random.example_keys(jax.random.key(0), 4000)


def moved(params):
    """Return parameters away from the initial ones, whose scales are equal for all examples."""
    return jax.tree.map(lambda leaf: leaf + 0.2 * jax.random.normal(jax.random.key(leaf.size), leaf.shape), params)


def test_a_vae_has_means_and_scales_at_the_keys_of_its_evaluations_in_any_chunks(monkeypatch):
    experiment = image_experiment(preprocess="dynamic-binarization", likelihood="bernoulli")
    params = moved(initial_params(experiment))
    reader = CodeReader(experiment, params)
    key = experiment.evaluation_key("train")
    expected = encode_examples(experiment, params, key, experiment.training_data.read_all())
    assert reader.meaning == "samples"
    assert {name: reader.training[name].shape for name in reader.training} == {"x": (29, 2), "scale": (29, 2)}
    np.testing.assert_allclose(reader.training["x"], expected["mean"], rtol=1e-6)
    np.testing.assert_allclose(reader.training["scale"], expected["scale"], rtol=1e-6)
    assert reader.read("test")["scale"].shape == (18, 2)
    monkeypatch.setattr(codes, "_CHUNK", 20)
    chunked = CodeReader(experiment, params).training
    np.testing.assert_allclose(chunked["x"], reader.training["x"], rtol=1e-5, atol=1e-6)


def test_an_autoencoder_has_means_with_and_without_noise():
    for posterior in ("deterministic", "fixed-noise"):
        experiment = vector_experiment(posterior=posterior, objective="reconstruction")
        reader = CodeReader(experiment, moved(initial_params(experiment)))
        assert reader.meaning == "means"
        assert {name: array.shape for name, array in reader.training.items()} == {"x": (29, 1, 2)}
        assert reader.read("test").keys() == {"x"}


def test_a_flow_posterior_has_samples_of_each_example():
    experiment = vector_experiment(posterior="planar", posterior__layers=2)
    reader = CodeReader(experiment, moved(initial_params(experiment)))
    x = reader.training["x"]
    assert (x.shape, reader.meaning) == ((29, codes.SAMPLES, 2), "samples")
    within, between = x.std(axis=1).mean(), x.mean(axis=1).std(axis=0).mean()
    assert within > 0.3
    assert between > 0.1
    assert len(np.unique(x)) == x.size


def test_drawn_codes_are_samples_of_a_normal_or_one_of_several_codes():
    draw = jax.jit(codes.draw_codes)
    mean, scale = jnp.tile(jnp.array([3.0, -1.0]), (4000, 1)), jnp.tile(jnp.array([0.5, 2.0]), (4000, 1))
    z = np.asarray(draw(KEYS, {"x": mean, "scale": scale}))
    np.testing.assert_allclose(z.mean(axis=0), [3, -1], atol=5 * 2 / np.sqrt(4000))
    np.testing.assert_allclose(np.cov(z.T), np.diag([0.25, 4]), atol=5 * 4 * np.sqrt(2 / 4000))
    several = jnp.tile(jnp.arange(3.0)[:, None] + jnp.array([0.0, 10.0])[None], (4000, 1, 1))  # [4000, 3, 2]
    chosen = np.asarray(draw(KEYS, {"x": several}))
    np.testing.assert_array_equal(chosen[:, 1], chosen[:, 0] + 10)
    share = np.bincount(chosen[:, 0].astype(int), minlength=3) / 4000
    np.testing.assert_allclose(share, 1 / 3, atol=5 * np.sqrt(2 / 9 / 4000))


def test_the_standardization_is_that_of_the_aggregated_posterior(monkeypatch):
    monkeypatch.setattr(codes, "_CHUNK", 7)
    x, scale = np.array(numbers(1, 40, 3) @ numbers(2, 3, 3)), np.exp(np.array(numbers(3, 40, 3)))
    affine = codes.standardize({"x": x, "scale": scale})
    expected = np.cov(x.T.astype(np.float64), bias=True) + np.diag((scale.astype(np.float64) ** 2).mean(axis=0))
    np.testing.assert_allclose(affine.loc, x.mean(axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(affine.scale_tril @ affine.scale_tril.T, expected, rtol=1e-5, atol=1e-5)
    several = codes.standardize({"x": x.reshape(20, 2, 3)})
    np.testing.assert_allclose(several.scale_tril @ several.scale_tril.T, np.cov(x.T, bias=True), rtol=1e-4, atol=1e-5)


@pytest.mark.fault
def test_a_singular_covariance_has_a_small_ridge_and_equal_codes_are_refused():
    x = np.array(numbers(1, 40, 1, scale=30.0)) * np.array([[1.0, 2.0, 0.0]], np.float32)  # rank 1, and a dead unit
    affine = codes.standardize({"x": x[:, None]})
    largest = 5 * x[:, 0].astype(np.float64).var()
    found = np.asarray(affine.scale_tril, np.float64)
    ridge = found @ found.T - np.cov(x.T.astype(np.float64), bias=True)
    np.testing.assert_allclose(ridge, codes.RIDGE * largest * np.eye(3), atol=0.2 * codes.RIDGE * largest)
    assert np.isfinite(affine.inverse(jnp.asarray(x))[0]).all()
    with pytest.raises(InputError, match=r"^codes of all training examples are equal, so that no density can be"):
        codes.standardize({"x": np.ones((4, 1, 2), np.float32)})


def test_random_codes_are_those_of_all_examples_in_another_order():
    x = np.array(numbers(1, 50, 1, 2))
    found = np.asarray(codes.random_codes({"x": x}, jax.random.key(0)))
    assert not np.array_equal(found, x[:, 0])
    np.testing.assert_array_equal(np.sort(found, axis=0), np.sort(x[:, 0], axis=0))


@pytest.mark.fault
def test_a_model_without_a_single_vector_as_code_and_codes_that_are_not_finite_are_refused():
    experiment = image_experiment(
        model="layered", model__latent_dim=3, model__latent_layers=(2,), model__layer_hidden=(4,)
    )
    reason = r"a prior can be fitted to the codes of a model with one layer, whose value is a vector"
    with pytest.raises(InputError, match=rf"^model LayeredVAE has the stochastic layers z1 \[2\], z2 \[3\]; {reason}"):
        codes.code_size(experiment, initial_params(experiment))
    labelled = image_experiment(model="conditional", model__num_classes=2)
    with pytest.raises(InputError, match=r"^model ConditionalVAE has a p\(z\) that depends on conditions"):
        CodeReader(labelled, initial_params(labelled))
    x = np.array(numbers(1, 40, 2))
    experiment, params = known_experiment(x)
    assert codes.code_size(experiment, params) == 2
    with pytest.raises(NotFiniteError, match=r"^codes of the split train are not finite; the model has diverged"):
        CodeReader(experiment, {"shift": jnp.array([0, jnp.nan])})
    with pytest.raises(NoExamplesError):
        CodeReader(*known_experiment(x, holdout=0.0)).read("validation")
