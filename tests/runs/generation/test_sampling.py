"""Samples of codes and examples, on untrained parameters."""

import hand_made
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilations import compilations
from small_experiments import count_experiment, image_experiment, images, initial_params, vector_experiment

from vae_jax.distributions import from_values
from vae_jax.models import LayerShape
from vae_jax.runs.generation import decoding, sampling


def test_samples_of_the_prior_are_standard_normal(bernoulli_experiment, one_device, monkeypatch):
    key = jax.random.key(0)
    codes = sampling.sample_prior(*bernoulli_experiment, key, 4000, one_device)
    assert codes.shape == (4000, 2)
    assert np.abs(codes.mean(axis=0)).max() < 5 / np.sqrt(4000)
    assert np.abs(np.cov(codes.T) - np.eye(2)).max() < 5 * np.sqrt(2 / 4000)
    other = sampling.sample_prior(*bernoulli_experiment, jax.random.key(1), 4000, one_device)
    assert not np.array_equal(codes, other)
    monkeypatch.setattr(sampling, "batch_size_of", lambda *_: 3)  # as if no more fitted in the memory
    batches = []
    split = sampling.padded_batches
    monkeypatch.setattr(sampling, "padded_batches", lambda *args: batches.append(args[1]) or split(*args))
    few = sampling.sample_prior(*bernoulli_experiment, key, 5, one_device)
    assert batches == [3]
    np.testing.assert_allclose(few, codes[:5], rtol=1e-6)


@pytest.mark.parametrize("make", [count_experiment, vector_experiment])
def test_samples_of_the_model_have_the_distribution_of_its_decoded_codes(make, one_device):
    experiment = make()
    params, key = initial_params(experiment), jax.random.key(0)
    x = sampling.sample_examples(experiment, params, key, 2150, one_device)
    assert x.shape == (2150, *experiment.shape)
    z = sampling.sample_prior(experiment, params, key, 2150, one_device)
    p_x, _ = experiment.model.apply({"params": params}, from_values({"z": z}), method="decode")
    score = (x - p_x.mean()) / p_x.stddev()  # of mean 0 and variance 1, if the code of x is z
    assert np.abs(score.mean(axis=0)).max() < 5 / np.sqrt(2150)
    np.testing.assert_allclose(score.var(axis=0), 1, atol=0.5)
    assert len(np.unique(x, axis=0)) > 1000  # no batch draws the numbers of another
    few = sampling.sample_examples(experiment, params, key, 7, one_device)
    np.testing.assert_allclose(few, x[:7], rtol=1e-5)
    if make is count_experiment:
        np.testing.assert_array_equal(x, np.rint(x))


def test_posterior_predictive_samples_are_those_of_the_codes_of_each_example(one_device):
    """Without noise in code and likelihood they are the decoded codes."""
    experiment = vector_experiment(posterior="deterministic", objective="reconstruction")
    params = initial_params(experiment)
    arrays, key = experiment.dataset("train").arrays, jax.random.key(0)
    exact = params | {"likelihood_log_scale": jnp.float32(-20)}
    found = sampling.sample_reconstructions(experiment, exact, key, arrays, one_device)
    np.testing.assert_array_equal(found["seen"], arrays["x"])
    codes = decoding.encode_examples(experiment, params, key, arrays, one_device)
    decoded = decoding.decode_codes(experiment, params, codes["mean"], one_device)
    np.testing.assert_allclose(found["sample"], decoded, rtol=1e-4, atol=1e-5)
    noisy = sampling.sample_reconstructions(experiment, params, key, arrays, one_device)["sample"]
    np.testing.assert_allclose((noisy - decoded).std(), 1, atol=0.3)
    few = sampling.sample_reconstructions(
        experiment, params, key, {name: array[:5] for name, array in arrays.items()}, one_device
    )
    np.testing.assert_allclose(few["sample"], noisy[:5], rtol=1e-5, atol=1e-5)


def test_posterior_samples_have_the_distribution_of_each_example_in_any_parts(one_device):
    experiment = vector_experiment()
    params, key = initial_params(experiment), jax.random.key(0)
    arrays = experiment.dataset("train").arrays
    z = sampling.sample_posterior(experiment, params, key, arrays, one_device, num_samples=400)
    assert z.shape == (29, 400, 2)
    codes = decoding.encode_examples(experiment, params, key, arrays, one_device)
    score = (z - codes["mean"][:, None]) / codes["scale"][:, None]
    assert np.abs(score.mean(axis=1)).max() < 5 / np.sqrt(400)
    np.testing.assert_allclose(score.var(axis=1), 1, atol=5 * np.sqrt(2 / 400))
    last = {name: array[20:] for name, array in arrays.items()}
    again = sampling.sample_posterior(experiment, params, key, last, one_device, num_samples=400, first=20)
    np.testing.assert_allclose(again, z[20:], rtol=1e-5, atol=1e-5)
    seen = decoding.encode_examples(experiment, params, key, last, one_device, first=20)
    np.testing.assert_allclose(seen["mean"], codes["mean"][20:], rtol=1e-5, atol=1e-6)


def test_a_model_of_vectors_given_labels_is_sampled_and_decoded_under_them(one_device):
    experiment = hand_made.hand_made()
    params = initial_params(experiment)
    labels = {"y": np.arange(210, dtype=np.int32) % hand_made.CLASSES}
    key = jax.random.key(0)
    z = sampling.sample_prior(experiment, params, key, 210, one_device, conditions=labels)
    assert z.shape == (210, hand_made.LATENT)
    means = decoding.decode_codes(experiment, params, z, one_device, conditions=labels)
    p_x, _ = experiment.model.apply(
        {"params": params}, from_values({"z": jnp.asarray(z)}), None, labels, method="decode"
    )
    np.testing.assert_allclose(means, p_x.mean(), rtol=1e-5, atol=1e-6)
    shaped = {"y": labels["y"].reshape(70, 3)}
    again = decoding.decode_codes(experiment, params, z.reshape(70, 3, -1), one_device, conditions=shaped)
    np.testing.assert_allclose(again, means.reshape(70, 3, -1), rtol=1e-6)
    x = sampling.sample_examples(experiment, params, key, 210, one_device, conditions=labels)
    assert np.abs((x - means).mean(axis=0)).max() < 5 / np.sqrt(210)  # the scale is 1
    assert decoding.layer_shapes(experiment, params) == {"z": LayerShape((hand_made.LATENT,))}
    arrays = experiment.dataset("test").arrays
    assert decoding.encode_examples(experiment, params, key, arrays, one_device)["mean"].shape == (
        len(arrays["x"]),
        hand_made.LATENT,
    )


def test_the_programs_are_compiled_once_for_all_experiments_with_the_same_model(one_device):
    """The members of a sweep have a model each, and the models are equal."""
    made = [image_experiment(images(), seed=seed, model__latent_dim=7) for seed in (0, 1)]
    params = initial_params(made[0])
    with compilations("sample_batch") as sampled, compilations("decode_batch") as decoded:
        samples = [sampling.sample_prior(e, params, jax.random.key(k), 9, one_device) for e in made for k in (0, 1)]
        for experiment in made:
            decoding.decode_codes(experiment, params, samples[0], one_device)
    assert len(sampled) == len(decoded) == 1
    np.testing.assert_array_equal(samples[0], samples[2])
    assert (samples[0] != samples[1]).any()
