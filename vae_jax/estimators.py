"""How a bound's gradient flows through the posterior's samples, whatever the model; and what such a gradient is worth.

An estimator is a function of three things: `densities(z, q) -> Terms`, codes z [K, B, D] with their gradient to the
encoder, and the posterior q that drew them. It returns terms of the same values, whose derivatives are its rule.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax import Array, lax

from vae_jax.objectives import Objective, Terms, log_weights

Densities = Callable[[Array, Any], Terms]
Estimator = Callable[..., Terms]  # (densities, z, q, *, objective) -> Terms


def pathwise(densities: Densities, z: Array, q: Any, *, objective: Objective | None = None) -> Terms:
    """The derivative as it is, through z = m + σ e and through log q(z|x) (Kingma & Welling, arXiv 1312.6114)."""
    del objective
    return densities(z, q)


def sticking_the_landing(densities: Densities, z: Array, q: Any, *, objective: Objective | None = None) -> Terms:
    """The derivative through z alone: log q(z|x) is taken at parameters that are held fixed.

    What is left out has mean zero for the sampled ELBO, and all variance goes where q is the exact posterior (Roeder
    et al., arXiv 1703.09194). For bounds that are not linear in log w it is biased: use `doubly_reparameterized`.
    The terms have no closed-form KL and no codes, since their gradients are not by samples.
    """
    del objective
    return densities(z, lax.stop_gradient(q))._replace(kl=None, codes=None)


def doubly_reparameterized(densities: Densities, z: Array, q: Any, *, objective: Objective) -> Terms:
    """The derivative through z alone, so weighted that its mean is that of `pathwise` (Tucker et al., 1810.04152).

    For F = objective, a function of the log weights, the path through z_k counts ∂F/∂log w_k - ∂²F/∂(log w_k)²
    instead of ∂F/∂log w_k: the second part is what the left-out derivative of log q(z_k|x) would give on average. For
    IWAE that is w̃_k² in place of w̃_k, for Rényi α w̃_k + (1 - α) w̃_k². What p(x|z) and p(z) learn is not changed.
    The second derivatives take K² numbers for each example. An objective that bends in something other than log w
    is not served.
    """
    q = lax.stop_gradient(q)
    log_w = log_weights(lax.stop_gradient(densities(z, q)))  # [K, B]; computed once, XLA sees it twice
    first, second = _derivatives(objective, log_w)
    factor = jnp.where(first != 0, 1 - second / jnp.where(first != 0, first, 1), 1)
    return densities(_scale_gradient(z, lax.stop_gradient(factor)), q)._replace(kl=None, codes=None)


ESTIMATORS: dict[str, Estimator] = {
    "pathwise": pathwise,
    "sticking-the-landing": sticking_the_landing,
    "doubly-reparameterized": doubly_reparameterized,
}


def _derivatives(objective: Objective, log_w: Array) -> tuple[Array, Array]:
    """∂F_b/∂log w_kb and ∂²F_b/∂(log w_kb)², each [K, B], of an objective that is a function of log w."""
    zeros = jnp.zeros_like(log_w)

    def total(log_w: Array) -> Array:
        return jnp.sum(objective(Terms(log_w, zeros, zeros, kl=None)))

    def diagonal(row: Array) -> Array:  # [K, B] of 0 and 1, one sample of each example
        return jnp.sum(jax.jvp(jax.grad(total), (log_w,), (row,))[1] * row, axis=0)

    k = log_w.shape[0]
    rows = jnp.broadcast_to(jnp.eye(k, dtype=log_w.dtype)[:, :, None], (k, *log_w.shape))
    return jax.grad(total)(log_w), jax.vmap(diagonal)(rows)


@jax.custom_jvp
def _scale_gradient(z: Array, factor: Array) -> Array:
    """z [K, B, D], through which derivatives pass multiplied by `factor` [K, B]."""
    chex.assert_shape(factor, z.shape[:-1])
    return z


@_scale_gradient.defjvp
def _scale_gradient_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    z, factor = primals
    return z, tangents[0] * jnp.broadcast_to(factor[..., None], z.shape)


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
        raise ValueError(f"chunk: {chunk} given, must divide the number of keys, {count}, which must be 2 or more")
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
