"""Decoding, encoding and latent interpolation, on untrained parameters."""

import jax
import jax.numpy as jnp
import numpy as np
from code_models import code_experiment
from small_experiments import image_experiment, initial_params, vector_experiment

from vae_jax.distributions import from_means, from_values
from vae_jax.models import LayerShape
from vae_jax.runs.generation import decoding, sampling


def means_of(experiment, params, values):
    """Return the mean of p(x|z) for {name: z}, computed directly."""
    p_x, _ = experiment.model.apply({"params": params}, from_values(values), method="decode")
    return np.asarray(p_x.mean())


def posterior_of(experiment, params, x):
    """Return the layers of q(z|x) given their means."""
    evidence = experiment.model.apply({"params": params}, {"x": x}, method="encode")
    _, latents = experiment.model.apply({"params": params}, from_means(), evidence, {"x": x}, method="decode")
    return [latent.posterior for latent in latents]


def test_decoding_in_batches_keeps_the_order(bernoulli_experiment, one_device):
    experiment, params = bernoulli_experiment
    z = np.random.default_rng(0).normal(size=(3, 71, 2)).astype(np.float32)  # 213 codes: two full batches and a part
    found = decoding.decode_codes(experiment, params, z, one_device)
    assert found.shape == (3, 71, 8, 8, 1)
    assert found.dtype == np.float32
    assert 0 <= found.min() < found.max() <= 1
    np.testing.assert_allclose(found[2, 70], means_of(experiment, params, {"z": z[2, 70]}), rtol=1e-5)
    assert not np.allclose(found[2, 70], found[2, 69])


def test_decoded_images_are_clipped_and_vectors_are_not(one_device):
    z = 100 * np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32)
    experiment = image_experiment(preprocess="scale", likelihood="gaussian")  # its means are unbounded
    params = initial_params(experiment)
    means = means_of(experiment, params, {"z": z})
    assert means.min() < 0
    assert means.max() > 1
    found = decoding.decode_codes(experiment, params, z, one_device)
    np.testing.assert_allclose(found, np.clip(means, 0, 1), atol=1e-5)
    experiment = vector_experiment()
    params = initial_params(experiment)
    found = decoding.decode_codes(experiment, params, z, one_device)
    assert found.shape == (50, 3)
    np.testing.assert_allclose(found, means_of(experiment, params, {"z": z}), rtol=1e-5, atol=1e-5)
    assert np.abs(found).max() > 1


def test_codes_are_the_posterior_of_the_preprocessed_images(bernoulli_experiment, one_device):
    experiment, params = bernoulli_experiment
    arrays = {name: array[:130] for name, array in experiment.dataset("test").arrays.items()}
    codes = decoding.encode_examples(experiment, params, jax.random.key(0), arrays, one_device)
    assert set(np.unique(codes["seen"])) == {0, 1}  # binarized, with the gray values as probabilities
    assert codes["seen"][arrays["x"] == 255].all()
    assert not codes["seen"][arrays["x"] == 0].any()
    (q,) = posterior_of(experiment, params, codes["seen"])
    np.testing.assert_allclose(codes["mean"], q.mean(), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(codes["scale"], jnp.exp(q.log_scale), rtol=1e-5)
    assert codes["mean"].std(axis=0).min() > 0


def test_codes_do_not_depend_on_the_other_examples(bernoulli_experiment, one_device):
    """The image of position i is binarized with the key of i, in a full batch and in a partial one."""
    experiment, params = bernoulli_experiment
    arrays = experiment.dataset("test").arrays
    many, few = (
        decoding.encode_examples(
            experiment, params, jax.random.key(0), {n: a[:count] for n, a in arrays.items()}, one_device
        )
        for count in (130, 7)
    )
    np.testing.assert_array_equal(few["seen"], many["seen"][:7])
    np.testing.assert_allclose(few["mean"], many["mean"][:7], rtol=1e-5, atol=1e-6)


def test_several_layers_are_side_by_side_in_codes_and_samples(one_device):
    experiment = image_experiment(
        model="layered", model__latent_dim=3, model__latent_layers=(2,), model__layer_hidden=(4,)
    )
    params = initial_params(experiment)
    arrays = experiment.dataset("test").arrays
    assert decoding.layer_shapes(experiment, params) == {"z1": LayerShape((2,)), "z2": LayerShape((3,))}
    codes = decoding.encode_examples(experiment, params, jax.random.key(0), arrays, one_device)
    first, second = posterior_of(experiment, params, codes["seen"])
    assert codes["mean"].shape == codes["scale"].shape == (len(arrays["x"]), 5)
    np.testing.assert_allclose(codes["mean"][:, :2], first.mean(), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(codes["scale"][:, 2:], second.stddev(), rtol=1e-4, atol=1e-6)
    z = sampling.sample_prior(experiment, params, jax.random.key(0), 6, one_device)
    assert z.shape == (6, 5)
    expected = means_of(experiment, params, {"z1": z[:, :2], "z2": z[:, 2:]})
    found = decoding.decode_codes(experiment, params, z, one_device)
    np.testing.assert_allclose(found, np.clip(expected, 0, 1), rtol=1e-4, atol=1e-6)
    _, (one, two) = experiment.model.apply(
        {"params": params}, from_values({"z1": z[:, :2], "z2": z[:, 2:]}), method="decode"
    )
    density = decoding.log_prior(experiment, params, z.reshape(2, 3, 5), one_device)
    np.testing.assert_allclose(density, (one.log_p + two.log_p).reshape(2, 3), rtol=1e-5)


def test_the_scale_of_a_deterministic_code_is_zero(one_device):
    experiment = image_experiment(posterior="deterministic", objective="reconstruction", preprocess="scale")
    arrays = experiment.dataset("test").arrays
    codes = decoding.encode_examples(experiment, initial_params(experiment), jax.random.key(0), arrays, one_device)
    np.testing.assert_array_equal(codes["scale"], np.zeros((len(arrays["x"]), 2)))
    np.testing.assert_allclose(codes["seen"], arrays["x"] / 255, rtol=1e-6)


def test_linear_interpolation_has_equal_steps_and_contains_both_ends():
    left, right = np.random.default_rng(0).normal(size=(2, 3, 2)).astype(np.float32)
    paths = decoding.interpolate_linearly(left, right, 5)
    assert paths.shape == (3, 5, 2)
    np.testing.assert_array_equal(paths[:, 0], left)
    np.testing.assert_array_equal(paths[:, -1], right)
    steps = np.diff(paths, axis=1)
    np.testing.assert_allclose(steps, np.broadcast_to((right - left)[:, None] / 4, steps.shape), atol=1e-6)


def test_the_grid_of_codes_is_that_of_the_posterior_and_other_models_have_none():
    settings = {"posterior": "residual-vq", "posterior__codebook_size": 5, "posterior__num_levels": 3}
    for experiment, grid in ((code_experiment(), (2, 4, 1)), (code_experiment(**settings), (6, 5, 3))):
        assert decoding.code_grid(experiment, initial_params(experiment)) == grid
    real = image_experiment()
    assert decoding.code_grid(real, initial_params(real)) is None
