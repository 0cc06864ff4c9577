"""Objectives of the aggregate posterior q(z) = E_x q(z|x): they compare the codes of all examples of a batch."""

import dataclasses
import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from vae_jax.config import any_of, register, setting
from vae_jax.distributions import Bernoulli, ContinuousBernoulli, Normal, StudentT
from vae_jax.errors import InputError
from vae_jax.inference.elbos import elbo, sampled_elbo
from vae_jax.inference.objectives import WeightedConfig
from vae_jax.inference.terms import Objective, Terms, check_terms, posterior_log_density


def _comparable_codes(terms: Terms) -> tuple[Array, Any, Any]:
    """Return (z, posterior, prior); raise ValueError unless they are codes of one layer for 2 examples or more."""
    check_terms(terms)
    if len(terms.latents) != 1:
        raise ValueError(f"terms have {len(terms.latents)} stochastic layers; use a model with one layer")
    (latent,) = terms.latents
    if latent.posterior is None or latent.prior is None:
        raise ValueError("terms have no densities of their codes; use `sample_terms` with estimator `pathwise`")
    if latent.z.ndim != 3 or latent.z.shape[1] < 2 or latent.z.shape[:2] != terms.log_px_z.shape:
        raise ValueError(f"codes have shape {list(latent.z.shape)}; pass 2 examples or more, [K, B, D]")
    return latent.z, latent.posterior, latent.prior


_INDEPENDENT = (Normal, StudentT, Bernoulli, ContinuousBernoulli)  # each latent dimension is independent


def _factorized(posterior: Any, codes: Array) -> Any:
    """Return the posterior with one log density for each latent dimension; raise InputError for any other type.

    A subclass may override the density, so that its dimensions depend on each other.
    """
    if not hasattr(posterior, "event_ndims"):
        raise InputError(f"{type(posterior).__name__} has no `event_ndims`; use a density of independent dimensions")
    if type(posterior) not in _INDEPENDENT:
        names = any_of([cls.__name__ for cls in _INDEPENDENT])
        raise InputError(
            f"posterior is a {type(posterior).__name__}, whose dimensions may depend on each other; use {names}"
        )
    if posterior.event_ndims != 1 or posterior.batch_shape != codes.shape[1:2]:
        shapes = f"batch_shape={list(posterior.batch_shape)} and event_ndims={posterior.event_ndims}"
        raise InputError(f"posterior has {shapes}; use one for each of the {codes.shape[1]} examples, over vectors")
    return dataclasses.replace(posterior, event_ndims=0)


def kl_decomposition(terms: Terms, *, num_examples: int) -> tuple[Array, Array, Array]:
    """Return mutual information, total correlation and dimension-wise KL: the three parts of KL(q(z|x) || p(z)).

    log q(z|x) - log p(z) = [log q(z|x) - log q(z)] + [log q(z) - Σ_d log q(z_d)] + [Σ_d log q(z_d) - log p(z)],
    averaged over the K samples (Chen et al., arXiv 1802.04942).

    q(z) = 1/N Σ_n q(z|x_n) over N = `num_examples` images is estimated from the batch. In this estimate the image of a
    code has weight 1/N, and each other image of the batch represents (N - 1)/(B - 1) images. The estimate of q(z) is
    unbiased, and it is exact if the batch is the data set. It needs an array of [K, B, B, D]. The values of an example
    depend on the other images of the batch.

    Args:
      terms: log densities [K, B] of one stochastic layer.
      num_examples: N, the number of images of the data set.

    Returns:
      Mutual information, total correlation and the sum of the KL of each latent dimension, each [B] in nats.

    Raises:
      ValueError: the terms have no densities of their codes, several layers or a single example; or N < B.
      InputError: the dimensions of the posterior are not known to be independent.
    """
    z, posterior, _ = _comparable_codes(terms)
    k, b, d = z.shape
    if num_examples < b:
        raise ValueError(f"num_examples={num_examples} must be at least the {b} examples of the batch")
    log_qz_x = posterior_log_density(terms)  # [K, B]
    log_ratio = log_qz_x - terms.log_pz
    pairs = _factorized(posterior, z).log_prob(jnp.broadcast_to(z[:, :, None], (k, b, b, d)))  # log q(z_d of i | x_j)
    other_weight = (num_examples - 1) / num_examples / (b - 1)
    log_weight = jnp.log(jnp.where(jnp.eye(b, dtype=bool), 1 / num_examples, other_weight))  # [B, B]
    weighted = pairs + jnp.broadcast_to(log_weight[:, :, None], pairs.shape)
    log_qz = jax.nn.logsumexp(jnp.sum(pairs, axis=-1) + jnp.broadcast_to(log_weight, (k, b, b)), axis=2)  # [K, B]
    log_product = jnp.sum(jax.nn.logsumexp(weighted, axis=2), axis=-1)  # [K, B], Σ_d log q(z_d)
    information, correlation = log_qz_x - log_qz, log_qz - log_product
    dimension_kl = log_ratio - information - correlation
    return jnp.mean(information, axis=0), jnp.mean(correlation, axis=0), jnp.mean(dimension_kl, axis=0)


