"""The log densities of a batch, and what an objective computes from them: one bound per example, in nats.

An objective is a pure function of `Terms`. A larger value is better, and nothing is averaged over examples. The
settings of an objective are keyword arguments, and `bind` fixes them. `negative_bound` accepts any objective, with any
model and any number of devices. The command line offers those with a registered `ObjectiveConfig`.

The value of an example depends on that example alone. The exceptions are `beta_tc` and `info_vae`, which compare the
codes of all examples of the batch.
"""

import dataclasses
import functools
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import chex
import jax.numpy as jnp
from jax import Array

from vae_jax.distributions import Latent

Statistics = Mapping[str, Any]  # {name of a Flax collection: pytree}: variables without a gradient


class Terms(NamedTuple):
    """Log densities of K posterior samples for each of B examples, in nats.

    Attributes:
      log_px_z: [K, B], log p(x|z), summed over the data of an example.
      latents: the stochastic layers, see `vae_jax.distributions.Latent`.
      statistics: {name of a Flax collection: pytree}, the variables without a gradient after a pass that updates them;
        None after another pass.
    """

    log_px_z: Array
    latents: tuple[Latent, ...]
    statistics: Statistics | None = None

    @property
    def log_pz(self) -> Array:
        """[K, B], log p(z) of all layers."""
        return functools.reduce(operator.add, (_sum_blocks(log_p(latent)) for latent in self.latents))

    @property
    def log_qz(self) -> Array | None:
        """[K, B], log q(z|x) of all layers. None if the posterior of a layer is a point, which has no density."""
        densities = [_sum_blocks(latent.log_q) for latent in self.latents if latent.log_q is not None]
        return functools.reduce(operator.add, densities) if len(densities) == len(self.latents) else None

    @property
    def kl(self) -> Array | None:
        """[L, B], KL(q(z|x) || p(z)) with a row for each of the L stochastic layers, given the layers above.

        A row is in closed form where there is one, and else the mean of log q - log p over the samples; such a row is a
        share of the divergence, and a single one can be negative. None if the posterior of a layer is a point.
        """
        rows = [_layer_kl(latent) for latent in self.latents]
        return jnp.concatenate([row for row in rows if row is not None]) if all(r is not None for r in rows) else None

    @property
    def penalty(self) -> Array | None:
        """[K, B], the sum of the layers' terms that are no probabilities; None if no layer has one."""
        penalties = [_sum_blocks(latent.penalty) for latent in self.latents if latent.penalty is not None]
        return functools.reduce(operator.add, penalties) if penalties else None


def log_p(latent: Latent) -> Array:
    """Return log p(z | layers above) of a layer; raise ValueError if its walk has not computed it."""
    if latent.log_p is None:
        raise ValueError(f"layer {latent.name!r} has no log p(z); pass its prior to `draw`, or to `Latent.with_prior`")
    return latent.log_p


def _sum_blocks(values: Array) -> Array:
    """Return [K, B], summed over the blocks if the layer is several of them, [L, K, B]."""
    return values if values.ndim == 2 else jnp.sum(values, axis=0)


def _layer_kl(latent: Latent) -> Array | None:
    """Return the divergence of a layer, [1, B], or of its L blocks, [L, B]."""
    if latent.log_q is None:
        return None
    if latent.kl is None:
        kl = jnp.mean(latent.log_q - log_p(latent), axis=-2)
    else:
        kl = latent.kl if latent.kl.ndim < latent.log_q.ndim else jnp.mean(latent.kl, axis=-2)
    return kl if kl.ndim == 2 else kl[None]


def layer_sizes(terms: Terms) -> Array:
    """Return the number of latents of each stochastic layer, [L], in the order of the rows of `Terms.kl`."""
    sizes = []
    for latent in terms.latents:
        lead = log_p(latent).shape  # [K, B], or [L, K, B] of blocks
        sizes += [math.prod(latent.z.shape[len(lead) :])] * (1 if len(lead) == 2 else lead[0])
    return jnp.asarray(sizes, jnp.float32)


Objective = Callable[..., Array]  # (terms, **settings) -> a bound for each example, [B]


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two objectives for one model: decoder and prior maximize `generative`, the encoder maximizes `inference`.

    As a function of terms, a pair is `generative`; that bound is the value of the loss. `negative_bound` routes the
    gradients by the role of the parameters, so a decoder with tied weights receives both.

    Attributes:
      generative: the objective of p(x|z) and p(z).
      inference: the objective of q(z|x).
    """

    generative: Objective
    inference: Objective

    def __call__(self, terms: Terms) -> Array:
        """Return the bound that the decoder maximizes, [B] in nats."""
        return self.generative(terms)


def bind(objective: Objective | Pair, **settings: Any) -> Objective:
    """Return an objective with fixed settings.

    Args:
      objective: a function of `Terms`, or a `Pair`.
      **settings: keyword arguments of the objective; for a `Pair`, of the encoder's objective.

    Returns:
      A function of `Terms` alone, or a `Pair` of such functions.
    """
    if isinstance(objective, Pair):
        return Pair(objective.generative, functools.partial(objective.inference, **settings))
    return functools.partial(objective, **settings)


def check_terms(terms: Terms) -> None:
    """Raise AssertionError unless the log densities are [K, B], or [L, K, B] for a layer of L blocks.

    Sums over layers would otherwise repeat an array [K, 1] silently.

    Args:
      terms: log densities.

    Raises:
      AssertionError: the shape of a log density, a KL or a penalty does not agree with that of `log_px_z`.
      ValueError: there are no layers, or a layer has no log p(z).
    """
    chex.assert_rank(terms.log_px_z, 2)
    if not terms.latents:
        raise ValueError("terms have no stochastic layers; return the layers that `draw` has returned from `decode`")
    samples, examples = terms.log_px_z.shape
    for latent in terms.latents:
        prior_density = log_p(latent)
        blocks = prior_density.shape[:-2]
        for values in (prior_density, latent.log_q, latent.penalty):
            if values is not None:
                chex.assert_rank(values, {2, 3})
                chex.assert_shape(values, (*blocks, samples, examples))
        if latent.kl is not None:
            for_each_sample = latent.kl.ndim > len(blocks) + 1
            chex.assert_shape(latent.kl, (*blocks, samples, examples) if for_each_sample else (*blocks, examples))


def posterior_log_density(terms: Terms) -> Array:
    """Return log q(z|x), [K, B] in nats; raise ValueError if the posterior has no density."""
    if terms.log_qz is None:
        raise ValueError("terms.log_qz=None: a point has no density and no importance weights; use `reconstruction`")
    return terms.log_qz


def log_weights(terms: Terms) -> Array:
    """Return the log importance weights, log w = log p(x|z) + log p(z) - log q(z|x).

    Args:
      terms: log densities [K, B].

    Returns:
      [K, B], in nats.

    Raises:
      ValueError: the posterior has no density.
    """
    check_terms(terms)
    log_qz = posterior_log_density(terms)
    return terms.log_px_z + terms.log_pz - log_qz


def layer_kl(terms: Terms) -> Array:
    """Return the share of each stochastic layer in KL(q(z|x) || p(z)), [L, B] in nats; raise ValueError without one."""
    check_terms(terms)
    kl = terms.kl
    if kl is None:
        raise ValueError("terms.kl=None: the posterior of a layer is a point, which has no KL; use `reconstruction`")
    return kl
