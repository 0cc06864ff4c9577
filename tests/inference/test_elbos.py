"""The ELBO and its variants: closed forms, identities and gradients of the KL term."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jitted import sample_terms
from linear_gaussian import SHIFT, STRETCH, exact_model, images, shifted_model
from random_terms import B, K, change_layer, random_terms, with_kl

from vae_jax.config import Config, choice, override
from vae_jax.distributions import Latent
from vae_jax.errors import InputError
from vae_jax.inference import elbos
from vae_jax.inference.terms import log_weights


@pytest.mark.usefixtures("x64")
def test_the_sampled_elbo_is_its_closed_form():
    model, params, evidence, deviation = shifted_model()
    x = images(64)
    terms = sample_terms(params, jax.random.key(5), x, model=model, num_samples=20_000)
    gaps = np.asarray(elbos.sampled_elbo(terms)) - evidence(x)
    gap, error = gaps.mean(), gaps.std() / np.sqrt(len(x))
    kl = np.sum(-np.log(STRETCH) + 0.5 * (STRETCH**2 + (SHIFT / deviation) ** 2 - 1))
    assert abs(gap + kl) < 4 * error < 0.2 * kl


@pytest.mark.usefixtures("x64")
def test_the_elbo_with_its_kl_in_closed_form_is_the_evidence_in_expectation():
    model, params, evidence = exact_model()
    x = images()
    terms = sample_terms(params, jax.random.key(0), x, model=model, num_samples=20_000)
    bounds = terms.log_px_z - terms.kl  # [K, B]
    error = np.std(bounds, axis=0) / np.sqrt(20_000)
    np.testing.assert_array_less(np.abs(elbos.elbo(terms) - evidence(x)), 5 * error)


def test_identities():
    terms = random_terms()
    np.testing.assert_array_equal(elbos.elbo(terms, beta=0.0), elbos.reconstruction(terms))
    np.testing.assert_allclose(elbos.free_bits(terms, free_bits=0.0), elbos.elbo(terms), rtol=1e-6)
    np.testing.assert_allclose(elbos.capacity(terms, capacity=0.0), elbos.elbo(terms), rtol=1e-6)
    np.testing.assert_allclose(elbos.sampled_elbo(terms), log_weights(terms).mean(0), rtol=1e-6)
    assert np.all(elbos.free_bits(terms, free_bits=2.0) <= elbos.elbo(terms))


def test_a_kl_below_the_free_bits_has_no_gradient():
    terms, kl = random_terms(layers=1), jnp.asarray([[0.2, 3.0, 0.9, 1.1]])
    grad = jax.grad(lambda kl: elbos.free_bits(with_kl(terms, kl), free_bits=1.0).sum())(kl)
    np.testing.assert_array_equal(grad, [[0.0, -1.0, 0.0, -1.0]])


def test_free_bits_apply_to_the_divergence_and_not_to_the_share_of_a_layer():
    terms = with_kl(random_terms(), jnp.asarray([[-2.0] * B, [2.5] * B]))  # q(z) near p(z): shares with sum 0.5
    for free, penalty in ((0.0, 0.5), (0.4, 0.5), (0.7, 0.7)):
        expected = elbos.reconstruction(terms) - penalty
        np.testing.assert_allclose(elbos.free_bits(terms, free_bits=free), expected, rtol=1e-6)


def test_free_bits_of_each_layer_are_a_minimum_for_each_example_and_layer():
    kl = jnp.asarray([[0.2, 3.0, 0.9, 1.1], [2.0, 0.5, 0.1, 4.0]])
    terms = with_kl(random_terms(), kl)
    expected = elbos.reconstruction(terms) - 2.0 * jnp.asarray([3.0, 4.0, 2.0, 5.1])
    np.testing.assert_allclose(elbos.free_bits(terms, free_bits=1.0, beta=2.0, per_layer=True), expected, rtol=1e-6)
    config = choice("objective", "free-bits", free_bits=1.0, beta=2.0, per_layer=True)
    np.testing.assert_allclose(config.at(jnp.asarray(0), 10)(terms), expected, rtol=1e-6)
    override(Config(), model="ladder", objective="free-bits", objective__per_layer=True)
    with pytest.raises(
        InputError, match=r"^objective.per_layer=True must be False with model=vae; use ladder or ladder-"
    ):
        override(Config(), objective="free-bits", objective__per_layer=True)


def test_the_weights_of_layers_are_proportional_to_the_mean_kl_of_a_latent_and_have_no_gradient():
    kl = jnp.asarray([[0.2, 3.0, 0.9, 1.1], [2.0, 0.5, 0.1, 4.0]])
    terms = with_kl(random_terms(), kl)
    terms = change_layer(terms, 1, z=jnp.zeros((K, B, 2, 5)))  # 10 latents; the first layer has 3
    means = np.mean(np.asarray(kl), axis=1) / [3, 10]
    found = elbos.balance_coefficients(terms)
    np.testing.assert_allclose(found, 2 * means / means.sum(), rtol=1e-6)
    assert float(found.mean()) == pytest.approx(1)
    balanced = lambda kl, on: elbos.elbo(with_kl(terms, kl), beta=2.0, balance_layers=on)  # noqa: E731
    np.testing.assert_allclose(balanced(kl, True), elbos.reconstruction(terms) - 2 * found @ kl, rtol=1e-6)
    np.testing.assert_array_equal(balanced(kl, jnp.asarray(False)), elbos.elbo(terms, beta=2.0))
    gradient = jax.grad(lambda kl: balanced(kl, True).sum())(kl)
    np.testing.assert_allclose(gradient, jnp.broadcast_to(-2 * found[:, None], kl.shape), rtol=1e-6)
    nothing = with_kl(terms, jnp.asarray([[0.0] * B, [-1.0] * B]))
    np.testing.assert_array_equal(elbos.balance_coefficients(nothing), [1, 1])
    blocks = {name: jnp.stack([getattr(terms.latents[0], name)] * 3) for name in ("z", "log_p", "log_q")}
    stack = Latent("blocks", **blocks, kl=jnp.tile(kl[:1], (3, 1)))
    np.testing.assert_allclose(elbos.balance_coefficients(terms._replace(latents=(stack,))), [1, 1, 1], rtol=1e-6)


def test_layers_are_balanced_during_the_warm_up_alone():
    terms = random_terms()
    config = choice("objective", "elbo", balance_layers=True, warmup_steps=4)
    at = jax.jit(lambda step: config.at(step, 10)(terms))
    for step, weight in ((0, 0.25), (2, 0.75)):
        expected = elbos.elbo(terms, beta=weight, balance_layers=True)
        np.testing.assert_allclose(at(step), expected, rtol=1e-6)
        assert np.abs(expected - elbos.elbo(terms, beta=weight)).max() > 0.01
    for step in (3, 4, 99):
        np.testing.assert_allclose(at(step), elbos.elbo(terms), rtol=1e-6)


@pytest.mark.fault
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, r"objective.balance_layers=True must be False with model=vae; use ladder or ladder-mlp for a KL of each"),
        ({"model": "ladder"}, "objective.balance_layers=True has no effect with objective.warmup_steps=0; remove"),
        ({"model": "ladder", "objective__warmup_steps": 5, "train__microbatches": 2},
         "train.microbatches=2 must be 1 with objective=elbo, which compares all codes of a batch"),
    ],
)  # fmt: skip
def test_balanced_layers_need_a_ladder_a_warm_up_and_a_complete_batch(settings, message):
    with pytest.raises(InputError, match=f"^{message}"):
        override(Config(), objective__balance_layers=True, **settings)


def test_capacity_moves_the_kl_towards_it_from_both_sides():
    terms, kl = random_terms(layers=1), jnp.asarray([[1.0, 3.0, 1.0, 3.0]])
    grad = jax.grad(lambda kl: elbos.capacity(with_kl(terms, kl), capacity=2.0, beta=5.0).sum())(kl)
    np.testing.assert_array_equal(grad, [[5.0, -5.0, 5.0, -5.0]])


@pytest.mark.parametrize("beta", [0.0, 1.0, 4.0])
def test_without_a_closed_form_the_elbo_is_the_sampled_elbo(beta):
    terms = with_kl(random_terms(), None)
    np.testing.assert_allclose(elbos.elbo(terms, beta=beta), elbos.sampled_elbo(terms, beta=beta), rtol=1e-6)
