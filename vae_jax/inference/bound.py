"""From a model and an objective to a loss: samples of the posterior, their log densities, and minus the mean bound."""

import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax import Array, lax

from vae_jax import random
from vae_jax.distributions import Deterministic, MarkovChain, Normal, kl_divergence
from vae_jax.inference.estimators import Estimator, pathwise
from vae_jax.inference.terms import Codes, Objective, Pair, Terms, check_terms

Params = Any  # a pytree of arrays
Metrics = dict[str, Array]


def sample_terms(
    params: Params, key: random.Key, x: Array, *, model: Any, num_samples: int = 1, estimator: Estimator = pathwise
) -> Terms:
    """Return the log densities of K codes z ~ q(z|x) for each image.

    z = m + σ e with e ~ N(0, I) drawn from `key`, so gradients flow through m and σ. The estimator decides which of
    these gradients are used. If it depends on the objective, bind the objective first:
    `functools.partial(doubly_reparameterized, objective=iwae)`.

    Args:
      params: parameters of the model.
      key: for the posterior's noise; a typed key, or a `random.RowsKey`.
      x: floats [B, H, W, C].
      model: a `VAE`, or any Linen module with its methods `encode`, `prior` and `decode`.
      num_samples: K.
      estimator: the rule for the gradient, such as `pathwise`.

    Returns:
      Terms [K, B], in nats.

    Raises:
      AssertionError: `x` is not [B, H, W, C].
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
    """Return `sample_terms` with separate parameters for q(z|x), equal in value to those of p(x|z) and p(z)."""
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
        if isinstance(q, MarkovChain):  # the divergences of its layers have no closed form
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
    """Return minus the mean bound over the batch, the loss that `jax.grad` differentiates.

    The loss of a `Pair` is that of `generative`, whose gradient reaches the parameters of p(x|z) and p(z). The
    gradient of `inference` reaches the parameters of q(z|x).

    Args:
      params: parameters of the model.
      key: for the posterior's noise; a typed key, or a `random.RowsKey`.
      x: floats [B, H, W, C].
      model: a `VAE`, or any Linen module with its methods `encode`, `prior` and `decode`.
      objective: a function of `Terms` that returns a bound for each example, [B]; or a `Pair`.
      num_samples: K, the posterior samples of each example.
      estimator: the rule for the gradient, such as `pathwise`.

    Returns:
      The loss [] in nats per example, and metrics: the means of the bound and of its parts, each []. `bound` is the
      bound, `reconstruction` is E_q log p(x|z). `kl` exists if the posterior has a density: in closed form if the terms
      contain one, else estimated from the samples.

    Raises:
      AssertionError: `x` is not [B, H, W, C].
      ValueError: the objective needs a term that the estimator does not return, or its result is not [B].
    """
    chex.assert_rank(x, 4)
    sample = functools.partial(_sample_terms, key=key, x=x, model=model, num_samples=num_samples)
    if isinstance(objective, Pair):
        fixed = lax.stop_gradient(params)
        rule = functools.partial(estimator, objective=objective.inference)
        encoder_bound = objective.inference(sample(params, fixed, estimator=rule))  # [B]
        terms = sample(fixed, params, estimator=pathwise)  # the same values, which XLA computes once
        bound = objective.generative(terms) + (encoder_bound - lax.stop_gradient(encoder_bound))  # [B]
    else:
        terms = sample(params, params, estimator=functools.partial(estimator, objective=objective))
        bound = objective(terms)  # [B]
    if bound.shape != x.shape[:1]:
        raise ValueError(f"objective returned shape {list(bound.shape)}; return a bound for each example, [{len(x)}]")
    metrics = {"bound": jnp.mean(bound)} | {name: jnp.mean(part) for name, part in bound_parts(terms).items()}
    return -metrics["bound"], metrics


def bound_parts(terms: Terms) -> dict[str, Array]:
    """Return the reconstruction term and the KL divergence of each example.

    Args:
      terms: log densities [K, B].

    Returns:
      Arrays [B] in nats: `reconstruction`, and `kl` unless the posterior is a point. If the code has L > 1 layers,
      `kl_1`, ..., `kl_L` are the shares of the layers.
    """
    check_terms(terms)
    parts = {"reconstruction": jnp.mean(terms.log_px_z, axis=0)}
    if terms.kl is not None:
        parts["kl"] = jnp.sum(terms.kl, axis=0)
        if len(terms.kl) > 1:
            parts |= {f"kl_{layer}": row for layer, row in enumerate(terms.kl, start=1)}
    elif terms.log_qz is not None:
        parts["kl"] = jnp.mean(terms.log_qz - terms.log_pz, axis=0)
    return parts
