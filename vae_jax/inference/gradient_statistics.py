"""Moments of a random gradient: its mean, variance, signal-to-noise ratio and bias."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax import Array, lax


class GradientStatistics(NamedTuple):
    """Moments of a random gradient over N keys, each a pytree of the parameters' structure and shapes.

    Attributes:
      mean: the mean gradient.
      variance: variance of a single gradient, with divisor N - 1.
      snr: |mean| / sqrt(variance); NaN where both are zero.
      standard_error: of `mean`, sqrt(variance / N).
      bias: mean - reference; None without a reference.
    """

    mean: Any
    variance: Any
    snr: Any
    standard_error: Any
    bias: Any


def gradient_statistics(
    loss: Callable[[Any, Array], Array], params: Any, keys: Array, *, chunk: int, reference: Any = None
) -> GradientStatistics:
    """Return mean, variance, signal-to-noise ratio and bias of the gradient of loss(params, key) over N keys.

    The gradients of `chunk` keys are computed at once (`vmap(grad)`) and merged with the previous moments, so memory
    does not grow with N. SNR: Rainforth et al., arXiv 1802.04537.

    Args:
      loss: (params, key) -> [].
      params: a pytree of arrays.
      keys: N typed keys [N], or raw keys [N, ...], which the loss receives as typed keys.
      chunk: how many gradients are computed at once, a divisor of N.
      reference: the gradient that `bias` is relative to: the exact one, or the mean of an unbiased estimator.

    Returns:
      The statistics, each a pytree like `params`.

    Raises:
      ValueError: `chunk` does not divide N, or N < 2.
    """
    keys = _typed_keys(keys)
    count = keys.shape[0]
    if count < 2 or count % chunk:
        raise ValueError(f"chunk={chunk} must divide the number of keys, {count}, which must be 2 or more")
    gradients = jax.vmap(jax.grad(loss), in_axes=(None, 0))

    def merge(carry: tuple[Any, Any], step: tuple[Array, Array]) -> tuple[tuple[Any, Any], None]:
        mean, squares = carry  # squares: the sum of squared distances from the mean
        i, chunk_keys = step
        grads = gradients(params, chunk_keys)
        new_mean = jax.tree.map(lambda m, g: m + (jnp.mean(g, axis=0) - m) / (i + 1), mean, grads)

        def add(total: Array, m: Array, g: Array) -> Array:  # Chan's rule for two sets, of i·chunk and of chunk
            chunk_mean = jnp.mean(g, axis=0)
            return total + jnp.sum((g - chunk_mean[None]) ** 2, axis=0) + (chunk_mean - m) ** 2 * chunk * i / (i + 1)

        return (new_mean, jax.tree.map(add, squares, mean, grads)), None

    zeros = jax.tree.map(jnp.zeros_like, params)
    steps = jnp.arange(count // chunk), keys.reshape(-1, chunk)
    (mean, squares), _ = lax.scan(merge, (zeros, zeros), steps)
    variance = jax.tree.map(lambda total: total / (count - 1), squares)
    return GradientStatistics(
        mean=mean,
        variance=variance,
        snr=jax.tree.map(lambda m, v: jnp.abs(m) / jnp.sqrt(v), mean, variance),
        standard_error=jax.tree.map(lambda v: jnp.sqrt(v / count), variance),
        bias=None if reference is None else jax.tree.map(jnp.subtract, mean, reference),
    )


def _typed_keys(keys: Array) -> Array:
    if not jnp.issubdtype(keys.dtype, jax.dtypes.prng_key):
        keys = jax.random.wrap_key_data(keys)
    chex.assert_rank(keys, 1)
    return keys


def signal_to_noise(statistics: GradientStatistics, count: int) -> Array:
    """Return ‖E g‖ / sqrt(Σ Var g) of a gradient g over all its parameters.

    The variance of the mean is subtracted from its squared norm, and a negative difference becomes 0. Without the
    subtraction, the norm of a mean over few keys with little signal would be mostly noise.

    Args:
      statistics: `mean` and `variance` are used. To restrict the ratio to some parameters, pass only theirs.
      count: the number of keys of the statistics.

    Returns:
      The ratio, [].
    """
    chex.assert_trees_all_equal_shapes(statistics.mean, statistics.variance)
    total = lambda tree: sum(jnp.sum(leaf) for leaf in jax.tree.leaves(tree))  # noqa: E731
    noise = total(statistics.variance)
    signal = total(jax.tree.map(jnp.square, statistics.mean)) - noise / count
    return jnp.sqrt(jnp.maximum(signal, 0) / noise)
