"""Where a model meets an objective: samples the posterior, names the log densities, and makes the loss of them."""

import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax import Array, lax

from vae_jax import random
from vae_jax.distributions import Deterministic, MarkovChain, Normal, kl_divergence
from vae_jax.inference.estimators import Estimator, pathwise
from vae_jax.inference.terms import Codes, Objective, Pair, Terms

Params = Any  # a pytree of arrays
Metrics = dict[str, Array]


def sample_terms(
    params: Params, key: random.Key, x: Array, *, model: Any, num_samples: int = 1, estimator: Estimator = pathwise
) -> Terms:
    """The log densities of K = `num_samples` codes z ~ q(z|x) for images x [B, H, W, C], in nats, each [K, B].

    z = m + σ e with e ~ N(0, I) drawn from `key`, so gradients flow through m and σ; which of them, `estimator` says
    (`functools.partial(doubly_reparameterized, objective=iwae)` where it depends on the objective). `model` is a `VAE`,
    or any Linen module with its `encode`, `prior` and `decode`.
    """
    return _sample_terms(params, params, key, x, model=model, num_samples=num_samples, estimator=estimator)


def _sample_terms(
    encoder_params: Params,
    decoder_params: Params,
    key: random.Key,
    x: Array,
    *,
    model: Any,
    num_samples: int,
    estimator: Estimator,
) -> Terms:
    """`sample_terms` where the posterior has parameters of its own, equal in value to those of p(x|z) and p(z)."""
    chex.assert_rank(x, 4)
    variables = {"params": decoder_params}
    p = model.apply(variables, method="prior")

    def densities(z: Array, q: Any) -> Terms:
        with jax.named_scope("decoder"):
            p_x = model.apply(variables, z, method="decode")
        with jax.named_scope("likelihood"):
            log_px_z = p_x.log_prob(x)
        if isinstance(q, Deterministic):
            return Terms(log_px_z, p.log_prob(z), log_qz=None, kl=None)
        if isinstance(q, MarkovChain):  # its layers' divergences have no closed form
            log_pz, log_qz = p.log_probs(z), q.log_probs(z)  # [L, K, B]
            kl = jnp.mean(log_qz - log_pz, axis=1)
            return Terms(log_px_z, jnp.sum(log_pz, axis=0), jnp.sum(log_qz, axis=0), kl, Codes(z, q, p))
        kl = kl_divergence(q, p)[None] if isinstance(q, Normal) and isinstance(p, Normal) else None
        return Terms(log_px_z, p.log_prob(z), q.log_prob(z), kl, Codes(z, q, p))

    with jax.named_scope("encoder"):
        q = model.apply({"params": encoder_params}, x, method="encode")
    with jax.named_scope("sampling"):
        z = q.sample(key, (num_samples,))  # codes [K, B, D]
    return estimator(densities, z, q)


def negative_bound(
    params: Params,
    key: random.Key,
    x: Array,
    *,
    model: Any,
    objective: Objective,
    num_samples: int = 1,
    estimator: Estimator = pathwise,
) -> tuple[Array, Metrics]:
    """(loss, metrics): minus the mean bound over the batch, in nats per example; what `jax.grad` differentiates.

    Of a `Pair` the value is that of `generative`, whose gradient goes to what p(x|z) and p(z) use; the gradient of
    `inference` goes to what q(z|x) uses. `metrics` holds the means of the bound and of its parts:
    `reconstruction` = E_q log p(x|z) and, where the posterior has a density, `kl` (in closed form where the terms hold
    one, else by the samples). Raises ValueError where the objective asks for what the estimator cannot give,
    or is not a number for each example.
    """

    terms_of = functools.partial(_sample_terms, key=key, x=x, model=model, num_samples=num_samples)
    if isinstance(objective, Pair):
        fixed = lax.stop_gradient(params)
        rule = functools.partial(estimator, objective=objective.inference)
        aim = objective.inference(terms_of(params, fixed, estimator=rule))  # [B]
        terms = terms_of(fixed, params, estimator=pathwise)  # the same numbers, which XLA computes once
        bound = objective.generative(terms) + (aim - lax.stop_gradient(aim))  # [B]
    else:
        terms = terms_of(params, params, estimator=functools.partial(estimator, objective=objective))
        bound = objective(terms)  # [B]
    if bound.shape != x.shape[:1]:
        raise ValueError(f"objective: it gave {list(bound.shape)} for {len(x)} examples, must be a bound for each, [B]")
    metrics = {"bound": jnp.mean(bound)} | {name: jnp.mean(part) for name, part in bound_parts(terms).items()}
    return -metrics["bound"], metrics


def bound_parts(terms: Terms) -> dict[str, Array]:
    """{"reconstruction": [B], "kl": [B]} in nats, and `kl_1`, ..., `kl_L` where the code has L > 1 layers.

    There is no `kl` where the posterior is a point.
    """
    parts = {"reconstruction": jnp.mean(terms.log_px_z, axis=0)}
    if terms.kl is not None:
        parts["kl"] = jnp.sum(terms.kl, axis=0)
        if len(terms.kl) > 1:
            parts |= {f"kl_{layer}": row for layer, row in enumerate(terms.kl, start=1)}
    elif terms.log_qz is not None:
        parts["kl"] = jnp.mean(terms.log_qz - terms.log_pz, axis=0)
    return parts
