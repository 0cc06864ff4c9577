"""log p(x) by importance sampling: against the exact evidence, chunk by chunk, and its memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jitted import log_likelihood, sample_terms
from linear_gaussian import exact_model, images
from small_model import binary_images, small_model
from two_layer_gaussian import move_posterior, two_layer_model

from vae_jax.inference import elbos, likelihood
from vae_jax.inference.terms import Terms, log_weights


@pytest.mark.usefixtures("x64")
def test_with_the_exact_posterior_the_estimate_is_the_evidence():
    model, params, evidence = exact_model()
    x = images()
    terms = sample_terms(params, jax.random.key(0), x, model=model, num_samples=7)
    np.testing.assert_allclose(elbos.sampled_elbo(terms), evidence(x), rtol=1e-6)
    log_px, ess = log_likelihood(params, jax.random.key(1), x, model=model, num_samples=7, chunk=3)
    np.testing.assert_allclose(log_px, evidence(x), rtol=1e-6)
    np.testing.assert_allclose(ess, 7.0, rtol=1e-6)


@pytest.mark.usefixtures("x64")
def test_with_a_shifted_posterior_the_elbo_is_lower_and_importance_sampling_recovers_the_evidence():
    model, params, evidence = exact_model()
    shifted = jax.tree.map(lambda p: p, params)
    shifted["posterior_mean"]["bias"] = shifted["posterior_mean"]["bias"] + 0.5
    x = images()
    terms = sample_terms(shifted, jax.random.key(0), x, model=model, num_samples=1000)
    assert np.all(elbos.elbo(terms) < evidence(x) - 0.1)
    log_px, ess = log_likelihood(shifted, jax.random.key(1), x, model=model, num_samples=100_000, chunk=10_000)
    np.testing.assert_allclose(log_px, evidence(x), atol=0.02)
    assert np.all(ess < 90_000)


@pytest.mark.usefixtures("x64")
def test_with_two_shifted_layers_importance_sampling_recovers_the_evidence():
    model, params, evidence = two_layer_model()
    x = images(3)
    terms = sample_terms(move_posterior(params), jax.random.key(0), x, model=model, num_samples=2000)
    assert (elbos.elbo(terms) < evidence(x) - 0.05).all()
    log_px, ess = log_likelihood(
        move_posterior(params), jax.random.key(1), x, model=model, num_samples=20_000, chunk=1000
    )
    np.testing.assert_allclose(log_px, evidence(x), atol=0.03)
    assert (ess < 19_000).all()


class TestLogLikelihood:
    @pytest.mark.parametrize("chunk", [1, 7, 50, 100])
    def test_chunks_sum_to_the_estimate_from_all_samples(self, chunk):
        model, params = small_model()
        x = binary_images()
        log_px, ess = log_likelihood(params, jax.random.key(3), x, model=model, num_samples=50, chunk=chunk)
        sizes = [min(chunk, 50)] * (50 // min(chunk, 50)) + ([50 % chunk] if 50 % min(chunk, 50) else [])
        log_w = np.concatenate(
            [
                log_weights(
                    sample_terms(params, jax.random.fold_in(jax.random.key(3), i), x, model=model, num_samples=size)
                )
                for i, size in enumerate(sizes)
            ]
        ).astype(np.float64)
        assert log_w.shape == (50, 5)
        top = log_w.max(axis=0)
        w = np.exp(log_w - top)
        np.testing.assert_allclose(log_px, top + np.log(w.mean(axis=0)), rtol=1e-5)
        np.testing.assert_allclose(ess, w.sum(axis=0) ** 2 / (w**2).sum(axis=0), rtol=1e-3)

    @pytest.mark.parametrize("level", [-90.0, -10_000.0, -40_000.0])
    @pytest.mark.parametrize("spread", [0.0, 3.0])
    def test_thousands_of_chunks_keep_the_digits_of_thousands_of_nats(self, level, spread, monkeypatch):
        log_w = jnp.asarray(level + spread * np.random.default_rng(0).normal(size=(2000, 5, 2)), jnp.float32)
        log_w = log_w.at[7].set(-jnp.inf)  # a complete chunk of codes with probability zero
        chunks = jax.vmap(lambda i: jax.random.key_data(jax.random.fold_in(jax.random.key(0), i)))(jnp.arange(2000))

        def scripted_terms(params, key, x, *, model, num_samples):
            chunk = jnp.argmax(jnp.all(chunks == jax.random.key_data(key)[None], axis=1))
            zero = jnp.zeros((num_samples, 2))
            return Terms(log_w[chunk], zero, zero, kl=None)

        monkeypatch.setattr(likelihood, "sample_terms", scripted_terms)
        run = functools.partial(likelihood.log_likelihood, None, model=None, num_samples=10_000, chunk=5)
        log_px, ess = jax.jit(run)(jax.random.key(0), jnp.zeros((2, 1, 1, 1)))
        exact = np.asarray(log_w, np.float64).reshape(10_000, 2)
        w = np.exp(exact - exact.max(axis=0))
        np.testing.assert_allclose(log_px, exact.max(axis=0) + np.log(w.mean(axis=0)), rtol=2e-7, atol=1e-3)
        np.testing.assert_allclose(ess, w.sum(axis=0) ** 2 / (w**2).sum(axis=0), rtol=1e-3)

    def test_the_estimate_rises_with_the_number_of_samples(self):
        model, params = small_model()
        x = binary_images(count=200)
        run = functools.partial(log_likelihood, params, jax.random.key(4), x, model=model, chunk=50)
        means = [float(run(num_samples=k)[0].mean()) for k in (1, 10, 1000)]
        assert means[0] < means[1] < means[2]

    def test_memory_does_not_grow_with_the_number_of_samples(self):
        model, params = small_model()
        compiled = (
            jax.jit(functools.partial(log_likelihood, model=model, num_samples=samples, chunk=10))
            .lower(params, jax.random.key(0), binary_images())
            .compile()
            for samples in (100, 100_000)
        )
        small, large = (c.memory_analysis().temp_size_in_bytes for c in compiled)
        assert large <= small + 1_000_000  # the 100,000 keys, and nothing as large as the samples
