"""The evidence lower bound (ELBO) and its variants with a weighted or constrained KL divergence."""

import jax.numpy as jnp
from jax import Array

from vae_jax.inference.terms import Terms, check_terms, layer_kl, log_weights


def reconstruction(terms: Terms) -> Array:
    """Return E_q log p(x|z), the objective of an autoencoder (Hinton & Salakhutdinov, Science 2006).

    Args:
      terms: log densities [K, B]; `log_qz` may be None.

    Returns:
      [B], in nats.
    """
    check_terms(terms)
    return jnp.mean(terms.log_px_z, axis=0)


def elbo(terms: Terms, *, beta: float | Array = 1.0) -> Array:
    """Return E_q log p(x|z) - beta KL(q(z|x) || p(z)), with the KL of each layer in closed form where there is one.

    With beta = 1 it is a lower bound on log p(x) (Kingma & Welling, arXiv 1312.6114). Other weights are the beta-VAE
    (Higgins et al., ICLR 2017).

    Args:
      terms: log densities [K, B] with `kl` [L, B].
      beta: weight of the KL.

    Returns:
      [B], in nats.

    Raises:
      ValueError: the terms have no KL (see `Terms.kl`).
    """
    return reconstruction(terms) - beta * jnp.sum(layer_kl(terms), axis=0)


def sampled_elbo(terms: Terms, *, beta: float | Array = 1.0) -> Array:
    """Return E_q [log p(x|z) + beta (log p(z) - log q(z|x))], with the KL estimated from the same samples.

    With beta = 1 it is the mean of the log weights.

    Args:
      terms: log densities [K, B].
      beta: weight of the KL.

    Returns:
      [B], in nats.

    Raises:
      ValueError: the posterior has no density.
    """
    log_w = log_weights(terms)
    return jnp.mean(terms.log_px_z + beta * (log_w - terms.log_px_z), axis=0)


def free_bits(terms: Terms, *, free_bits: float, beta: float | Array = 1.0) -> Array:
    """Return E_q log p(x|z) - beta max(KL, free_bits): the first nats of the divergence have no cost.

    The minimum applies to each example, so the bound of one example does not depend on another. It applies to the sum
    over all layers of a code, because the share of one layer is no divergence. (Kingma et al., arXiv 1606.04934, use
    the mean over a batch, which is never larger, and a minimum for each of several groups of latents.)

    The KL of several layers is an estimate from K samples. Near the minimum its noise has a cost:
    E max(estimate, free_bits) >= max(KL, free_bits).

    Args:
      terms: log densities [K, B] with `kl` [L, B].
      free_bits: the minimum, in nats per example.
      beta: weight of the KL.

    Returns:
      [B], in nats.

    Raises:
      ValueError: the terms have no KL (see `Terms.kl`).
    """
    kl = jnp.sum(layer_kl(terms), axis=0)
    return reconstruction(terms) - beta * jnp.maximum(kl, free_bits)


def capacity(terms: Terms, *, capacity: float | Array, beta: float | Array = 1.0) -> Array:
    """Return E_q log p(x|z) - beta |KL - capacity| (Burgess et al., arXiv 1804.03599).

    The KL of several layers is an estimate from K samples. Near the capacity its noise has a cost:
    E |estimate - capacity| is larger than |KL - capacity|.

    Args:
      terms: log densities [K, B] with `kl` [L, B].
      capacity: the target of the KL, in nats per example.
      beta: weight of the distance.

    Returns:
      [B], in nats.

    Raises:
      ValueError: the terms have no KL (see `Terms.kl`).
    """
    kl = jnp.sum(layer_kl(terms), axis=0)
    return reconstruction(terms) - beta * jnp.abs(kl - capacity)
