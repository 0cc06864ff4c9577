"""Estimates of log p(x) by importance sampling, with any number of samples in the memory of one chunk."""

from typing import Any

import chex
import jax.numpy as jnp
from jax import Array, lax

from vae_jax import random
from vae_jax.inference.bound import Params, sample_terms
from vae_jax.inference.terms import log_weights

Sums = tuple[Array, Array, Array]  # max log w, Σ w and Σ w² with w relative to the largest, each [B]


def _merge_sums(a: Sums, b: Sums) -> Sums:
    # Sums of relative weights keep their digits. The logarithm of a sum has the precision of thousands of nats.
    largest = jnp.maximum(a[0], b[0])
    scale_a, scale_b = jnp.exp(a[0] - largest), jnp.exp(b[0] - largest)
    return largest, a[1] * scale_a + b[1] * scale_b, a[2] * scale_a**2 + b[2] * scale_b**2


def log_likelihood(
    params: Params, key: random.Key, x: Array, *, model: Any, num_samples: int, chunk: int
) -> tuple[Array, Array]:
    """Return log p(x) ≈ log 1/K Σ_k w_k with w = p(x|z) p(z) / q(z|x), and the effective sample size.

    The estimate is L_K of Burda et al., arXiv 1509.00519, a lower bound in expectation. The effective sample size is
    (Σ w)² / Σ w². The samples are streamed: memory grows with `chunk`, not with K.

    Args:
      params: parameters of the model.
      key: for the samples; a typed key, or a `random.RowsKey`. Chunk i uses fold_in(key, i).
      x: floats [B, H, W, C].
      model: a `VAE`, or any Linen module with its methods `encode`, `prior` and `decode`.
      num_samples: K.
      chunk: how many samples are computed at once.

    Returns:
      log p(x) in nats and the effective sample size, each [B].

    Raises:
      AssertionError: `x` is not [B, H, W, C].
      ValueError: the posterior has no density, or `num_samples` or `chunk` is less than 1.
    """
    chex.assert_rank(x, 4)
    if num_samples < 1 or chunk < 1:
        raise ValueError(f"num_samples={num_samples} and chunk={chunk} must each be 1 or more")

    def sums(key: random.Key, size: int) -> Sums:
        log_w = log_weights(sample_terms(params, key, x, model=model, num_samples=size))  # [size, B]
        largest = jnp.maximum(jnp.max(log_w, axis=0), jnp.finfo(log_w.dtype).min)  # finite, so that -inf - max is -inf
        w = jnp.exp(log_w - largest[None])
        return largest, jnp.sum(w, axis=0), jnp.sum(w * w, axis=0)

    def add(carry: Sums, i: Array) -> tuple[Sums, None]:
        return _merge_sums(carry, sums(random.fold_in(key, i), chunk)), None

    chunk = min(chunk, num_samples)
    full, rest = divmod(num_samples, chunk)
    totals = sums(random.fold_in(key, 0), chunk)
    totals, _ = lax.scan(add, totals, jnp.arange(1, full))
    if rest:
        totals = _merge_sums(totals, sums(random.fold_in(key, full), rest))
    largest, total, squares = totals
    return largest + jnp.log(total / num_samples), total**2 / squares
