"""Decoding, encoding, prior samples and latent interpolation, on untrained parameters."""

import jax
import jax.numpy as jnp
import numpy as np
from compilations import compilations
from jitted import apply

from vae_jax.runs import decoding


def test_decoding_in_batches_keeps_the_order(bernoulli_run):
    run, params = bernoulli_run
    z = (
        np.random.default_rng(0).normal(size=(3, 71, 2)).astype(np.float32)
    )  # 213 codes: two full batches and a partial one
    images = decoding.decode_images(run, params, z)
    assert images.shape == (3, 71, 8, 8, 1)
    assert images.dtype == np.float32
    assert 0 <= images.min() < images.max() <= 1
    p = apply(run.model, params, jnp.asarray(z[2, 70]), method="decode")
    np.testing.assert_allclose(images[2, 70], p.mean(), rtol=1e-5)
    assert not np.allclose(images[2, 70], images[2, 69])


def test_decoded_images_are_clipped(make_run):
    run, params = make_run()  # a Gaussian likelihood: its means are unbounded
    z = 100 * np.random.default_rng(0).normal(size=(50, 2))
    means = apply(run.model, params, jnp.asarray(z, jnp.float32), method="decode").mean()
    assert means.min() < 0
    assert means.max() > 1
    images = decoding.decode_images(run, params, z)
    np.testing.assert_allclose(images, np.clip(means, 0, 1), atol=1e-6)


def test_codes_are_the_posterior_of_the_preprocessed_images(bernoulli_run):
    run, params = bernoulli_run
    images = run.images("test")[:130]
    codes = decoding.encode_images(run, params, jax.random.key(0), images)
    assert set(np.unique(codes["seen"])) == {0, 1}  # binarized, with the gray values as probabilities
    assert codes["seen"][images == 255].all()
    assert not codes["seen"][images == 0].any()
    q = apply(run.model, params, codes["seen"], method="encode")
    np.testing.assert_allclose(codes["mean"], q.mean(), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(codes["scale"], jnp.exp(q.log_scale), rtol=1e-5)
    assert codes["mean"].std(axis=0).min() > 0


def test_codes_do_not_depend_on_the_other_images(bernoulli_run):
    """The image of position i is binarized with the key of i, in a full batch and in a partial one."""
    run, params = bernoulli_run
    images = run.images("test")[:130]
    many, few = (decoding.encode_images(run, params, jax.random.key(0), images[:count]) for count in (130, 7))
    np.testing.assert_array_equal(few["seen"], many["seen"][:7])
    np.testing.assert_allclose(few["mean"], many["mean"][:7], rtol=1e-5, atol=1e-6)


def test_several_layers_are_side_by_side_in_codes_and_samples(make_run):
    run, params = make_run(model__latent_layers=(3,), model__layer_hidden=(4,))
    images = run.images("test")[:4]
    codes = decoding.encode_images(run, params, jax.random.key(0), images)
    q = apply(run.model, params, codes["seen"], method="encode")
    assert codes["mean"].shape == codes["scale"].shape == (4, 5)
    np.testing.assert_allclose(codes["mean"][:, :3], q.mean(), rtol=1e-4, atol=1e-6)
    z = decoding.sample_prior(run, params, jax.random.key(0), 6)
    assert z.shape == (6, 5)
    expected = apply(run.model, params, {"z1": z[:, :3], "z2": z[:, 3:]}, method="decode").mean()
    np.testing.assert_allclose(decoding.decode_images(run, params, z), np.clip(expected, 0, 1), rtol=1e-4, atol=1e-6)


def test_the_scale_of_a_deterministic_code_is_zero(make_run):
    run, params = make_run(model__posterior="deterministic", objective__name="reconstruction")
    codes = decoding.encode_images(run, params, jax.random.key(0), run.images("test")[:3])
    np.testing.assert_array_equal(codes["scale"], np.zeros((3, 2)))
    np.testing.assert_allclose(codes["seen"], run.images("test")[:3] / 255, rtol=1e-6)


def test_samples_of_the_prior_are_standard_normal(bernoulli_run):
    codes = decoding.sample_prior(*bernoulli_run, jax.random.key(0), 4000)
    assert codes.shape == (4000, 2)
    assert np.abs(codes.mean(axis=0)).max() < 5 / np.sqrt(4000)
    assert np.abs(np.cov(codes.T) - np.eye(2)).max() < 5 * np.sqrt(2 / 4000)
    assert not np.array_equal(codes, decoding.sample_prior(*bernoulli_run, jax.random.key(1), 4000))
    np.testing.assert_allclose(decoding.sample_prior(*bernoulli_run, jax.random.key(0), 5), codes[:5], rtol=1e-6)


def test_linear_interpolation_has_equal_steps_and_contains_both_ends():
    left, right = np.random.default_rng(0).normal(size=(2, 3, 2)).astype(np.float32)
    paths = decoding.interpolate_linearly(left, right, 5)
    assert paths.shape == (3, 5, 2)
    np.testing.assert_array_equal(paths[:, 0], left)
    np.testing.assert_array_equal(paths[:, -1], right)
    steps = np.diff(paths, axis=1)
    np.testing.assert_allclose(steps, np.broadcast_to((right - left)[:, None] / 4, steps.shape), atol=1e-6)


def test_the_sampler_is_compiled_once(bernoulli_run):
    run, params = bernoulli_run
    with compilations("sample_batch") as compiled:
        samples = [decoding.sample_prior(run, params, jax.random.key(seed), 9) for seed in (0, 1, 0)]
    assert len(compiled) == 1
    np.testing.assert_array_equal(samples[0], samples[2])
    assert (samples[0] != samples[1]).any()
