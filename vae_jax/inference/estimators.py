"""Gradient estimators: how the gradient of a bound flows through the samples of the posterior, for any model.

An estimator receives the passes through a model, see `Passes`. All estimators return terms with the same values; they
differ in the derivatives of these terms.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.custom_derivatives import SymbolicZero

from vae_jax.config import Choice, Config, any_of, choices, register, require
from vae_jax.distributions import Latent
from vae_jax.errors import InputError
from vae_jax.inference.objectives import ObjectiveConfig
from vae_jax.inference.terms import Objective, Terms, log_p, log_weights


class Passes(Protocol):
    """The passes through a model for one batch and one set of random numbers."""

    def sampled(self) -> Terms:
        """Return the terms of samples z ~ q(z|x), which have a gradient to the posterior's parameters."""
        ...

    def at(self, values: Mapping[str, Array]) -> Terms:
        """Return the terms of given values of the layers; the posterior's parameters have no gradient."""
        ...


Estimator = Callable[..., Terms]  # (passes, *, objective) -> Terms


@dataclasses.dataclass(frozen=True)
class EstimatorConfig(Choice):
    """Settings of a gradient estimator.

    Attributes:
      for_any_objective: whether every objective supports the estimator. If not, those do whose settings list its name
        in `estimators`.
    """

    for_any_objective: ClassVar[bool] = True

    def build(self) -> Estimator:
        """Return the estimator."""
        raise NotImplementedError(f"{type(self).__name__} has no method `build`; return a function such as `pathwise`")

    def check(self, config: Config) -> None:
        """Raise InputError unless the objective supports the estimator."""
        objective = config.objective
        if not self.for_any_objective and self.name not in objective.estimators:
            known = choices("objective").items()
            supported = [n for n, cls in known if issubclass(cls, ObjectiveConfig) and self.name in cls.estimators]
            require(False, "estimator", self.name, f"pathwise with objective={objective.name}; "
                    f"{self.name} needs {any_of(supported)}")  # fmt: skip


def real_values(values: Mapping[str, Array]) -> Mapping[str, Array]:
    """Return the values of layers, through which another walk has a gradient.

    Args:
      values: {name of a layer: z}.

    Raises:
      InputError: the values of a layer are integers.
    """
    for name, z in values.items():
        if jnp.issubdtype(z.dtype, jnp.integer):
            raise InputError(
                f"layer {name!r} has integer samples, which have no gradient here; use estimator=pathwise and an "
                "objective that is no Pair"
            )
    return values


def pathwise(passes: Passes, *, objective: Objective | None = None) -> Terms:
    """Return terms with the unchanged derivative, through z = m + σ e and through log q(z|x).

    Kingma & Welling, arXiv 1312.6114. Without the first part, as for samples of a discrete posterior, the gradient is
    wrong, so it is refused. Values have no such restriction.

    Args:
      passes: the passes through a model.
      objective: not used.

    Returns:
      Terms [K, B], in nats. Their derivative raises InputError if samples have none to the posterior's parameters.
    """
    del objective
    return _require_sample_gradient(passes.sampled())


@register("estimator", "pathwise")
@dataclasses.dataclass(frozen=True)
class PathwiseConfig(EstimatorConfig):
    """Settings of `pathwise`."""

    def build(self) -> Estimator:
        """Return `pathwise`."""
        return pathwise


def sticking_the_landing(passes: Passes, *, objective: Objective | None = None) -> Terms:
    """Return terms whose derivative flows through z alone; the parameters of log q(z|x) are constants.

    The omitted part has mean zero for the sampled ELBO, and the variance vanishes if q is the exact posterior (Roeder
    et al., arXiv 1703.09194). For bounds that are not linear in log w the estimator is biased; use
    `doubly_reparameterized`.

    Args:
      passes: the passes through a model.
      objective: not used.

    Returns:
      Terms [K, B], in nats, without the densities of the layers and without KL in closed form, whose gradient does not
      use the samples. `Terms.kl` is the mean of log q - log p then.

    Raises:
      ValueError: the posterior of a layer is a point.
    """
    del objective
    sampled = _require_sample_gradient(passes.sampled())
    return _with_penalties(passes.at(_values(sampled)), sampled)


@register("estimator", "sticking-the-landing")
@dataclasses.dataclass(frozen=True)
class StickingTheLandingConfig(EstimatorConfig):
    """Settings of `sticking_the_landing`. For the ELBO with a KL in closed form it has no effect."""

    for_any_objective: ClassVar[bool] = False

    def build(self) -> Estimator:
        """Return `sticking_the_landing`."""
        return sticking_the_landing


