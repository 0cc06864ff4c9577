"""The evidence lower bound (ELBO) and its variants with a weighted or constrained KL divergence."""

import dataclasses
import functools
from typing import ClassVar

import jax.numpy as jnp
from jax import Array, lax

from vae_jax.config import Config, any_of, choices, register, require, require_default, setting
from vae_jax.inference.objectives import ObjectiveConfig, WeightedConfig, warm_up
from vae_jax.inference.terms import Objective, Terms, check_terms, layer_kl, layer_sizes, log_weights


def require_layer_divergences(config: Config, path: str, value: bool) -> None:
    """Raise InputError for the value of a setting if the model has no KL of each layer given those above."""
    usable = [name for name, cls in choices("model").items() if getattr(cls, "has_layer_divergences", False)]
    require(config.model.has_layer_divergences, path, value,
            f"False with model={config.model.name}; use {any_of(usable)} for a KL of each layer")  # fmt: skip


def reconstruction(terms: Terms) -> Array:
    """Return E_q log p(x|z), the objective of an autoencoder (Hinton & Salakhutdinov, Science 2006).

    Args:
      terms: log densities [K, B]; `log_qz` may be None.

    Returns:
      [B], in nats.
    """
    check_terms(terms)
    return jnp.mean(terms.log_px_z, axis=0)


@register("objective", "reconstruction")
@dataclasses.dataclass(frozen=True)
class ReconstructionConfig(ObjectiveConfig):
    """Settings of `reconstruction`."""

    needs_density: ClassVar[bool] = False
    validation_metric: ClassVar[str] = "reconstruction"

    def at(self, step: Array, num_examples: int) -> Objective:
        """Return `reconstruction`."""
        del step, num_examples
        return reconstruction


def balance_coefficients(terms: Terms) -> Array:
    """Return γ_l = r_l / (1/L Σ_j r_j), with the KL of each latent r_l = m_l / s_l of the s_l latents of layer l.

    m_l is the mean of the layer's KL over the batch. The mean of the coefficients is 1. A layer that encodes much with
    each latent has a larger weight, so that others encode more. They have no gradient (Vahdat & Kautz, arXiv
    2007.03898; m_l alone: Vahdat et al., arXiv 1802.04920). The paper prints s_l m_l; its authors have corrected this
    to m_l / s_l.

    Args:
      terms: log densities [K, B] with `kl` [L, B]. A negative m_l, which a mean over samples can be, counts as 0.

    Returns:
      [L]; 1 for all layers if no layer has a KL.

    Raises:
      ValueError: the terms have no KL (see `Terms.kl`).
    """
    shares = jnp.maximum(jnp.mean(lax.stop_gradient(layer_kl(terms)), axis=1), 0) / layer_sizes(terms)
    mean = jnp.mean(shares)
    return jnp.where(mean > 0, shares / jnp.where(mean > 0, mean, 1), 1)


def elbo(terms: Terms, *, beta: float | Array = 1.0, balance_layers: bool | Array = False) -> Array:
    """Return E_q log p(x|z) - beta KL(q(z|x) || p(z)), with the KL of each layer in closed form where there is one.

    With beta = 1 it is a lower bound on log p(x) (Kingma & Welling, arXiv 1312.6114). Other weights are the beta-VAE
    (Higgins et al., ICLR 2017). With `balance_layers` the KL is Σ_l γ_l KL_l with the `balance_coefficients` γ_l of the
    batch, which is no bound.

    Args:
      terms: log densities [K, B] with `kl` [L, B].
      beta: weight of the KL.
      balance_layers: whether the layers have weights of the batch; a traced value is possible.

    Returns:
      [B], in nats.

    Raises:
      ValueError: the terms have no KL (see `Terms.kl`).
    """
    kl = layer_kl(terms)
    if balance_layers is not False:
        kl = kl * jnp.where(balance_layers, balance_coefficients(terms), 1)[:, None]
    return reconstruction(terms) - beta * jnp.sum(kl, axis=0)


@register("objective", "elbo")
@dataclasses.dataclass(frozen=True)
class ELBOConfig(WeightedConfig):
    """Settings of `elbo`."""

    balance_layers: bool = setting(
        False,
        "In the warm-up each stochastic layer of a ladder has a weight proportional to the batch mean of its KL divided"
        " by its number of latents, with mean 1; afterwards the weights are 1.",
    )

    @property
    def compares_examples(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]  # it depends on a setting
        """Whether the weights of the layers depend on all examples of a batch."""
        return self.balance_layers

    def at(self, step: Array, num_examples: int) -> Objective:
        """Return `elbo` with its weights at a step."""
        del num_examples
        balance = step + 1 < self.warmup_steps if self.balance_layers else False
        return functools.partial(elbo, beta=self.weight(step), balance_layers=balance)

    def check(self, config: Config) -> None:
        """Raise InputError if `balance_layers` is set without a warm-up, or if the model has no KL of each layer."""
        super().check(config)
        if self.balance_layers:
            require_layer_divergences(config, "objective.balance_layers", True)
            require_default(self.warmup_steps > 0, "objective.balance_layers", True, "with objective.warmup_steps=0",
                            "set objective.warmup_steps")  # fmt: skip


