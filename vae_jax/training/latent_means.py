"""Posterior means of the stochastic layers, and the number of latents whose mean depends on the example."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from vae_jax.inference import Terms

# A unit is active if the variance of its posterior mean over the examples is larger (Burda et al., arXiv 1509.00519).
ACTIVE_VARIANCE = 0.01
MEAN_SAMPLES = 50  # samples in the estimate of a layer's mean, which depends on the layer below it


def latent_means(sample: Callable[..., Terms], terms: Terms) -> dict[str, Array]:
    """Return the posterior mean E[z] of each layer for each example.

    The mean of a layer that depends on others is the mean over `MEAN_SAMPLES` samples of those. The samples are
    computed one after the other, because a model can have many layers.

    Args:
      sample: first_sample=i -> the terms of the i-th sample.
      terms: of one other sample.

    Returns:
      `mean/NAME` [B, D], or [B, L, D] of L blocks; for estimates also `mean_variance/NAME`, the variance of the
      estimate.
    """
    first = _posterior_means(terms)
    means = {f"mean/{name}": mean for name, mean in first.items()}
    names = [latent.name for latent in terms.latents if len(latent.posterior.batch_shape) > 1]
    if not names:
        return means

    def add(sums: Any, index: Array) -> tuple[Any, None]:
        means = _posterior_means(sample(first_sample=index))
        offsets = {name: means[name] - first[name] for name in names}  # small numbers have accurate squares
        return jax.tree.map(jnp.add, sums, (offsets, jax.tree.map(jnp.square, offsets))), None

    zeros = {name: jnp.zeros_like(first[name]) for name in names}
    (offsets, squares), _ = lax.scan(add, (zeros, zeros), jnp.arange(MEAN_SAMPLES))
    for name in names:
        mean = offsets[name] / MEAN_SAMPLES
        variance = (squares[name] - MEAN_SAMPLES * mean**2) / (MEAN_SAMPLES - 1)
        means |= {f"mean/{name}": first[name] + mean, f"mean_variance/{name}": variance / MEAN_SAMPLES}
    return means


def _posterior_means(terms: Terms) -> dict[str, Array]:
    """Return the posterior mean of each layer by name, [B, D] or for blocks [B, L, D], from terms of one sample."""
    means = {}
    for latent in terms.latents:
        lead = latent.posterior.batch_shape  # [B], [1, B], or of blocks [L, 1, B]
        mean = latent.posterior.mean().reshape(*lead, -1)
        mean = mean[..., 0, :, :] if len(lead) > 1 else mean
        means[latent.name] = jnp.moveaxis(mean, 0, 1) if len(lead) > 2 else mean
    return means


def num_active(mean: np.ndarray, mean_variance: np.ndarray | None) -> np.ndarray:
    """Return how many latents are active: the variance of the means [N, D], less that of their estimates, is large.

    Args:
      mean: the posterior means of all examples, [N, D], or [N, L, D] of L blocks.
      mean_variance: the variances of their estimates; None for exact means.

    Returns:
      The number, [], or for blocks [L].
    """
    variance = mean.astype(np.float64).var(axis=0)
    if mean_variance is not None:
        variance -= mean_variance.mean(axis=0, dtype=np.float64)
    return (variance > ACTIVE_VARIANCE).sum(axis=-1)
