"""Terms -> a bound per example, in nats: larger is better, nothing is averaged over examples.

An objective is a pure function of `Terms`; its settings are keyword arguments, bound with `functools.partial`.
A new one is a function here and a row in `OBJECTIVES`; it then works with every model, device count and command.
"""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax.numpy as jnp
from jax import Array


class Terms(NamedTuple):
    """Log densities of K posterior samples for each of B examples, in nats."""

    log_px_z: Array  # [K, B]  log p(x|z), summed over pixels
    log_pz: Array  # [K, B]  log p(z)
    log_qz: Array | None  # [K, B]  log q(z|x); None where the posterior is a point, which has no density
    kl: Array | None  # [L, B]  KL(q(z|x) || p(z)) in closed form, a row for each stochastic layer; or None


Objective = Callable[[Terms], Array]


def check_terms(terms: Terms) -> None:
    """Refuses terms that are not [K, B], and a closed-form KL that is not [L, B] for the same B."""
    chex.assert_rank(terms.log_px_z, 2)
    same = [t for t in (terms.log_px_z, terms.log_pz, terms.log_qz) if t is not None]
    chex.assert_equal_shape(same)
    if terms.kl is not None:
        chex.assert_shape(terms.kl, (None, terms.log_px_z.shape[1]))


def log_weights(terms: Terms) -> Array:
    """log w = log p(x|z) + log p(z) - log q(z|x), in nats, [K, B]; raises ValueError where q has no density."""
    check_terms(terms)
    if terms.log_qz is None:
        raise ValueError("a deterministic posterior has no density, hence no weights: use `reconstruction`")
    return terms.log_px_z + terms.log_pz - terms.log_qz


def kl_divergence_of(terms: Terms) -> Array:
    """The closed-form KL for each stochastic layer, in nats, [L, B]; raises ValueError where there is none."""
    check_terms(terms)
    if terms.kl is None:
        raise ValueError("this posterior and prior have no closed-form KL: use `sampled_elbo`")
    return terms.kl


def reconstruction(terms: Terms) -> Array:
    """E_q log p(x|z), [B]: what an autoencoder maximises (Hinton & Salakhutdinov, Science 2006)."""
    check_terms(terms)
    return jnp.mean(terms.log_px_z, axis=0)


def elbo(terms: Terms, *, beta: float = 1.0) -> Array:
    """E_q log p(x|z) - beta KL(q(z|x) || p(z)), the KL in closed form, [B].

    With beta = 1 a lower bound on log p(x) (Kingma & Welling, arXiv 1312.6114); other weights give the
    beta-VAE (Higgins et al., ICLR 2017). Raises ValueError where the KL has no closed form.
    """
    return reconstruction(terms) - beta * jnp.sum(kl_divergence_of(terms), axis=0)


def sampled_elbo(terms: Terms, *, beta: float = 1.0) -> Array:
    """E_q [log p(x|z) + beta (log p(z) - log q(z|x))], the KL by the same samples, [B].

    With beta = 1 the mean of the log weights. Raises ValueError where the posterior has no density.
    """
    log_w = log_weights(terms)
    return jnp.mean(terms.log_px_z + beta * (log_w - terms.log_px_z), axis=0)


def free_bits(terms: Terms, *, free_bits: float, beta: float = 1.0) -> Array:
    """E_q log p(x|z) - beta Σ_l max(KL_l, free_bits), [B]: the first nats of each layer cost nothing.

    The floor holds for each example, so one example's bound does not depend on another (Kingma et al.,
    arXiv 1606.04934, take it for the mean over a batch, which is never larger).
    """
    kl = kl_divergence_of(terms)
    return reconstruction(terms) - beta * jnp.sum(jnp.maximum(kl, free_bits), axis=0)


def capacity(terms: Terms, *, capacity: float, beta: float = 1.0) -> Array:
    """E_q log p(x|z) - beta |KL - capacity|, [B] (Burgess et al., arXiv 1804.03599)."""
    kl = jnp.sum(kl_divergence_of(terms), axis=0)
    return reconstruction(terms) - beta * jnp.abs(kl - capacity)


OBJECTIVES: dict[str, Callable[..., Array]] = {
    "reconstruction": reconstruction,
    "elbo": elbo,
    "sampled-elbo": sampled_elbo,
    "free-bits": free_bits,
    "capacity": capacity,
}
