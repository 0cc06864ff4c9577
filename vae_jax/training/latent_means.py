"""Posterior means of the stochastic layers, and the number of latents whose mean depends on the example."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from vae_jax.distributions import Latent
from vae_jax.inference import Terms, log_p

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
      `mean/NUMBER` [B, D], or [B, L, D] of L blocks; for estimates also `mean_variance/NUMBER`, the variance of the
      estimate. The numbers 000, 001, ... are the positions of the layers in the terms.
    """
    first = _posterior_means(terms)
    means = {f"mean/{number}": mean for number, mean in first.items()}
    numbers = [number for number, latent in zip(first, terms.latents, strict=True) if _has_sample_axis(latent)]
    if not numbers:
        return means

    def add(sums: Any, index: Array) -> tuple[Any, None]:
        means = _posterior_means(sample(first_sample=index))
        offsets = {number: means[number] - first[number] for number in numbers}  # small numbers have accurate squares
        return jax.tree.map(jnp.add, sums, (offsets, jax.tree.map(jnp.square, offsets))), None

    zeros = {number: jnp.zeros_like(first[number]) for number in numbers}
    (offsets, squares), _ = lax.scan(add, (zeros, zeros), jnp.arange(MEAN_SAMPLES))
    for number in numbers:
        mean = offsets[number] / MEAN_SAMPLES
        variance = (squares[number] - MEAN_SAMPLES * mean**2) / (MEAN_SAMPLES - 1)
        means |= {f"mean/{number}": first[number] + mean, f"mean_variance/{number}": variance / MEAN_SAMPLES}
    return means


def _posterior_means(terms: Terms) -> dict[str, Array]:
    """Return the posterior mean of each layer by number, [B, D] or for blocks [B, L, D], from terms of one sample."""
    means = {}
    for position, latent in enumerate(terms.latents):
        mean = latent.posterior.mean().reshape(*latent.posterior.batch_shape, -1)
        means[f"{position:03}"] = of_each_example(mean, latent)
    return means


def of_each_example(values: Array, latent: Latent) -> Array:
    """Return values of the posterior of one sample with the examples first, [B, D], or [B, L, D] of L blocks.

    Args:
      values: [B, D], or [1, B, D] of a layer that depends on others; or of blocks [L, B, D] or [L, 1, B, D].
      latent: the layer, with `log_p`.
    """
    values = values[..., 0, :, :] if _has_sample_axis(latent) else values
    return jnp.moveaxis(values, 0, 1) if values.ndim > 2 else values


def _has_sample_axis(latent: Latent) -> bool:
    """Return whether the posterior depends on the samples of other layers."""
    blocks = log_p(latent).ndim - 2  # log p(z) is [K, B], or [L, K, B] of blocks
    return len(latent.posterior.batch_shape) - blocks > 1


class ActiveUnits:
    """Counts the latents whose posterior mean depends on the example, from the means of one batch after another.

    A latent is active if the variance of its means over the examples, less that of their estimates, is large. Only sums
    over the examples are stored: the means of all examples of a deep hierarchy are larger than the data.
    """

    def __init__(self):
        self._layers: dict[str, _Sums] = {}

    def take(self, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Add the means of a batch, and return its other values.

        Args:
          values: [B, ...] each, among them those of `latent_means`.
        """
        for name, mean in values.items():
            if name.startswith("mean/"):
                number = name.removeprefix("mean/")
                self._layers[number] = _added(self._layers.get(number), mean, values.get(f"mean_variance/{number}"))
        return {name: value for name, value in values.items() if not name.startswith(("mean/", "mean_variance/"))}

    @property
    def num_layers(self) -> int:
        """The number of layers, with one for a stack of blocks."""
        return len(self._layers)

    def counts(self) -> list[int]:
        """Return the number of active latents of each layer or block, in the order of the terms."""
        active = [(_variance(sums) > ACTIVE_VARIANCE).sum(axis=-1) for _, sums in sorted(self._layers.items())]
        return [int(count) for array in active for count in np.atleast_1d(array)]


class _Sums(NamedTuple):
    """Sums over N examples, float64 [D], or [L, D] of L blocks."""

    num_examples: int
    origin: np.ndarray  # the means of one example: differences from it have accurate squares
    means: np.ndarray  # of their differences from the origin
    squares: np.ndarray  # of these differences
    variances: np.ndarray  # of the variances of estimated means


def _added(sums: _Sums | None, mean: np.ndarray, mean_variance: np.ndarray | None) -> _Sums:
    """Return the sums with the means [B, ...] of a batch, and the variances of their estimates if they are such."""
    if sums is None:
        origin = mean[0].astype(np.float64)
        sums = _Sums(0, origin, *(np.zeros_like(origin) for _ in range(3)))
    offset = mean - sums.origin
    more = np.zeros_like(sums.origin) if mean_variance is None else mean_variance.sum(axis=0, dtype=np.float64)
    return _Sums(
        sums.num_examples + len(mean),
        sums.origin,
        sums.means + offset.sum(axis=0),
        sums.squares + (offset**2).sum(axis=0),
        sums.variances + more,
    )


def _variance(sums: _Sums) -> np.ndarray:
    """Return the variance of the means over the examples, less the mean variance of their estimates."""
    return (sums.squares - sums.variances) / sums.num_examples - (sums.means / sums.num_examples) ** 2
