"""inference.elbos."""

import jax.numpy as jnp
from jax import Array

from vae_jax.inference.terms import Terms, check_terms, kl_divergence_of, log_weights


def reconstruction(terms: Terms) -> Array:
    """E_q log p(x|z), [B]: what an autoencoder maximises (Hinton & Salakhutdinov, Science 2006)."""
    check_terms(terms)
    return jnp.mean(terms.log_px_z, axis=0)


def elbo(terms: Terms, *, beta: float = 1.0) -> Array:
    """E_q log p(x|z) - beta KL(q(z|x) || p(z)), the KL in closed form where the code is one layer, [B].

    With beta = 1 a lower bound on log p(x) (Kingma & Welling, arXiv 1312.6114); other weights give the
    beta-VAE (Higgins et al., ICLR 2017). Raises ValueError where the terms hold no KL (see `Terms.kl`).
    """
    return reconstruction(terms) - beta * jnp.sum(kl_divergence_of(terms), axis=0)


def sampled_elbo(terms: Terms, *, beta: float = 1.0) -> Array:
    """E_q [log p(x|z) + beta (log p(z) - log q(z|x))], the KL by the same samples, [B].

    With beta = 1 the mean of the log weights. Raises ValueError where the posterior has no density.
    """
    log_w = log_weights(terms)
    return jnp.mean(terms.log_px_z + beta * (log_w - terms.log_px_z), axis=0)


def free_bits(terms: Terms, *, free_bits: float, beta: float = 1.0) -> Array:
    """E_q log p(x|z) - beta max(KL, free_bits), [B]: the first nats of the divergence cost nothing.

    The floor holds for each example, so one example's bound does not depend on another, and for all layers of a code
    together, whose shares are no divergences alone (Kingma et al., arXiv 1606.04934, take the mean over a batch, which
    is never larger, and a floor for each of several groups of latents). The KL of several layers is an estimate by K
    samples, whose noise costs something near the floor: E max(estimate, free_bits) >= max(KL, free_bits).
    """
    kl = jnp.sum(kl_divergence_of(terms), axis=0)
    return reconstruction(terms) - beta * jnp.maximum(kl, free_bits)


def capacity(terms: Terms, *, capacity: float, beta: float = 1.0) -> Array:
    """E_q log p(x|z) - beta |KL - capacity|, [B] (Burgess et al., arXiv 1804.03599).

    The KL of several layers is an estimate by K samples, whose noise costs something: E |estimate - capacity| is more
    than |KL - capacity| where they are near.
    """
    kl = jnp.sum(kl_divergence_of(terms), axis=0)
    return reconstruction(terms) - beta * jnp.abs(kl - capacity)
