"""inference.gradient_statistics."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax


class GradientStatistics(NamedTuple):
    """Moments of a random gradient over its keys: pytrees like the parameters, a number for each of them."""

    mean: Any
    variance: Any  # of a single gradient, divisor N - 1
    snr: Any  # |mean| / sqrt(variance); NaN where both are zero
    standard_error: Any  # of `mean`: sqrt(variance / N)
    bias: Any  # mean - reference; None without a reference


def gradient_statistics(
    loss: Callable[[Any, Array], Array], params: Any, keys: Array, *, chunk: int, reference: Any = None
) -> GradientStatistics:
    """Mean, variance, signal-to-noise ratio and bias of the gradient of loss(params, key) over N `keys`.

    The gradients of `chunk` keys are computed at once (`vmap(grad)`) and merged with what came before, so memory
    does not grow with N. `reference` is the gradient that is to be met: the exact one, or the mean of an unbiased
    estimator. Raises ValueError unless `chunk` divides N and N > 1 (SNR: Rainforth et al., arXiv 1802.04537).
    """
    count = keys.shape[0]
    if count < 2 or count % chunk:
        raise ValueError(f"chunk={chunk} must divide the number of keys, {count}, which must be 2 or more")
    gradients = jax.vmap(jax.grad(loss), in_axes=(None, 0))

    def merge(carry: tuple[Any, Any], step: tuple[Array, Array]) -> tuple[tuple[Any, Any], None]:
        mean, squares = carry  # squares: the sum of squared distances from the mean
        i, chunk_keys = step
        found = gradients(params, chunk_keys)
        new_mean = jax.tree.map(lambda m, g: m + (jnp.mean(g, axis=0) - m) / (i + 1), mean, found)

        def add(total: Array, m: Array, g: Array) -> Array:  # Chan's rule for two sets of i·chunk and chunk
            own = jnp.mean(g, axis=0)
            return total + jnp.sum((g - own[None]) ** 2, axis=0) + (own - m) ** 2 * chunk * i / (i + 1)

        return (new_mean, jax.tree.map(add, squares, mean, found)), None

    zeros = jax.tree.map(jnp.zeros_like, params)
    steps = jnp.arange(count // chunk), keys.reshape(-1, chunk, *keys.shape[1:])  # raw keys have an axis more
    (mean, squares), _ = lax.scan(merge, (zeros, zeros), steps)
    variance = jax.tree.map(lambda total: total / (count - 1), squares)
    return GradientStatistics(
        mean=mean,
        variance=variance,
        snr=jax.tree.map(lambda m, v: jnp.abs(m) / jnp.sqrt(v), mean, variance),
        standard_error=jax.tree.map(lambda v: jnp.sqrt(v / count), variance),
        bias=None if reference is None else jax.tree.map(jnp.subtract, mean, reference),
    )


def signal_to_noise(statistics: GradientStatistics, count: int) -> Array:
    """‖E g‖ / sqrt(Σ Var g) of a gradient g over all its parameters, from statistics over `count` keys, [].

    The noise of the mean is taken off its square, which is then 0 or more: with few keys and little signal, a
    norm of a mean is all noise. Give it `mean` and `variance` of the parameters in question only.
    """
    total = lambda tree: sum(jnp.sum(leaf) for leaf in jax.tree.leaves(tree))  # noqa: E731
    noise = total(statistics.variance)
    signal = total(jax.tree.map(jnp.square, statistics.mean)) - noise / count
    return jnp.sqrt(jnp.maximum(signal, 0) / noise)
