"""inference.aggregate."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from vae_jax.inference.elbos import elbo, sampled_elbo
from vae_jax.inference.terms import Codes, Terms, check_terms

# Bounds that look at the whole batch.


def _codes_of(terms: Terms) -> Codes:
    check_terms(terms)
    if terms.codes is None:
        raise ValueError("these terms hold no codes to be compared: use terms of `sample_terms`, estimator `pathwise`")
    if sizes := getattr(terms.codes.posterior, "sizes", ()):  # of a Markov chain
        raise ValueError(f"codes of {len(sizes)} stochastic layers given, must be one: their latents are compared")
    if terms.codes.z.shape[1] < 2:
        raise ValueError("one example has no others to be compared with: use 2 examples or more")
    return terms.codes


def _each_latent(density: Any) -> Any:
    return dataclasses.replace(density, event_ndims=0)


def kl_decomposition(terms: Terms, *, num_examples: int) -> tuple[Array, Array, Array]:
    """(mutual information, total correlation, KL of each latent): three parts of KL(q(z|x) || p(z)), each [B].

    log q(z|x) - log p(z) = [log q(z|x) - log q(z)] + [log q(z) - Σ_d log q(z_d)] + [Σ_d log q(z_d) - log p(z)],
    the means over K samples (Chen et al., arXiv 1802.04942). q(z) = 1/N Σ_n q(z|x_n) over N = `num_examples` images is
    estimated from the batch, in which the code's own image stands for itself and each other for (N - 1)/(B - 1): free
    of bias for q(z), exact where the batch is the data set, and a matrix of [K, B, B, D]. Not a value per
    example alone: it depends on the other images of the batch. Raises ValueError for one example, or if N < B.
    """
    z, posterior, _ = _codes_of(terms)
    k, b, d = z.shape
    if num_examples < b:
        raise ValueError(f"num_examples={num_examples} must be at least the {b} examples of the batch")
    log_ratio = terms.log_qz - terms.log_pz
    pairs = _each_latent(posterior).log_prob(jnp.broadcast_to(z[:, :, None], (k, b, b, d)))  # log q(z_d of i | x_j)
    others = (num_examples - 1) / num_examples / (b - 1)
    log_share = jnp.log(jnp.where(jnp.eye(b, dtype=bool), 1 / num_examples, others))  # [B, B]
    shared = pairs + jnp.broadcast_to(log_share[:, :, None], pairs.shape)
    log_qz = jax.nn.logsumexp(jnp.sum(pairs, axis=-1) + jnp.broadcast_to(log_share, (k, b, b)), axis=2)  # [K, B]
    log_qz_alone = jnp.sum(jax.nn.logsumexp(shared, axis=2), axis=-1)  # [K, B]
    information, correlation = terms.log_qz - log_qz, log_qz - log_qz_alone
    parts = information, correlation, log_ratio - information - correlation
    return tuple(jnp.mean(part, axis=0) for part in parts)


def beta_tc(terms: Terms, *, num_examples: int, beta: float = 1.0) -> Array:
    """E_q log p(x|z) - I - beta TC - Σ_d KL_d, the parts of the KL by `kl_decomposition`, [B] (β-TCVAE, 1802.04942).

    With beta = 1 the sampled ELBO. Not per example: TC is that of the codes of the whole batch.
    """
    _, correlation, _ = kl_decomposition(terms, num_examples=num_examples)
    return sampled_elbo(terms) - (beta - 1) * correlation


def squared_mmd(terms: Terms) -> Array:
    """[B], whose mean estimates MMD²(q(z), p(z)) >= 0 without bias, for the kernel exp(-‖z - z'‖²/2D) and Gaussian p.

    Codes are compared with those of the other examples; the kernel's means under the prior are closed forms. Not per
    example. Raises ValueError for one example (Gretton et al., JMLR 2012; Zhao et al., arXiv 1706.02262).
    """
    z, _, prior = _codes_of(terms)
    k, b, d = z.shape
    variance = jnp.exp(2 * prior.log_scale)  # [D]
    distance = jnp.broadcast_to(z[:, :, None], (k, b, b, d)) - jnp.broadcast_to(z[:, None], (k, b, b, d))
    kernel = jnp.exp(-jnp.sum(distance**2, axis=-1) / (2 * d))  # [K, B, B]
    among = jnp.sum(jnp.where(jnp.eye(b, dtype=bool)[None], 0, kernel), axis=2) / (b - 1)
    from_mean = jnp.sum((z - prior.loc[None, None]) ** 2 / (d + variance)[None, None], axis=-1)  # [K, B]
    to_prior = jnp.exp(-0.5 * (from_mean + jnp.sum(jnp.log1p(variance / d))))
    within_prior = jnp.exp(-0.5 * jnp.sum(jnp.log1p(2 * variance / d)))
    return jnp.mean(among - 2 * to_prior, axis=0) + within_prior


def info_vae(terms: Terms, *, mmd_weight: float, beta: float = 1.0) -> Array:
    """E_q log p(x|z) - beta KL(q(z|x) || p(z)) - mmd_weight MMD²(q(z), p(z)), [B] (Zhao et al., arXiv 1706.02262).

    beta is the paper's 1 - α and mmd_weight its α + λ - 1: with beta = 0 the MMD-VAE, with mmd_weight = 0 the ELBO.
    Not per example: the MMD is that of the codes of the whole batch.
    """
    return elbo(terms, beta=beta) - mmd_weight * squared_mmd(terms)