def beta_tc(terms: Terms, *, num_examples: int, beta: float | Array = 1.0) -> Array:
    """Return E_q log p(x|z) - I - beta TC - Σ_d KL_d, with the parts of `kl_decomposition` (β-TCVAE, arXiv 1802.04942).

    With beta = 1 it is the sampled ELBO. The value of an example depends on the other images of the batch, because the
    total correlation TC is that of the codes of the batch.

    Args:
      terms: log densities [K, B] of one stochastic layer.
      num_examples: the number of images of the data set.
      beta: weight of the total correlation.

    Returns:
      [B], in nats.

    Raises:
      ValueError: see `kl_decomposition`.
    """
    _, correlation, _ = kl_decomposition(terms, num_examples=num_examples)
    return sampled_elbo(terms) - (beta - 1) * correlation


@register("objective", "beta-tc")
@dataclasses.dataclass(frozen=True)
class BetaTCConfig(WeightedConfig):
    """Settings of `beta_tc`."""

    compares_examples: ClassVar[bool] = True
    needs_single_layer: ClassVar[bool] = True
    needs_independent_latents: ClassVar[bool] = True

    beta: float = setting(1.0, "Weight of the total correlation.", minimum=0, batchable=True)

    def at(self, step: Array, num_examples: int) -> Objective:
        """Return `beta_tc` with its weight at a step."""
        return functools.partial(beta_tc, num_examples=num_examples, beta=self.weight(step))


def squared_mmd(terms: Terms) -> Array:
    """Return an unbiased estimate of MMD²(q(z), p(z)) >= 0 for the kernel exp(-‖z - z'‖²/2D) and a Gaussian p.

    Each code is compared with the codes of the other examples. The expectations of the kernel under the prior are in
    closed form (Gretton et al., JMLR 2012; Zhao et al., arXiv 1706.02262).

    Args:
      terms: log densities [K, B] of one stochastic layer.

    Returns:
      [B]; the mean over examples is the estimate. A single value depends on the other examples of the batch.

    Raises:
      ValueError: the terms have no densities of their codes, several layers, or a single example.
      InputError: the prior is not exactly a Normal that all examples share.
    """
    z, _, prior = _comparable_codes(terms)
    k, b, d = z.shape
    if type(prior) is not Normal or prior.event_ndims != 1 or prior.loc.shape != (d,):
        raise InputError(f"prior is a {type(prior).__name__}; use the Normal [D] whose MMD is in closed form")
    variance = jnp.exp(2 * prior.log_scale)  # [D]
    distance = jnp.broadcast_to(z[:, :, None], (k, b, b, d)) - jnp.broadcast_to(z[:, None], (k, b, b, d))
    kernel = jnp.exp(-jnp.sum(distance**2, axis=-1) / (2 * d))  # [K, B, B]
    among = jnp.sum(jnp.where(jnp.eye(b, dtype=bool)[None], 0, kernel), axis=2) / (b - 1)
    from_mean = jnp.sum((z - prior.loc[None, None]) ** 2 / (d + variance)[None, None], axis=-1)  # [K, B]
    to_prior = jnp.exp(-0.5 * (from_mean + jnp.sum(jnp.log1p(variance / d))))
    within_prior = jnp.exp(-0.5 * jnp.sum(jnp.log1p(2 * variance / d)))
    return jnp.mean(among - 2 * to_prior, axis=0) + within_prior


def info_vae(terms: Terms, *, mmd_weight: float, beta: float | Array = 1.0) -> Array:
    """Return E_q log p(x|z) - beta KL(q(z|x) || p(z)) - mmd_weight MMD²(q(z), p(z)) (Zhao et al., arXiv 1706.02262).

    beta is the paper's 1 - α and mmd_weight its α + λ - 1. With beta = 0 it is the MMD-VAE, with mmd_weight = 0 the
    ELBO. The value of an example depends on the other images of the batch, because the MMD is that of their codes.

    Args:
      terms: log densities [K, B] of one stochastic layer.
      mmd_weight: weight of MMD².
      beta: weight of the KL.

    Returns:
      [B], in nats.

    Raises:
      ValueError: the terms have no KL, or see `squared_mmd`.
    """
    return elbo(terms, beta=beta) - mmd_weight * squared_mmd(terms)


@register("objective", "info-vae")
@dataclasses.dataclass(frozen=True)
class InfoVAEConfig(WeightedConfig):
    """Settings of `info_vae`."""

    compares_examples: ClassVar[bool] = True
    needs_single_layer: ClassVar[bool] = True
    needs_normal_prior: ClassVar[bool] = True

    mmd_weight: float = setting(
        100.0,
        "Weight of the squared maximum mean discrepancy (MMD) between codes and prior.",
        minimum=0,
        batchable=True,
    )

    def at(self, step: Array, num_examples: int) -> Objective:
        """Return `info_vae` with its weights at a step."""
        del num_examples
        return functools.partial(info_vae, mmd_weight=self.mmd_weight, beta=self.weight(step))
