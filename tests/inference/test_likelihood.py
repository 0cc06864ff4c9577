"""log p(x) by importance sampling: against the exact evidence, chunk by chunk, and its memory."""

import functools
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from inputs import random_images
from jax.extend.core import jaxprs_in_params
from jitted import init, log_likelihood, sample_terms
from linear_gaussian import exact_model, images
from random_terms import terms_of_weights
from small_model import binary_images, small_model
from subsets import by_default
from two_layer_gaussian import move_posterior, two_layer_model

from vae_jax.config import Config, apply_overrides
from vae_jax.data.preprocess import DynamicBinarizationConfig
from vae_jax.inference import elbos, likelihood
from vae_jax.inference.pareto import pareto_shape
from vae_jax.inference.terms import log_weights
from vae_jax.models.build import build_model
from vae_jax.models.mlp import MLPEncoder
from vae_jax.runtime import sharding
from vae_jax.training.evaluator import likelihood_terms
from vae_jax.training.example_batches import evaluate_examples


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
    shifted["posterior"]["mean"]["bias"] = shifted["posterior"]["mean"]["bias"] + 0.5
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
        terms = sample_terms(params, jax.random.key(3), x, model=model, num_samples=50)
        log_w = np.asarray(log_weights(terms), np.float64)
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

        def scripted_terms(params, key, batch, *, model, num_samples, evidence, first_sample):
            assert num_samples == 5
            return terms_of_weights(log_w[first_sample // 5])

        monkeypatch.setattr(likelihood, "sample_terms", scripted_terms)
        monkeypatch.setattr(likelihood, "encode", lambda params, batch, *, model: None)
        run = functools.partial(likelihood.log_likelihood, None, model=None, num_samples=10_000, chunk=5)
        log_px, ess = jax.jit(run)(jax.random.key(0), {"x": jnp.zeros((2, 1, 1, 1))})
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
            .lower(params, jax.random.key(0), {"x": binary_images()})
            .compile()
            for samples in (100, 100_000)
        )
        small, large = (c.memory_analysis().temp_size_in_bytes for c in compiled)
        assert large <= small + 100_000  # the numbers of the 10,000 chunks, and nothing as large as the samples


@functools.cache
def nll_of_images(batch_size, chunk, devices):
    """Return the NLL of each of nine images from 1000 samples, computed by the programs of an evaluation."""
    model, params = small_model()
    settings = {"model": model, "preprocess": DynamicBinarizationConfig(), "num_samples": 1000, "chunk": chunk}
    placement = sharding.batch_sharding(sharding.make_mesh(devices)) if devices > 1 else None
    program = jax.jit(functools.partial(likelihood_terms, **settings))
    images = random_images(9, 4, 4, 1)
    where = {"batch_size": batch_size, "placement": placement}
    return -evaluate_examples(program, params, jax.random.key(5), {"x": images}, **where)["log_px"]


NLL_CASES = list(itertools.product((1, 7, 80), (1, 20, 1000), (1, 2, 8)))


def is_in_latin_square(case):
    """Return whether this is one of the nine cases that contain each pair of values."""
    positions = [(1, 7, 80).index(case[0]), (1, 20, 1000).index(case[1]), (1, 2, 8).index(case[2])]
    return sum(positions) % 3 == 0


class TestNLL:
    """The NLL of an image: its random numbers depend on the key and on its position among the images alone."""

    @pytest.mark.parametrize(("batch_size", "chunk", "devices"), by_default(is_in_latin_square, NLL_CASES))
    def test_depends_neither_on_batch_size_nor_on_chunk_nor_on_devices(self, batch_size, chunk, devices):
        expected = nll_of_images(80, 1000, 1)
        assert expected.shape == (9,)
        assert np.ptp(expected) > 0.5
        np.testing.assert_allclose(nll_of_images(batch_size, chunk, devices), expected, rtol=2e-6)

    def test_of_images_with_keys_of_their_own_is_that_of_each_alone(self):
        model, params = small_model()
        x, keys = binary_images(), jax.random.split(jax.random.key(7), 5)
        run = functools.partial(log_likelihood, params, model=model, num_samples=30, chunk=10)
        together = run(keys, x)
        for i in range(5):
            for one, every in zip(run(keys[i : i + 1], x[i : i + 1]), together, strict=True):
                np.testing.assert_allclose(one[0], every[i], rtol=1e-5)
        with pytest.raises(ValueError, match=r"^key has shape \[3\]; pass one key, or a key for each example, \[5\]"):
            run(keys[:3], x)


def matrix_products(jaxpr, in_loop=False):
    """Yield the shape of the second factor of each matrix product, and whether it is inside of a loop."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation.invars[1].aval.shape, in_loop
        for inner in jaxprs_in_params(equation.params):
            yield from matrix_products(inner, in_loop or equation.primitive.name in ("scan", "while"))


@pytest.mark.parametrize("latent_layers", [(), (5,)])
@pytest.mark.parametrize(("num_samples", "chunk"), [(1000, 20), (1000, 1), (50, 20), (7, 7)])
def test_the_encoder_runs_once_for_all_samples_of_an_image(num_samples, chunk, latent_layers):
    given = {"network.hidden": (23,), "model.latent_dim": 3}
    if latent_layers:
        given |= {"model": "layered", "model.latent_layers": latent_layers, "model.layer_hidden": (6,)}
    model = build_model(apply_overrides(Config(), given), (4, 4, 1))
    x = binary_images()
    params = init(model, jax.random.key(0), x)["params"]
    run = functools.partial(likelihood.log_likelihood, model=model, num_samples=num_samples, chunk=chunk)
    found = list(matrix_products(jax.make_jaxpr(run)(params, jax.random.key(0), {"x": x}).jaxpr))
    size = 5 if latent_layers else 3  # of the layer next to the image
    assert [loop for shape, loop in found if shape == (16, 23)] == [False]  # the hidden layer of the encoder
    assert [loop for shape, loop in found if shape == (23, size)] == [False, False]  # mean and log variance
    decoded = [loop for shape, loop in found if shape == (23, 16)]
    assert decoded == [False] + [True] * (num_samples > chunk) + [False] * (num_samples % chunk > 0)


def test_the_encoder_runs_once_when_the_program_is_executed():
    calls = []

    class CountedEncoder(nn.Module):
        @nn.compact
        def __call__(self, x):
            jax.debug.callback(lambda: calls.append(1))
            return MLPEncoder((8,), nn.relu)(x)

    model, _ = small_model()
    model = model.clone(encoder=CountedEncoder())
    x = binary_images()
    params = init(model, jax.random.key(0), x)["params"]
    jax.effects_barrier()
    calls.clear()
    jax.block_until_ready(log_likelihood(params, jax.random.key(0), x, model=model, num_samples=1000, chunk=20))
    jax.effects_barrier()
    assert len(calls) == 1


def test_the_tail_of_the_weights_is_that_of_all_samples():
    model, params = small_model()
    x = binary_images()
    estimate = jax.jit(likelihood.importance_estimate, static_argnames=("model", "num_samples", "chunk"))
    found = estimate(params, jax.random.key(3), {"x": x}, model=model, num_samples=100, chunk=7)
    terms = sample_terms(params, jax.random.key(3), x, model=model, num_samples=100)
    tail = np.sort(np.asarray(log_weights(terms)), axis=0)[::-1][:21]
    np.testing.assert_allclose(found.pareto_k, jax.jit(pareto_shape)(tail), rtol=1e-3, atol=1e-4)
    few = estimate(params, jax.random.key(3), {"x": x}, model=model, num_samples=24, chunk=7)
    assert few.pareto_k is None
