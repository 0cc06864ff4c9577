"""Hamiltonian Monte Carlo on many chains at once (Neal, arXiv 1206.1901)."""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax import Array, lax

from vae_jax import random

TARGET_ACCEPTANCE = 0.65  # of the smallest cost for each independent sample (Beskos et al., arXiv 1001.4460)

LogDensity = Callable[[Array], tuple[Array, Array]]  # [*lead, D] -> (log density, what else is computed), each [*lead]


class State(NamedTuple):
    """Chains after a transition.

    Attributes:
      z: [*lead, D], the positions.
      aux: [*lead], what the density computes next to its value, at these positions.
    """

    z: Array
    aux: Array


def transition(
    log_density: LogDensity, state: State, keys: Array, *, step_size: Array, num_leapfrog: int
) -> tuple[State, Array]:
    """Return the chains after one transition that leaves exp(log_density) invariant, and its acceptance probability.

    Momenta p ~ N(0, I) and L leapfrog steps p += ε/2 ∇, z += ε p, p += ε/2 ∇ propose a position, which is accepted with
    probability min(1, exp(H(z, p) - H(z', p'))) with H(z, p) = -log f(z) + |p|²/2.

    Args:
      log_density: z [*lead, D] -> log f(z) and another number, each [*lead], which depend on the z of one chain alone.
      state: the chains.
      keys: typed keys [*lead].
      step_size: ε, which broadcasts to [*lead].
      num_leapfrog: L.

    Returns:
      The chains, and the probabilities, [*lead]. A proposal that is not finite is rejected.
    """
    chex.assert_shape(keys, state.z.shape[:-1])
    step = jnp.broadcast_to(step_size, keys.shape)[..., None]  # [*lead, 1]

    def evaluate(z: Array) -> tuple[Array, Array, Array]:
        value, pull, aux = jax.vjp(log_density, z, has_aux=True)
        return value, pull(jnp.ones_like(value))[0], aux

    def leapfrog(carry: tuple[Array, ...], nothing: None) -> tuple[tuple[Array, ...], None]:
        del nothing
        z, momentum, gradient = carry[:3]
        momentum = momentum + step / 2 * gradient
        z = z + step * momentum
        value, gradient, aux = evaluate(z)
        return (z, momentum + step / 2 * gradient, gradient, value, aux), None

    start = random.normal(random.fold_in(keys, 0), state.z.shape, state.z.dtype)
    value, gradient, aux = evaluate(state.z)
    carry, _ = lax.scan(leapfrog, (state.z, start, gradient, value, aux), None, length=num_leapfrog)
    z, momentum, _, new_value, new_aux = carry
    energies = [-v + jnp.sum(p * p, axis=-1) / 2 for v, p in ((value, start), (new_value, momentum))]
    difference = energies[0] - energies[1]
    is_valid = jnp.isfinite(energies[1]) & ~jnp.isnan(difference)  # from density 0 each such proposal is accepted
    probability = jnp.where(is_valid, jnp.exp(jnp.minimum(difference, 0)), 0)
    accepted = random.drawn(jax.random.uniform, random.fold_in(keys, 1), keys.shape) < probability
    chains = State(jnp.where(accepted[..., None], z, state.z), jnp.where(accepted, new_aux, state.aux))
    return chains, probability