def doubly_reparameterized(passes: Passes, *, objective: Objective) -> Terms:
    """Return terms whose derivative flows through z alone, with weights that give it the mean of `pathwise`.

    Tucker et al., arXiv 1810.04152. F is the objective, a function of the log weights. The path through z_k has the
    weight ∂F/∂log w_k - ∂²F/∂(log w_k)² instead of ∂F/∂log w_k. The second part is the mean of the omitted derivative
    of log q(z_k|x). For IWAE the weight is w̃_k² in place of w̃_k, and for Rényi α w̃_k + (1 - α) w̃_k². The gradient of
    the parameters of p(x|z) and p(z) is not changed.

    The second derivatives need K² numbers for each example. An objective that is nonlinear in anything other than log w
    is not supported.

    Args:
      passes: the passes through a model.
      objective: F.

    Returns:
      Terms [K, B], in nats, without the densities of the layers and without KL in closed form, whose gradient does not
      use the samples. `Terms.kl` is the mean of log q - log p then.

    Raises:
      ValueError: the posterior of a layer is a point, or the objective compares the codes of a batch.
    """
    sampled = _require_sample_gradient(passes.sampled())
    values = _values(sampled)
    log_w = log_weights(lax.stop_gradient(passes.at(values)))  # [K, B]; XLA merges it with the second evaluation below
    first, second = _derivatives(objective, log_w)
    factor = lax.stop_gradient(jnp.where(first != 0, 1 - second / jnp.where(first != 0, first, 1), 1))
    scaled = {latent.name: _scale_gradient(latent.z, _aligned(factor, latent)) for latent in sampled.latents}
    return _with_penalties(passes.at(scaled), sampled)


@register("estimator", "doubly-reparameterized")
@dataclasses.dataclass(frozen=True)
class DoublyReparameterizedConfig(EstimatorConfig):
    """Settings of `doubly_reparameterized`. For the sampled ELBO it is `sticking_the_landing`."""

    for_any_objective: ClassVar[bool] = False

    def build(self) -> Estimator:
        """Return `doubly_reparameterized`."""
        return doubly_reparameterized


def _require_sample_gradient(terms: Terms) -> Terms:
    """Return terms whose derivative raises InputError if samples of a layer have none to the posterior's parameters."""

    def checked(latent: Latent) -> Latent:
        @jax.custom_jvp
        def identity(z: Array, parameters: list[Array]) -> Array:
            del parameters
            return z

        @functools.partial(identity.defjvp, symbolic_zeros=True)
        def _(primals: tuple[Array, Any], tangents: tuple[Any, Any]) -> tuple[Array, Any]:
            z, parameters = tangents
            if isinstance(z, SymbolicZero) and not all(isinstance(t, SymbolicZero) for t in parameters):
                raise InputError(
                    f"posterior {type(latent.posterior).__name__} of layer {latent.name!r} has samples without a "
                    "gradient to its parameters, as discrete ones are, so a gradient through them is wrong; use a "
                    "continuous posterior, or a custom estimator that does not differentiate the samples"
                )
            return primals[0], z

        parameters = [leaf for leaf in jax.tree.leaves(latent.posterior) if isinstance(leaf, Array)]
        return dataclasses.replace(latent, z=identity(latent.z, parameters))

    return terms._replace(latents=tuple(map(checked, terms.latents)))


def _values(terms: Terms) -> dict[str, Array]:
    """Return the values of the layers by name; raise ValueError if the posterior of a layer is a point."""
    for latent in terms.latents:
        if latent.log_q is None:
            raise ValueError(f"posterior of layer {latent.name!r} is a point, which has no density; use `pathwise`")
    return {latent.name: latent.z for latent in terms.latents}


def _with_penalties(terms: Terms, sampled: Terms) -> Terms:
    """Return terms with the penalties of the samples, whose gradient reaches the posterior's parameters."""
    penalties = {latent.name: latent.penalty for latent in sampled.latents}
    latents = (dataclasses.replace(latent, penalty=penalties[latent.name]) for latent in terms.latents)
    return terms._replace(latents=tuple(latents))


def _derivatives(objective: Objective, log_w: Array) -> tuple[Array, Array]:
    """Return ∂F_b/∂log w_kb and ∂²F_b/∂(log w_kb)², each [K, B], of an objective that is a function of log w."""
    zeros = jnp.zeros_like(log_w)

    def total(log_w: Array) -> Array:
        return jnp.sum(objective(Terms(log_w, (Latent("z", zeros, log_p=zeros, log_q=zeros),))))

    def diagonal(row: Array) -> Array:  # [K, B] of 0 and 1, one sample of each example
        return jnp.sum(jax.jvp(jax.grad(total), (log_w,), (row,))[1] * row, axis=0)

    k = log_w.shape[0]
    rows = jnp.broadcast_to(jnp.eye(k, dtype=log_w.dtype)[:, :, None], (k, *log_w.shape))
    return jax.grad(total)(log_w), jax.vmap(diagonal)(rows)


def _aligned(factor: Array, latent: Latent) -> Array:
    """Return a factor [K, B] in the shape of the layer's value, [K, B, *event], or [L, K, B, *event] of L blocks."""
    blocks = log_p(latent).ndim - factor.ndim
    shape = (1,) * blocks + factor.shape + (1,) * (latent.z.ndim - factor.ndim - blocks)
    return jnp.broadcast_to(factor.reshape(shape), latent.z.shape)


@jax.custom_jvp
def _scale_gradient(z: Array, factor: Array) -> Array:
    """Return z; derivatives that pass through it are multiplied by `factor`, of the same shape."""
    del factor
    return z


@_scale_gradient.defjvp
def _scale_gradient_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    z, factor = primals
    return z, tangents[0] * factor
