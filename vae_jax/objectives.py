"""Terms -> a bound per example, in nats: larger is better, nothing is averaged over examples.

An objective is a pure function of `Terms`; its settings are keyword arguments, bound with `bind`. `negative_bound`
takes any, with every model and device count. One that the commands know is a function here, a row in `OBJECTIVES`, and
its name and settings in `config.py`. An example's value depends on that example alone, except in `beta_tc` and
`info_vae`, which look at the codes of the whole batch.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax import Array, lax


class Codes(NamedTuple):
    """The codes behind the terms and the densities they are read by: they exist anyway, so they cost nothing here."""

    z: Array  # [K, B, D]
    posterior: Any  # q(z|x), a density over codes [B, D]
    prior: Any  # p(z), a density over codes [D]


class Terms(NamedTuple):
    """Log densities of K posterior samples for each of B examples, in nats."""

    log_px_z: Array  # [K, B]  log p(x|z), summed over pixels
    log_pz: Array  # [K, B]  log p(z)
    log_qz: Array | None  # [K, B]  log q(z|x); None where the posterior is a point, which has no density
    kl: Array | None  # [L, B]  KL(q(z|x) || p(z)), a row for each stochastic layer: in closed form if L = 1, else by
    # the samples, since a layer's prior depends on another's. Then a row is a share of the divergence, and alone may be
    # negative. None where the estimator's gradient is not the KL's
    codes: Codes | None = None  # for what looks at the whole batch: `beta_tc`, `info_vae`


Objective = Callable[[Terms], Array]


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two objectives at once: decoder and prior climb `generative`, the encoder climbs `inference`.

    As a function of terms it is `generative`: that bound is the value of the loss. Which gradient goes where is
    decided in `inference.negative_bound`, by the role of the parameters, so that decoders with tied weights get both.
    """

    generative: Objective
    inference: Objective

    def __call__(self, terms: Terms) -> Array:
        """The bound that the decoder climbs, [B]."""
        return self.generative(terms)


def bind(objective: Callable[..., Array] | Pair, **settings: Any) -> Objective:
    """`objective` with its settings; those of a pair are settings of what its encoder climbs."""
    if isinstance(objective, Pair):
        return Pair(objective.generative, functools.partial(objective.inference, **settings))
    return functools.partial(objective, **settings)


def check_terms(terms: Terms) -> None:
    """Refuses terms that are not [K, B], and a KL that is not [L, B] for the same B."""
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
    """The share of each stochastic layer in the KL, in nats, [L, B]; raises ValueError where there is none."""
    check_terms(terms)
    if terms.kl is None:
        raise ValueError("no KL, by the densities or for the estimator's sake: use `sampled_elbo`")
    return terms.kl


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


# Bounds by importance weights: functions of log w alone.


def _log_mean_exp(log_w: Array, axis: int = 0) -> Array:
    return jax.nn.logsumexp(log_w, axis=axis) - math.log(log_w.shape[axis])


def iwae(terms: Terms) -> Array:
    """log 1/K Σ_k w_k, [B]: a lower bound on log p(x) that tightens with K (Burda et al., arXiv 1509.00519)."""
    return _log_mean_exp(log_weights(terms))


def renyi(terms: Terms, *, alpha: float) -> Array:
    """1/(1 - α) log 1/K Σ_k w_k^(1-α), [B], the mean of log w at α = 1 (Li & Turner, arXiv 1602.02311).

    α = 1 is the sampled ELBO, α = 0 is IWAE, and it falls as α grows. With many samples a lower bound on log p(x) for
    α >= 0 and an upper one for α <= 0; with few it lies nearer the ELBO, which it is with one: lower for α < 1, and
    higher, but no higher than log p(x), for α > 1. `alpha` is a Python number.
    """
    log_w = log_weights(terms)
    mean = jnp.mean(log_w, axis=0)
    if alpha == 1:
        return mean
    # About their mean, the powers have a mean of 1 + something >= 0: log1p keeps its digits as α nears 1. The value
    # does not depend on the centre, so neither does the derivative.
    centre = lax.stop_gradient(mean)
    power = (1 - alpha) * (log_w - centre[None])
    near = jnp.max(power, axis=0) < 10
    small = jnp.log1p(jnp.mean(jnp.expm1(jnp.minimum(power, 10)), axis=0))
    return centre + jnp.where(near, small, _log_mean_exp(power)) / (1 - alpha)


def miwae(terms: Terms, *, num_inner_samples: int) -> Array:
    """1/M Σ_m log 1/N Σ_n w_mn, [B]: the mean of M IWAE bounds of N = `num_inner_samples` samples each, K = M·N.

    N = 1 is the sampled ELBO, N = K is IWAE (Rainforth et al., arXiv 1802.04537). Raises ValueError where N does
    not divide K.
    """
    log_w = log_weights(terms)
    if log_w.shape[0] % num_inner_samples:
        raise ValueError(f"num_inner_samples: {num_inner_samples} given, must divide the {log_w.shape[0]} samples")
    groups = log_w.reshape(-1, num_inner_samples, log_w.shape[1])  # [M, N, B]
    return jnp.mean(_log_mean_exp(groups, axis=1), axis=0)


def ciwae(terms: Terms, *, elbo_weight: float) -> Array:
    """b · 1/K Σ_k log w_k + (1 - b) log 1/K Σ_k w_k with b = `elbo_weight`, [B] (Rainforth et al., 1802.04537)."""
    log_w = log_weights(terms)
    return elbo_weight * jnp.mean(log_w, axis=0) + (1 - elbo_weight) * _log_mean_exp(log_w)


def cubo(terms: Terms, *, order: float = 2.0) -> Array:
    """CUBO_n = 1/n log 1/K Σ_k w_k^n with n = `order` >= 1, [B] (Dieng et al., arXiv 1611.00328).

    An *upper* bound on log p(x) with many samples, to be made small; with few it lies lower, and K = 1 is log w.
    At n = 2 it exceeds log p(x) by ½ log(1 + χ²(p(z|x) || q(z|x))). It is Rényi's bound at α = 1 - n.
    """
    return renyi(terms, alpha=1 - order)


def negative_cubo(terms: Terms, *, order: float = 2.0) -> Array:
    """-CUBO_n, [B]: what an encoder climbs to bring the upper bound down."""
    return -cubo(terms, order=order)


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
        raise ValueError(f"num_examples: {num_examples} given, must be at least the {b} examples of the batch")
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


OBJECTIVES: dict[str, Callable[..., Array] | Pair] = {
    "reconstruction": reconstruction,
    "elbo": elbo,
    "sampled-elbo": sampled_elbo,
    "free-bits": free_bits,
    "capacity": capacity,
    "iwae": iwae,
    "renyi": renyi,
    "miwae": miwae,
    "ciwae": ciwae,
    "piwae": Pair(generative=iwae, inference=miwae),  # Rainforth et al., arXiv 1802.04537
    "cubo": Pair(generative=iwae, inference=negative_cubo),  # an upper bound is no aim for a decoder
    "beta-tc": beta_tc,
    "info-vae": info_vae,
}