def sampled_elbo(terms: Terms, *, beta: float | Array = 1.0) -> Array:
    """Return E_q [log p(x|z) + beta (log p(z) - log q(z|x))], with the KL estimated from the same samples.

    With beta = 1 it is the mean of the log weights.

    Args:
      terms: log densities [K, B].
      beta: weight of the KL.

    Returns:
      [B], in nats.

    Raises:
      ValueError: the posterior has no density.
    """
    log_w = log_weights(terms)
    return jnp.mean(terms.log_px_z + beta * (log_w - terms.log_px_z), axis=0)


@register("objective", "sampled-elbo")
@dataclasses.dataclass(frozen=True)
class SampledELBOConfig(WeightedConfig):
    """Settings of `sampled_elbo`."""

    estimators: ClassVar[tuple[str, ...]] = ("pathwise", "sticking-the-landing")

    def at(self, step: Array, num_examples: int) -> Objective:
        """Return `sampled_elbo` with its weight at a step."""
        del num_examples
        return functools.partial(sampled_elbo, beta=self.weight(step))


def free_bits(terms: Terms, *, free_bits: float, beta: float | Array = 1.0, per_layer: bool = False) -> Array:
    """Return E_q log p(x|z) - beta max(KL, free_bits): the first nats of the divergence have no cost.

    The minimum applies to each example, so the bound of one example does not depend on another. It applies to the sum
    over all layers of a code or, with `per_layer`, to each layer: Σ_l max(KL_l, free_bits). The share of a layer is a
    divergence only if its posterior is given the layers above, as in a ladder. (Kingma et al., arXiv 1606.04934, use
    the mean over a batch, which is never larger, and a minimum for each of several groups of latents.)

    The KL of several layers is an estimate from K samples. Near the minimum its noise has a cost:
    E max(estimate, free_bits) >= max(KL, free_bits).

    Args:
      terms: log densities [K, B] with `kl` [L, B].
      free_bits: the minimum, in nats per example.
      beta: weight of the KL.
      per_layer: whether the minimum applies to each stochastic layer.

    Returns:
      [B], in nats.

    Raises:
      ValueError: the terms have no KL (see `Terms.kl`).
    """
    kl = layer_kl(terms)
    penalized = kl if per_layer else jnp.sum(kl, axis=0, keepdims=True)
    return reconstruction(terms) - beta * jnp.sum(jnp.maximum(penalized, free_bits), axis=0)


@register("objective", "free-bits")
@dataclasses.dataclass(frozen=True)
class FreeBitsConfig(WeightedConfig):
    """Settings of `free_bits`."""

    free_bits: float = setting(0.0, "KL in nats that is not penalized.", minimum=0, batchable=True)
    per_layer: bool = setting(False, "free_bits is that of each stochastic layer, not that of their sum.")

    def at(self, step: Array, num_examples: int) -> Objective:
        """Return `free_bits` with its weight at a step."""
        del num_examples
        minimum = {"free_bits": self.free_bits, "per_layer": self.per_layer}
        return functools.partial(free_bits, beta=self.weight(step), **minimum)

    def check(self, config: Config) -> None:
        """Raise InputError if `per_layer` is set and the model has no KL of each layer."""
        super().check(config)
        if self.per_layer:
            require_layer_divergences(config, "objective.per_layer", True)


def capacity(terms: Terms, *, capacity: float | Array, beta: float | Array = 1.0) -> Array:
    """Return E_q log p(x|z) - beta |KL - capacity| (Burgess et al., arXiv 1804.03599).

    The KL of several layers is an estimate from K samples. Near the capacity its noise has a cost:
    E |estimate - capacity| is larger than |KL - capacity|.

    Args:
      terms: log densities [K, B] with `kl` [L, B].
      capacity: the target of the KL, in nats per example.
      beta: weight of the distance.

    Returns:
      [B], in nats.

    Raises:
      ValueError: the terms have no KL (see `Terms.kl`).
    """
    kl = jnp.sum(layer_kl(terms), axis=0)
    return reconstruction(terms) - beta * jnp.abs(kl - capacity)


@register("objective", "capacity")
@dataclasses.dataclass(frozen=True)
class CapacityConfig(ObjectiveConfig):
    """Settings of `capacity`."""

    beta: float = setting(1.0, "Weight of the distance between KL and capacity.", minimum=0, batchable=True)
    warmup_steps: int = setting(
        0,
        "Number of steps over which the capacity increases linearly: in each of them it is multiplied by (step + 1) / "
        "warmup_steps.",
        minimum=0,
    )
    capacity: float = setting(0.0, "Target of the KL in nats.", minimum=0, batchable=True)

    def at(self, step: Array, num_examples: int) -> Objective:
        """Return `capacity` with its target at a step."""
        del num_examples
        return functools.partial(capacity, capacity=self.capacity * warm_up(step, self.warmup_steps), beta=self.beta)
