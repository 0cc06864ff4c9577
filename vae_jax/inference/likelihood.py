"""inference.likelihood."""

from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from vae_jax import random
from vae_jax.inference.bound import Params, sample_terms
from vae_jax.inference.terms import log_weights


def log_likelihood(
    params: Params, key: random.Key, x: Array, *, model: Any, num_samples: int, chunk: int
) -> tuple[Array, Array]:
    """(log p(x), effective sample size), each [B]: importance sampling with K = `num_samples` codes, in nats.

    log p(x) ≈ log 1/K Σ_k w_k with w = p(x|z) p(z) / q(z|x) (L_K of Burda et al., arXiv 1509.00519; a lower
    bound in expectation), ess = (Σ w)² / Σ w². The samples are streamed: memory grows with `chunk`, not with K.
    Raises ValueError where the posterior has no density, or unless there is one sample or more, and in a chunk, too.
    """
    if num_samples < 1 or chunk < 1:
        raise ValueError(f"num_samples={num_samples} and chunk={chunk} must each be 1 or more")

    def sums(key: random.Key, size: int) -> tuple[Array, Array, Array]:
        """(the largest log w, Σ w, Σ w²), each [B], the weights as shares of the largest."""
        log_w = log_weights(sample_terms(params, key, x, model=model, num_samples=size))  # [size, B]
        largest = jnp.maximum(jnp.max(log_w, axis=0), jnp.finfo(log_w.dtype).min)  # from which -inf can be taken
        w = jnp.exp(log_w - largest[None])
        return largest, jnp.sum(w, axis=0), jnp.sum(w * w, axis=0)

    def joined(a: tuple[Array, Array, Array], b: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        # Sums of shares keep their digits. The logarithm of a sum has those of a number of thousands of nats.
        largest = jnp.maximum(a[0], b[0])
        of_a, of_b = jnp.exp(a[0] - largest), jnp.exp(b[0] - largest)
        return largest, a[1] * of_a + b[1] * of_b, a[2] * of_a**2 + b[2] * of_b**2

    def add(carry: tuple[Array, Array, Array], i: Array) -> tuple[tuple[Array, Array, Array], None]:
        return joined(carry, sums(random.fold_in(key, i), chunk)), None

    chunk = min(chunk, num_samples)
    full, rest = divmod(num_samples, chunk)
    totals = sums(random.fold_in(key, 0), chunk)
    totals, _ = lax.scan(add, totals, jnp.arange(1, full))
    if rest:
        totals = joined(totals, sums(random.fold_in(key, full), rest))
    largest, total, squares = totals
    return largest + jnp.log(total / num_samples), total**2 / squares
