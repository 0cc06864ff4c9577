"""The VAE with an auxiliary variable: its densities in NumPy, the sum over an unknown label, and refused settings."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jitted import log_likelihood, loss_and_statistics, sample_terms
from scipy.special import log_softmax, logsumexp
from scipy.stats import norm
from small_model import binary_images, small_model

from vae_jax.config import Config, override
from vae_jax.distributions import from_prior, from_values
from vae_jax.errors import InputError
from vae_jax.inference import elbo
from vae_jax.models.export import embed

CLASSES, B, ALPHA = 3, 5, 7.0
KEY = jax.random.key(1)
Y, MASK = np.array([0, 1, 2, 0, 1]), np.array([True, False, False, True, False])
SETTINGS = {"model": "sdgm", "model__num_classes": CLASSES, "model__embedding": 4, "model__auxiliary_dim": 2,
            "model__auxiliary_hidden": (6,), "model__classifier_weight": ALPHA}  # fmt: skip


@functools.cache
def sdgm():
    return small_model(**SETTINGS)


def labelled(**arrays):
    return {"x": binary_images(B), "y": jnp.asarray(Y), "mask": jnp.asarray(MASK)} | arrays


def log_normal(value, density):
    """Return log N(value; mean, σ²) in float64, summed over the last axis."""
    mean, scale = (np.broadcast_to(np.asarray(a, np.float64), value.shape) for a in (density.loc, density.stddev()))
    return norm.logpdf(np.asarray(value, np.float64), mean, scale).sum(axis=-1)


def test_the_layers_have_the_densities_of_the_model_and_of_the_posterior():
    model, params = sdgm()
    terms = sample_terms(params, KEY, {"x": binary_images(B), "y": jnp.asarray(Y)}, model=model, num_samples=3)
    z, a = terms.latents
    assert (z.name, z.z.shape, a.name, a.z.shape) == ("z", (3, B, 3), "a", (3, B, 2))
    for latent in (z, a):
        np.testing.assert_allclose(latent.log_p, log_normal(latent.z, latent.prior), rtol=1e-4)
        np.testing.assert_allclose(latent.log_q, log_normal(latent.z, latent.posterior), rtol=1e-4, atol=1e-4)
    assert z.posterior.loc.shape == (3, B, 3)  # it depends on the sample of a
    assert np.abs(z.posterior.loc[0] - z.posterior.loc[1]).min(axis=-1).max() > 1e-4
    assert a.prior.loc.shape == (3, B, 2)
    assert a.posterior.loc.shape == (B, 2)


def test_each_part_reads_what_the_model_states():
    model, params = sdgm()

    @jax.jit
    def parts(y, z, a):
        batch = {"x": binary_images(1), "y": y}
        evidence = model.apply({"params": params}, batch, method="encode")
        draw = from_values({"z": z, "a": a}, with_posterior=True)
        p_x, (code, auxiliary) = model.apply({"params": params}, draw, evidence, batch, method="decode")
        q_y = model.apply({"params": params}, batch, {"a": a}, method="classify")
        return {"p_x": p_x.logits, "q_z": code.posterior.loc, "p_a": auxiliary.prior.loc, "q_a": evidence.q_a.loc,
                "q_y": q_y.logits}  # fmt: skip

    base = {"y": jnp.array([0]), "z": jnp.zeros((1, 3)), "a": jnp.zeros((1, 2))}
    first, reads = parts(**base), {}
    for name, other in (("y", jnp.array([1])), ("z", jnp.ones((1, 3))), ("a", jnp.ones((1, 2)))):
        second = parts(**base | {name: other})
        reads[name] = {part for part in first if np.abs(first[part] - second[part]).max() > 1e-6}
    assert reads == {"y": {"p_x", "q_z", "p_a"}, "z": {"p_x", "p_a"}, "a": {"p_x", "q_z", "q_y"}}


def test_the_loss_is_the_sum_of_the_walks_given_each_class_with_one_sample_of_a():
    model, params = sdgm()
    batch = labelled()
    loss, metrics, _ = loss_and_statistics(params, KEY, batch, model=model, objective=elbo)
    walks = [sample_terms(params, KEY, {"x": batch["x"], "y": jnp.full(B, c)}, model=model) for c in range(CLASSES)]
    a = walks[0].latents[1].z
    for walk in walks:
        np.testing.assert_allclose(walk.latents[1].z, a, rtol=1e-6)
    logits = jax.jit(lambda p, a: model.apply({"params": p}, batch, {"a": a}, method="classify").logits)(params, a)
    log_q = log_softmax(np.asarray(logits[0], np.float64), axis=1)
    q = np.where(MASK[:, None], np.eye(CLASSES)[Y], np.exp(log_q))
    kl = np.where(MASK, np.log(CLASSES), (np.exp(log_q) * (log_q + np.log(CLASSES))).sum(1))
    bounds = np.stack([np.asarray(elbo(walk), np.float64) for walk in walks])
    np.testing.assert_allclose(metrics["bound"], np.mean((q.T * bounds).sum(0) - kl), rtol=1e-5)
    cross_entropy = -(log_q[np.arange(B), Y] * MASK).mean()
    np.testing.assert_allclose(loss, ALPHA * cross_entropy - metrics["bound"], rtol=1e-5)


def test_the_likelihood_by_importance_sampling_is_that_of_samples_of_the_prior():
    model, params = sdgm()
    batch, count = {"x": binary_images(B), "y": jnp.asarray(Y)}, 20_000
    estimate, _ = log_likelihood(params, KEY, batch, model=model, num_samples=20_000, chunk=1000)

    @jax.jit
    def log_px_z(x, y):
        labels = {"y": jnp.full(count, y)}
        p_x, _ = model.apply({"params": params}, from_prior(KEY, count), None, labels, method="decode")
        return p_x.log_prob(jnp.broadcast_to(x, (count, *x.shape)))

    exact = [
        logsumexp(np.asarray(log_px_z(x, y), np.float64)) - np.log(count) for x, y in zip(*batch.values(), strict=True)
    ]
    np.testing.assert_allclose(estimate, exact, atol=0.05)


def test_samples_are_drawn_from_the_top_and_codes_have_both_layers():
    model, params = sdgm()

    @jax.jit
    def walk(params):
        draw = from_prior(KEY, CLASSES)
        return model.apply({"params": params}, draw, None, {"y": jnp.arange(CLASSES)}, method="decode")

    p_x, (z, a) = walk(params)
    assert p_x.logits.shape == (CLASSES, 4, 4, 1)
    np.testing.assert_allclose(a.log_p, log_normal(a.z, a.prior), rtol=1e-4)
    codes = jax.jit(functools.partial(embed, model=model))(params, labelled())
    assert {name: code["mean"].shape for name, code in codes.items()} == {"z": (B, 3), "a": (B, 2)}
    assert z.z.shape == (CLASSES, 3)


@pytest.mark.fault
@pytest.mark.parametrize(
    ("name", "value"),
    [("film", True), ("condition_encoder", False), ("condition_prior", True), ("condition_decoder", False)],
)
def test_an_attribute_without_effect_is_refused(name, value):
    model, params = sdgm()
    assert not model.condition_prior
    with pytest.raises(InputError, match=rf"^{name}={value} has no effect in an AuxiliaryVAE; remove it"):
        model.clone(**{name: value}).apply({"params": params}, labelled(), method="encode")


@pytest.mark.fault
def test_several_samples_of_a_are_refused():
    model, params = sdgm()
    with pytest.raises(ValueError, match=r"^q\(y\|x, layers\) has shape \[2, 5, 3\]; use one sample"):
        loss_and_statistics(params, KEY, labelled(), model=model, objective=elbo, num_samples=2)


@pytest.mark.fault
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objective": "piwae"}, "objective=piwae must be another objective with model=sdgm: its bound of the decoder"),
        ({"objective__num_samples": 2}, "objective.num_samples=2 must be 1 with model=sdgm, whose classifier reads"),
        ({"prior": "vamp"}, "prior=vamp must be standard-normal with model=sdgm"),
        ({"posterior": "iaf"}, "posterior=iaf must be gaussian with model=sdgm"),
        ({"objective": "info-vae", "train__batch_size": 8}, "objective=info-vae must be another objective"),
        ({"network__tied": True}, "network.tied=True must be False with model=sdgm"),
        ({"model__auxiliary_hidden": ()}, "model.auxiliary_hidden=() must be one or more widths"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, message):
    with pytest.raises(InputError) as refused:
        override(Config(), **{"model": "sdgm"} | settings)
    assert str(refused.value).startswith(message)
