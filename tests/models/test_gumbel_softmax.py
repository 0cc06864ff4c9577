"""Gumbel-softmax: exact values of samples, of their log probabilities and of the KL, and the relaxed gradient."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from code_models import code_config
from jitted import init, log_likelihood, loss_and_statistics, sample_terms

from vae_jax.distributions import GumbelNoise, Variables, from_means, from_posterior, from_values, kl_divergence
from vae_jax.errors import InputError
from vae_jax.inference import elbo, sampled_elbo
from vae_jax.models import build_model

SHAPE, PLACES, CODES = (4, 3, 1), 2, 3
X = np.random.default_rng(0).integers(0, 2, (3, *SHAPE)).astype(np.float32)
GRIDS = np.array(list(itertools.product(range(CODES), repeat=PLACES)), np.int32)
GUMBEL = {
    "posterior": "gumbel-softmax",
    "posterior__codebook_size": CODES,
    "posterior__code_dim": 2,
    "posterior__temperature": 0.7,
}


@pytest.fixture(scope="module")
def model():
    built = build_model(code_config(prior="categorical-codes", **GUMBEL), SHAPE)
    params = init(built, jax.random.key(0), X)["params"]
    logits = np.random.default_rng(1).normal(size=(PLACES, CODES)).astype(np.float32)
    return built, params | {"prior": {"logits": jnp.asarray(logits)}}


def softmax(logits):
    p = np.exp(np.asarray(logits, np.float64))
    return p / p.sum(axis=-1, keepdims=True)


def evidence_of(model):
    built, params = model
    return jax.jit(lambda p: built.apply({"params": p}, {"x": X}, method="encode"))(params)


def test_the_kl_is_exact_and_log_probabilities_are_those_of_the_codes(model):
    built, params = model
    q, p = softmax(evidence_of(model).logits), softmax(params["prior"]["logits"])
    terms = sample_terms(params, jax.random.key(0), X, model=built, num_samples=200)
    (latent,) = terms.latents
    assert (latent.z.shape, latent.z.dtype) == ((200, 3, PLACES), jnp.int32)
    np.testing.assert_allclose(terms.kl[0], (q * np.log(q / p)).sum(axis=(-2, -1)), rtol=1e-4)
    z = np.asarray(latent.z)
    chosen = np.stack([q[b, g, z[:, b, g]] for b in range(3) for g in range(PLACES)]).reshape(3, PLACES, 200)
    np.testing.assert_allclose(latent.log_q, np.log(chosen).sum(axis=1).T, rtol=1e-4, atol=1e-5)
    of_prior = np.stack([p[g, z[..., g]] for g in range(PLACES)])
    np.testing.assert_allclose(latent.log_p, np.log(of_prior).sum(axis=0), rtol=1e-4, atol=1e-5)
    shares = np.stack([(z == c).mean(axis=0) for c in range(CODES)], axis=-1)  # [B, P, C]
    assert (np.abs(shares - q) < 4 * np.sqrt(q * (1 - q) / 200)).all()


def test_importance_sampling_reaches_the_sum_over_all_codes(model):
    built, params = model

    @jax.jit
    def exact(params):
        draw = from_values({"z": jnp.broadcast_to(GRIDS[:, None], (len(GRIDS), 3, PLACES))})
        p_x, (latent,) = built.apply({"params": params}, draw, method="decode")
        return jax.nn.logsumexp(p_x.log_prob(jnp.asarray(X)) + latent.log_p, axis=0)

    log_px, _ = log_likelihood(params, jax.random.key(0), X, model=built, num_samples=2000, chunk=500)
    expected = exact(params)
    np.testing.assert_allclose(log_px, expected, atol=0.15)  # four standard errors of the estimate
    loss, metrics, _ = loss_and_statistics(params, jax.random.key(0), X, model=built, objective=elbo, num_samples=200)
    assert -loss < np.mean(expected)
    assert "penalty" not in metrics


def test_the_gradient_is_that_of_the_relaxation_at_the_values_of_the_codes(model):
    """The gradient to the logits is J^T d, with J of softmax((logits + noise) / t), and d of the terms at the codes."""
    built, params = model
    evidence = evidence_of(model)
    draw = from_posterior(jax.random.key(3), 3)
    noise = draw("z/noise", None, lambda: GumbelNoise(evidence.logits.shape)).z

    def of_model(logits):
        changed = type(evidence)(logits, evidence.codebook, evidence.temperature)
        p_x, (latent,) = built.apply({"params": params}, draw, changed, method="decode")
        return jnp.sum(p_x.log_prob(jnp.asarray(X)) + latent.log_p - latent.log_q)

    def of_relaxation(logits, one_hot):
        soft = jax.nn.softmax((logits + noise[0]) / 0.7)
        weights = one_hot + soft - jax.lax.stop_gradient(soft)
        vectors = weights @ evidence.codebook.vectors[0]
        p_x = built.apply({"params": params}, vectors.reshape(3, -1), method="_likelihood_of")
        log_p = jnp.broadcast_to(jax.nn.log_softmax(params["prior"]["logits"]), weights.shape)
        log_q = jax.nn.log_softmax(logits)
        return jnp.sum(p_x.log_prob(jnp.asarray(X))) + jnp.sum(weights * log_p) - jnp.sum(weights * log_q)

    hard = np.eye(CODES, dtype=np.float32)[np.asarray(evidence.logits + noise[0]).argmax(axis=-1)]
    found, expected = jax.jit(lambda a, b: (jax.value_and_grad(of_model)(a), jax.value_and_grad(of_relaxation)(a, b)))(
        evidence.logits, hard
    )
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-4, atol=1e-6)
    assert np.abs(expected[1]).max() > 1e-2


def test_every_parameter_has_a_gradient_for_each_form_of_the_bound(model):
    built, params = model
    for objective in (elbo, sampled_elbo):
        loss = lambda p, f=objective: loss_and_statistics(p, jax.random.key(0), X, model=built, objective=f)[0]  # noqa: E731
        gradient = jax.jit(jax.grad(loss))(params)
        assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))


def test_the_means_are_the_most_probable_codes(model):
    built, params = model
    evidence = evidence_of(model)
    _, (latent,) = built.apply({"params": params}, from_means(), evidence, method="decode")
    np.testing.assert_array_equal(latent.z, np.asarray(evidence.logits).argmax(axis=-1))
    q = latent.posterior
    p = softmax(q.logits)
    mean = p @ np.arange(CODES)
    np.testing.assert_allclose(q.stddev(), np.sqrt(p @ np.arange(CODES) ** 2 - mean**2), rtol=1e-4)
    assert (q.num_codes, q.depth, q.batch_shape) == (CODES, 1, (3,))
    assert kl_divergence(q, object()) is None


def test_a_prior_without_a_closed_form_has_no_gradient(model):
    del model
    built = build_model(code_config(prior="transformer-codes", prior__layers=1, prior__width=8), SHAPE)
    relaxed = build_model(code_config(prior="categorical-codes", **GUMBEL), SHAPE).clone(prior=built.prior)
    params = init(relaxed, jax.random.key(0), X)["params"]
    with pytest.raises(InputError, match="samples without a gradient to its parameters"):
        jax.grad(lambda p: loss_and_statistics(p, jax.random.key(0), X, model=relaxed, objective=elbo)[0])(params)


def test_the_temperature_falls_by_a_constant_factor_in_training_steps_alone(model):
    annealed = {"posterior__final_temperature": 0.175, "posterior__annealing_steps": 2}
    built = build_model(code_config(prior="categorical-codes", **GUMBEL, **annealed), SHAPE)
    params, variables = model[1], init(built, jax.random.key(0), X)
    statistics = {"temperature": variables["temperature"]}
    assert "temperature" not in init(model[0], jax.random.key(0), X)

    @jax.jit
    def step(statistics):
        losses = lambda p: loss_and_statistics(  # noqa: E731
            Variables(p, statistics), jax.random.key(0), X, model=built, objective=elbo
        )
        (_, (_, new)), gradient = jax.value_and_grad(lambda p: (losses(p)[0], losses(p)[1:]), has_aux=True)(params)
        return new, gradient

    found, gradients = [], []
    for _ in range(4):
        evidence = built.apply({"params": params} | statistics, {"x": X}, method="encode")  # nothing is counted
        found.append(float(evidence.temperature))
        statistics, gradient = step(statistics)
        gradients.append(gradient)
    second = model[0].clone(posterior=model[0].posterior.clone(temperature=0.35))
    loss = lambda p: loss_and_statistics(p, jax.random.key(0), X, model=second, objective=elbo)[0]  # noqa: E731
    chex.assert_trees_all_close(gradients[1], jax.jit(jax.grad(loss))(params), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found, [0.7, 0.35, 0.175, 0.175], rtol=1e-6)


@pytest.mark.fault
def test_parts_that_do_not_fit_are_refused():
    code_config(**GUMBEL, objective="iwae", objective__num_samples=3)
    with pytest.raises(InputError, match=r"^prior=transformer-codes must be uniform-codes or categorical-codes with"):
        code_config(**GUMBEL, prior="transformer-codes")
    with pytest.raises(InputError, match=r"^posterior.final_temperature=0.1 has no effect with posterior.annealing_st"):
        code_config(**GUMBEL, posterior__final_temperature=0.1)
    with pytest.raises(InputError, match=r"^estimator=sticking-the-landing must be pathwise with posterior=gumbel-so"):
        code_config(**GUMBEL, objective="sampled-elbo", estimator="sticking-the-landing")
