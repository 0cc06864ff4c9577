"""The log densities of a batch, and what an objective computes from them: one bound per example, in nats.

An objective is a pure function of `Terms`. A larger value is better, and nothing is averaged over examples. The
settings of an objective are keyword arguments, and `bind` fixes them. `negative_bound` accepts any objective, with any
model and any number of devices. The command line offers those that have a row in `inference.OBJECTIVES`, and a name and
settings in `vae_jax.config`.

The value of an example depends on that example alone. The exceptions are `beta_tc` and `info_vae`, which compare the
codes of all examples of the batch.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
from jax import Array


class Codes(NamedTuple):
    """Posterior samples and the densities that produced them. They are by-products of the terms and cost nothing extra.

    Attributes:
      z: [K, B, D], samples of q(z|x).
      posterior: q(z|x), a density over codes [B, D].
      prior: p(z), a density over codes [D].
    """

    z: Array
    posterior: Any
    prior: Any


class Terms(NamedTuple):
    """Log densities of K posterior samples for each of B examples, in nats.

    Attributes:
      log_px_z: [K, B], log p(x|z), summed over pixels.
      log_pz: [K, B], log p(z).
      log_qz: [K, B], log q(z|x). None if the posterior is a point, which has no density.
      kl: [L, B], KL(q(z|x) || p(z)) with a row for each of the L stochastic layers. With L = 1 it is in closed form.
        With L > 1 it is estimated from the samples, because the prior of a layer depends on another layer; a row is
        then a share of the divergence, and a single row can be negative. None if there is no KL in closed form, or if
        its gradient would not be that of the estimator.
      codes: for the objectives that compare examples, `beta_tc` and `info_vae`. None if the terms come without codes.
    """

    log_px_z: Array
    log_pz: Array
    log_qz: Array | None
    kl: Array | None
    codes: Codes | None = None


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
    """Raise AssertionError unless the log densities are [K, B] and the KL is [L, B] with the same B."""
    chex.assert_rank(terms.log_px_z, 2)
    chex.assert_equal_shape([t for t in (terms.log_px_z, terms.log_pz, terms.log_qz) if t is not None])
    if terms.kl is not None:
        chex.assert_shape(terms.kl, (None, terms.log_px_z.shape[1]))


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
    if terms.kl is None:
        raise ValueError(
            "terms.kl=None: no KL in closed form for these densities and this estimator; use `sampled_elbo`"
        )
    return terms.kl
