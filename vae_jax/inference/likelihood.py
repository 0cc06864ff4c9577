"""Estimates of log p(x) by importance sampling, with any number of samples in the memory of one chunk."""

from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from vae_jax import random
from vae_jax.distributions import Batch
from vae_jax.inference.bound import Params, batch_size, encode, sample_terms
from vae_jax.inference.terms import log_weights

Sums = tuple[Array, Array, Array]  # max log w, Σ w and Σ w² with w relative to the largest, each [B]


def _merge_sums(a: Sums, b: Sums) -> Sums:
    # Sums of relative weights keep their digits. The logarithm of a sum has the precision of thousands of nats.
    largest = jnp.maximum(a[0], b[0])
    scale_a, scale_b = jnp.exp(a[0] - largest), jnp.exp(b[0] - largest)
    return largest, a[1] * scale_a + b[1] * scale_b, a[2] * scale_a**2 + b[2] * scale_b**2


def log_likelihood(
    params: Params, key: Array, batch: Batch, *, model: Any, num_samples: int, chunk: int
) -> tuple[Array, Array]:
    """Return log p(x) ≈ log 1/K Σ_k w_k with w = p(x|z) p(z) / q(z|x), and the effective sample size.

    The estimate is L_K of Burda et al., arXiv 1509.00519, a lower bound in expectation. The effective sample size is
    (Σ w)² / Σ w². The samples are streamed: memory grows with `chunk`, not with K.

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
      ValueError: the batch has no data `x`, the posterior has no density, or `num_samples` or `chunk` is less than 1.
    """
    keys = random.example_keys(key, batch_size(batch))
    if num_samples < 1 or chunk < 1:
        raise ValueError(f"num_samples={num_samples} and chunk={chunk} must each be 1 or more")

    evidence = encode(params, batch, model=model)  # once, for all samples

    def sums(first: int | Array, size: int) -> Sums:
        drawn = sample_terms(params, keys, batch, model=model, num_samples=size, evidence=evidence, first_sample=first)
        log_w = log_weights(drawn)  # [size, B]
        largest = jnp.maximum(jnp.max(log_w, axis=0), jnp.finfo(log_w.dtype).min)  # finite, so that -inf - max is -inf
        w = jnp.exp(log_w - largest[None])
        return largest, jnp.sum(w, axis=0), jnp.sum(w * w, axis=0)

    def add(carry: Sums, i: Array) -> tuple[Sums, None]:
        return _merge_sums(carry, sums(i * chunk, chunk)), None

    chunk = min(chunk, num_samples)
    full, rest = divmod(num_samples, chunk)
    totals = sums(0, chunk)
    if full > 1:
        totals, _ = lax.scan(add, totals, jnp.arange(1, full))
    if rest:
        totals = _merge_sums(totals, sums(full * chunk, rest))
    largest, total, squares = totals
    return largest + jnp.log(total / num_samples), total**2 / squares
