"""Estimates of log p(x) by importance sampling, with any number of samples in the memory of one chunk."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from vae_jax import random
from vae_jax.distributions import Batch
from vae_jax.inference.bound import Params, batch_size, encode, sample_terms
from vae_jax.inference.labels import require_labels
from vae_jax.inference.pareto import MIN_TAIL, pareto_shape, tail_length
from vae_jax.inference.terms import log_weights


class Estimate(NamedTuple):
    """The estimate of log p(x) from K importance weights, and how reliable it is.

    Attributes:
      log_px: [B], log 1/K Σ w in nats.
      ess: [B], the effective sample size, (Σ w)² / Σ w².
      pareto_k: [B], the shape of the tail of the weights, see `pareto_shape`; None if K is less than 25.
    """

    log_px: Array
    ess: Array
    pareto_k: Array | None


class _Sums(NamedTuple):
    """max log w, and Σ w and Σ w² with w relative to the largest, each [B]."""

    largest: Array
    total: Array
    squares: Array


def _merge_sums(a: _Sums, b: _Sums) -> _Sums:
    # Sums of relative weights keep their digits. The logarithm of a sum has the precision of thousands of nats.
    largest = jnp.maximum(a.largest, b.largest)
    scale_a, scale_b = jnp.exp(a.largest - largest), jnp.exp(b.largest - largest)
    return _Sums(largest, a.total * scale_a + b.total * scale_b, a.squares * scale_a**2 + b.squares * scale_b**2)


def tail_shape(log_w: Array) -> Array | None:
    """Return the shape of the tail of importance weights, see `pareto_shape`.

    Args:
      log_w: log weights [K, B].

    Returns:
      k̂, [B]; None if K is less than 25.
    """
    count = tail_length(log_w.shape[0])
    if count < MIN_TAIL:
        return None
    tail, _ = lax.top_k(log_w.T, count + 1)  # [B, M + 1], with the weight below the tail
    return pareto_shape(tail.T)


def log_likelihood(
    params: Params, key: Array, batch: Batch, *, model: Any, num_samples: int, chunk: int
) -> tuple[Array, Array]:
    """Return log p(x) ≈ log 1/K Σ_k w_k with w = p(x|z) p(z) / q(z|x), and the effective sample size.

    The estimate is L_K of Burda et al., arXiv 1509.00519, a lower bound in expectation. The effective sample size is
    (Σ w)² / Σ w². The samples are streamed: of K only the weights are in memory, and of `chunk` all that is computed.

    Args:
      params: parameters of the model.
      key: for the samples; a typed key, or a key for each example, [B]. The samples do not depend on `chunk`.
      batch: {"x": [B, ...], ...}.
      model: a `VAE`, or any Linen module with its methods `encode` and `decode`.
      num_samples: K.
      chunk: how many samples are computed at once.

    Returns:
      log p(x) in nats and the effective sample size, each [B].

    Raises:
      InputError: the model classifies examples, and the batch has no labels.
      ValueError: the batch has no data `x`, the posterior has no density, or `num_samples` or `chunk` is less than 1.
    """
    return importance_estimate(params, key, batch, model=model, num_samples=num_samples, chunk=chunk)[:2]


def importance_estimate(
    params: Params, key: Array, batch: Batch, *, model: Any, num_samples: int, chunk: int
) -> Estimate:
    """Return the estimate of `log_likelihood` with the effective sample size and the shape of the tail of the weights.

    Args:
      params: parameters of the model.
      key: for the samples; a typed key, or a key for each example, [B]. The samples do not depend on `chunk`.
      batch: {"x": [B, ...], ...}.
      model: a `VAE`, or any Linen module with its methods `encode` and `decode`.
      num_samples: K.
      chunk: how many samples are computed at once.

    Returns:
      The estimate of each example.

    Raises:
      InputError, ValueError: as `log_likelihood`.
    """
    require_labels(batch, model)
    keys = random.example_keys(key, batch_size(batch))
    if num_samples < 1 or chunk < 1:
        raise ValueError(f"num_samples={num_samples} and chunk={chunk} must each be 1 or more")

    evidence = encode(params, batch, model=model)  # once, for all samples

    def sums(first: int | Array, size: int) -> tuple[_Sums, Array]:
        drawn = sample_terms(params, keys, batch, model=model, num_samples=size, evidence=evidence, first_sample=first)
        log_w = log_weights(drawn)  # [size, B]
        largest = jnp.maximum(jnp.max(log_w, axis=0), jnp.finfo(log_w.dtype).min)  # finite, so that -inf - max is -inf
        w = jnp.exp(log_w - largest[None])
        return _Sums(largest, jnp.sum(w, axis=0), jnp.sum(w * w, axis=0)), log_w

    def add(carry: _Sums, i: Array) -> tuple[_Sums, Array]:
        part, log_w = sums(i * chunk, chunk)
        return _merge_sums(carry, part), log_w

    chunk = min(chunk, num_samples)
    full, rest = divmod(num_samples, chunk)
    totals, log_w = sums(0, chunk)
    every = [log_w]  # [K, B] in all, four bytes for each weight
    if full > 1:
        totals, log_w = lax.scan(add, totals, jnp.arange(1, full))
        every.append(log_w.reshape(-1, log_w.shape[-1]))
    if rest:
        part, log_w = sums(full * chunk, rest)
        totals = _merge_sums(totals, part)
        every.append(log_w)
    log_px = totals.largest + jnp.log(totals.total / num_samples)
    return Estimate(log_px, totals.total**2 / totals.squares, tail_shape(jnp.concatenate(every)))
