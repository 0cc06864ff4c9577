"""How a bound's gradient flows through the posterior's samples, whatever the model; and what such a gradient is worth.

An estimator is a function of three things: `densities(z, q) -> Terms`, codes z [K, B, D] with their gradient to the
encoder, and the posterior q that drew them. It returns terms of the same values, whose derivatives are its rule.
"""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax import Array, lax

from vae_jax.inference.terms import Objective, Terms, log_weights

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
