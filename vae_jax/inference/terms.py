"""Terms -> a bound per example, in nats: larger is better, nothing is averaged over examples.

An objective is a pure function of `Terms`; its settings are keyword arguments, bound with `bind`. `negative_bound`
takes any, with every model and device count. One that the commands know is a function here, a row in `OBJECTIVES`, and
its name and settings in `config.py`. An example's value depends on that example alone, except in `beta_tc` and
`info_vae`, which look at the codes of the whole batch.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
from jax import Array


class Codes(NamedTuple):
    """The codes behind the terms and the densities they are read by: they exist anyway, so they cost nothing here."""

    z: Array  # [K, B, D]
    posterior: Any  # q(z|x), a density over codes [B, D]
    prior: Any  # p(z), a density over codes [D]


class Terms(NamedTuple):
    """Log densities of K posterior samples for each of B examples, in nats."""

    log_px_z: Array  # [K, B]  log p(x|z), summed over pixels
    log_pz: Array  # [K, B]  log p(z)
    log_qz: Array | None  # [K, B]  log q(z|x); None where the posterior is a point, which has no density
    kl: Array | None  # [L, B]  KL(q(z|x) || p(z)), a row for each stochastic layer: in closed form if L = 1, else by
    # the samples, since a layer's prior depends on another's. Then a row is a share of the divergence, and alone may be
    # negative. None where the estimator's gradient is not the KL's
    codes: Codes | None = None  # for what looks at the whole batch: `beta_tc`, `info_vae`


Objective = Callable[[Terms], Array]


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two objectives at once: decoder and prior climb `generative`, the encoder climbs `inference`.

    As a function of terms it is `generative`: that bound is the value of the loss. Which gradient goes where is
    decided in `inference.negative_bound`, by the role of the parameters, so that decoders with tied weights get both.
    """

    generative: Objective
    inference: Objective

    def __call__(self, terms: Terms) -> Array:
        """The bound that the decoder climbs, [B]."""
        return self.generative(terms)


def bind(objective: Callable[..., Array] | Pair, **settings: Any) -> Objective:
    """`objective` with its settings; those of a pair are settings of what its encoder climbs."""
    if isinstance(objective, Pair):
        return Pair(objective.generative, functools.partial(objective.inference, **settings))
    return functools.partial(objective, **settings)


def check_terms(terms: Terms) -> None:
    """Refuses terms that are not [K, B], and a KL that is not [L, B] for the same B."""
    chex.assert_rank(terms.log_px_z, 2)
    same = [t for t in (terms.log_px_z, terms.log_pz, terms.log_qz) if t is not None]
    chex.assert_equal_shape(same)
    if terms.kl is not None:
        chex.assert_shape(terms.kl, (None, terms.log_px_z.shape[1]))


def log_weights(terms: Terms) -> Array:
    """log w = log p(x|z) + log p(z) - log q(z|x), in nats, [K, B]; raises ValueError where q has no density."""
    check_terms(terms)
    if terms.log_qz is None:
        raise ValueError("a deterministic posterior has no density, hence no weights: use `reconstruction`")
    return terms.log_px_z + terms.log_pz - terms.log_qz


def kl_divergence_of(terms: Terms) -> Array:
    """The share of each stochastic layer in the KL, in nats, [L, B]; raises ValueError where there is none."""
    check_terms(terms)
    if terms.kl is None:
        raise ValueError("no KL, by the densities or for the estimator's sake: use `sampled_elbo`")
    return terms.kl
