"""Objectives of the aggregate posterior: the parts of the KL, the mixture over the batch, and MMD."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jitted import apply, sample_terms
from linear_gaussian import SCALE, exact_model
from random_terms import BATCH_OBJECTIVES, B, K, change_layer, objective_named, random_terms
from scipy import stats

from vae_jax.distributions import (
    Bernoulli,
    Categorical,
    ContinuousBernoulli,
    Deterministic,
    Latent,
    Normal,
    StudentT,
    from_posterior,
    standard_normal,
)
from vae_jax.errors import InputError
from vae_jax.inference import aggregate, elbos
from vae_jax.inference.terms import Terms


@pytest.mark.usefixtures("x64")
def test_the_aggregate_posterior_of_the_exact_model_is_the_prior():
    """For x ~ p(x), q(z) = E q(z|x) is p(z): MMD is zero on average, and the total correlation is close to zero."""
    model, params, _ = exact_model()
    z = jax.random.normal(jax.random.key(0), (400, 2))
    mean = apply(model, params, z, method="decode").mean()
    x = mean + SCALE * jax.random.normal(jax.random.key(1), mean.shape)
    terms = sample_terms(params, jax.random.key(2), x, model=model)
    information, correlation, latent_kl = (
        float(p.mean()) for p in aggregate.kl_decomposition(terms, num_examples=len(x))
    )
    assert abs(correlation) < 0.1
    assert abs(latent_kl) < 0.1
    np.testing.assert_allclose(information + correlation + latent_kl, (terms.log_qz - terms.log_pz).mean(), rtol=1e-9)
    exact = -np.asarray(params["posterior"]["log_variance"]["bias"]).sum() / 2  # H(z) - H(z|x), nats
    assert abs(information - exact) < 0.2 * exact
    discrepancy = np.asarray(aggregate.squared_mmd(terms))
    assert abs(discrepancy.mean()) < 0.01


def test_the_parts_of_the_kl_sum_to_it():
    terms = random_terms(layers=1)
    parts = aggregate.kl_decomposition(terms, num_examples=10)
    np.testing.assert_allclose(sum(parts), (terms.log_qz - terms.log_pz).mean(0), rtol=1e-5)
    beta_one = aggregate.beta_tc(terms, num_examples=10, beta=1.0)
    np.testing.assert_allclose(beta_one, elbos.sampled_elbo(terms), rtol=1e-6)


def test_the_mixture_is_exact_if_the_batch_is_the_data_set():
    """One-dimensional codes have no total correlation, and the mixture is that of all images."""
    terms = random_terms(layers=1)
    (codes,) = terms.latents
    q = Normal(codes.posterior.loc[:, :1], codes.posterior.log_scale[:, :1])
    terms = change_layer(terms, z=codes.z[..., :1], posterior=q, prior=standard_normal((1,)))
    information, correlation, _ = aggregate.kl_decomposition(terms, num_examples=B)
    np.testing.assert_allclose(correlation, 0, atol=1e-6)
    mixture = stats.norm.pdf(np.asarray(codes.z)[:, :, None, 0], q.loc[:, 0], np.exp(q.log_scale[:, 0])).mean(-1)
    np.testing.assert_allclose(information, (terms.log_qz - np.log(mixture)).mean(0), rtol=1e-5)


def test_the_mixture_of_a_batch_is_on_average_that_of_the_data_set():
    """Over all batches {0, j} the mixture at a code of image 0 is, on average, exactly that of the data set."""
    terms = random_terms(spread=0.5, layers=1)
    (codes,) = terms.latents
    z, q = codes.z, codes.posterior
    mixtures = []
    for j in range(1, B):
        rows = np.asarray([0, j])
        densities = {"log_p": codes.log_p[:1, rows], "log_q": codes.log_q[:1, rows]}
        posterior = Normal(q.loc[rows], q.log_scale[rows])
        latent = Latent("z", z[:1, rows], **densities, prior=codes.prior, posterior=posterior)
        part = Terms(terms.log_px_z[:1, rows], (latent,))
        information, *_ = aggregate.kl_decomposition(part, num_examples=B)
        mixtures.append(np.exp(part.log_qz[0, 0] - information[0]))
    complete = stats.norm.pdf(z[0, 0], q.loc, np.exp(q.log_scale)).prod(axis=-1).mean()
    np.testing.assert_allclose(np.mean(mixtures), complete, rtol=1e-5)


def test_mmd_is_zero_on_average_for_codes_of_the_prior_and_positive_for_others():
    noise = np.random.default_rng(0).normal(size=(2000, 8, 2))
    zeros = jnp.zeros((1, 8))

    def discrepancy(z):  # [8, 2]: an estimate from one batch
        densities = {"prior": standard_normal((2,)), "posterior": standard_normal((8, 2))}
        codes = Latent("z", z[None], log_p=zeros, log_q=zeros, **densities)
        return aggregate.squared_mmd(Terms(zeros, (codes,))).mean()

    def standard_errors_from_zero(z):
        estimates = np.asarray(jax.vmap(discrepancy)(jnp.asarray(z, jnp.float32)))
        return estimates.mean() / (estimates.std() / np.sqrt(len(estimates)))

    assert abs(standard_errors_from_zero(noise)) < 4
    for shift, scale in ((0.5, 1.0), (0.0, 0.5), (0.0, 1.5)):
        assert standard_errors_from_zero(shift + scale * noise) > 10


def test_codes_that_cannot_be_compared_are_refused():
    terms = random_terms(layers=1)
    one = random_terms(shape=(K, 1), layers=1)
    maps = change_layer(terms, z=terms.latents[0].z[..., None])
    for name in BATCH_OBJECTIVES:
        objective = objective_named(name)
        for missing in ("prior", "posterior"):
            with pytest.raises(ValueError, match=r"^terms have no densities of their codes; use `sample_terms`"):
                objective(change_layer(terms, **{missing: None}))
        with pytest.raises(ValueError, match=r"^codes have shape \[6, 1, 3\]; pass 2 examples or more"):
            objective(one)
        with pytest.raises(ValueError, match=r"^codes have shape \[6, 4, 3, 1\]; pass .* \[K, B, D\]"):
            objective(maps)
        with pytest.raises(ValueError, match=r"^terms have 2 stochastic layers; use a model with one layer"):
            objective(random_terms(layers=2))
    with pytest.raises(ValueError, match="num_examples=3 must be at least the 4"):
        aggregate.beta_tc(terms, num_examples=3)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Autoregressive(Normal):
    """A subclass whose dimensions depend on each other; its fields and shapes are those of independent ones."""

    def log_prob(self, value):
        loc = jnp.broadcast_to(self.loc, value.shape) + jnp.roll(value, 1, axis=-1)
        return Normal(loc, jnp.broadcast_to(self.log_scale, value.shape), self.event_ndims).log_prob(value)


@pytest.mark.fault
def test_densities_without_the_closed_forms_are_refused():
    terms = random_terms(layers=1)
    q = terms.latents[0].posterior
    for posterior, words in (
        (object(), "object has no `event_ndims`; use a density of independent dimensions"),
        (Autoregressive(q.loc, q.log_scale), "posterior is a Autoregressive, whose dimensions may depend"),
        (Categorical(q.loc, event_ndims=1), "posterior is a Categorical, whose dimensions may depend"),
        (Normal(q.loc[0], q.log_scale[0]), r"posterior has batch_shape=\[\] and event_ndims=1; use one for"),
        (Normal(*jnp.zeros((2, B, B, 3))), r"posterior has batch_shape=\[4, 4\] and event_ndims=1"),
        (Normal(q.loc, q.log_scale, event_ndims=0), r"posterior has batch_shape=\[4, 3\] and event_ndims=0"),
    ):
        with pytest.raises(InputError, match=f"^{words}"):
            aggregate.kl_decomposition(change_layer(terms, posterior=posterior), num_examples=10)
    for prior in (
        Bernoulli(jnp.zeros(3), 1), Normal(jnp.zeros((B, 3)), jnp.zeros((B, 3))), Autoregressive(*jnp.zeros((2, 3))),
        Normal(*jnp.zeros((2, 1))), Normal(*jnp.zeros((2, 3)), event_ndims=0),
    ):  # fmt: skip
        with pytest.raises(InputError, match=r"^prior is a (Bernoulli|Normal|Autoregressive); use the Normal \[D\]"):
            aggregate.squared_mmd(change_layer(terms, prior=prior))
    for posterior in (q, StudentT(q.loc, q.log_scale, q.log_scale), ContinuousBernoulli(q.loc, 1)):
        assert aggregate.beta_tc(change_layer(terms, posterior=posterior), num_examples=10).shape == (B,)
    assert aggregate.squared_mmd(terms).shape == (B,)


@pytest.mark.fault
def test_the_bound_of_a_subclass_uses_its_own_density():
    """With q = p the bound is the reconstruction; the closed form of the parent would be far from it."""
    q = Autoregressive(*jnp.ones((2, B, 3)))
    prior, keys = Autoregressive(*jnp.ones((2, 3))), jax.random.split(jax.random.key(0), B)
    shifted = Normal(jnp.full(3, 5.0), jnp.ones(3))
    for p, kl in ((prior, 0.0), (shifted, None)):
        latent = from_posterior(keys, B, 200)("z", p, lambda: q)
        terms = Terms(jnp.zeros((200, B)), (latent,))
        expected = -(latent.log_q - latent.log_p).mean(axis=0) if kl is None else -kl
        np.testing.assert_allclose(elbos.elbo(terms), expected, atol=1e-4)


def test_mmd_compares_the_codes_of_a_point_posterior():
    terms = random_terms(layers=1)
    point = change_layer(terms, log_q=None, kl=None, posterior=Deterministic(terms.latents[0].posterior.loc))
    np.testing.assert_array_equal(aggregate.squared_mmd(point), aggregate.squared_mmd(terms))
    with pytest.raises(ValueError, match="no density"):
        aggregate.beta_tc(point, num_examples=10)
