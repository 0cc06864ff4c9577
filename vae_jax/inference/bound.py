"""From a model and an objective to a loss: samples of the posterior, their log densities, and minus the mean bound."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from vae_jax.distributions import (
    Batch,
    Draw,
    Latent,
    Variables,
    as_variables,
    from_posterior,
    from_values,
    kl_divergence,
    refuse_flax_errors,
)
from vae_jax.inference.estimators import Estimator, pathwise, real_values
from vae_jax.inference.labels import Bounds, sum_over_labels, with_label
from vae_jax.inference.terms import Objective, Pair, Statistics, Terms, check_terms
from vae_jax.inference.walk_checks import log_prob_of, named_layers

Params = Any  # a pytree of arrays, or `Variables`
Metrics = dict[str, Array]


def encode(params: Params, batch: Batch, *, model: Any) -> Any:
    """Return what the posterior of a model reads of the data: `model.encode(batch)`.

    Args:
      params: parameters of the model, or its `Variables`, which stay as they are.
      batch: {"x": [B, ...], ...}.
      model: a `VAE`, or any Linen module with its methods `encode` and `decode`.

    Returns:
      The evidence that `decode` receives, a pytree of the model's choice.

    Raises:
      InputError: the model needs random numbers of Flax, or variables that are missing or may not be changed.
    """
    return _encode(params, batch, model=model)[0]


def decode(
    params: Params, draw: Draw, evidence: Any = None, batch: Batch | None = None, *, model: Any
) -> tuple[Any, dict[str, Latent]]:
    """Return p(x|z) and the layers by name of one walk through a model: `model.decode(draw, evidence, batch)`.

    Args:
      params: parameters of the model, or its `Variables`, which stay as they are.
      draw: the answer to the question for a layer, such as `from_prior(key, N)`.
      evidence: the result of `encode`; None if `draw` needs no posterior.
      batch: {"x": [B, ...], ...}, if the generative process reads data, such as a condition.
      model: a `VAE`, or any Linen module with its methods `encode` and `decode`.

    Returns:
      The density p(x|z), and {name: layer} in the order of the model.

    Raises:
      ValueError: two layers have the same name.
      InputError: `decode` returned no p(x|z) and layers, or the model needs random numbers of Flax, or variables that
        are missing or may not be changed.
    """
    return _decode(params, draw, evidence, batch, model=model)[:2]


def _encode(params: Params, batch: Batch, *, model: Any, update: bool = False) -> tuple[Any, Statistics | None]:
    """Return the evidence, and the statistics after an updating pass, else None."""
    with jax.named_scope("encoder"):
        return _apply(params, batch, model=model, method="encode", update=update)


def _decode(
    params: Params, draw: Draw, evidence: Any, batch: Batch | None, *, model: Any, update: bool = False
) -> tuple[Any, dict[str, Latent], Statistics | None]:
    """Return p(x|z), the layers by name, and the statistics after an updating walk, else None."""
    with jax.named_scope("decoder"):
        walk, statistics = _apply(params, draw, evidence, batch or {}, model=model, method="decode", update=update)
    return *named_layers(walk), statistics


def _apply(params: Params, *arguments: Any, model: Any, method: str, update: bool) -> tuple[Any, Statistics | None]:
    """Return the result of a method. If `update`, all collections but the parameters are mutable in it."""
    variables = as_variables(params)
    collections = [name for name in variables if name != "params"]
    with refuse_flax_errors():
        if not (update and collections):
            return model.apply(variables, *arguments, method=method), None
        result, updated = model.apply(variables, *arguments, method=method, mutable=collections)
    return result, {name: lax.stop_gradient(updated.get(name, variables[name])) for name in collections}


def batch_size(batch: Batch) -> int:
    """Return the number of examples B of a batch.

    Raises:
      ValueError: the batch is not a mapping with data `x`, or its arrays differ in their leading axis.
    """
    if not isinstance(batch, Mapping) or "x" not in batch:
        raise ValueError('batch is not a mapping with data "x"; pass {"x": x} with a leading axis of examples')
    sizes = {name: array.shape[0] for name, array in batch.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"batch has arrays of {sizes} examples; pass arrays with equal leading axes")
    return sizes["x"]


@dataclasses.dataclass(frozen=True)
class _Passes:
    """The passes through a model whose q(z|x) and p(x, z) may have separate parameters of equal values.

    With `update` each walk updates the statistics, from the same old ones, so that walks with equal codes are equal.
    """

    model: Any
    q_params: Params
    p_params: Params
    batch: Batch
    draw: Draw
    evidence: Any
    update: bool

    def _walk(self, params: Params, draw: Draw, evidence: Any) -> tuple[Any, dict[str, Latent], Statistics | None]:
        return _decode(params, draw, evidence, self.batch, model=self.model, update=self.update)

    def _log_px_z(self, p_x: Any, latents: Mapping[str, Latent]) -> Array:
        with jax.named_scope("likelihood"):
            return log_prob_of(p_x, self.batch["x"], latents.values())

    def sampled(self) -> Terms:
        p_x, latents, statistics = self._walk(self.q_params, self.draw, self.evidence)
        if self.q_params is not self.p_params:
            values = real_values({name: latent.z for name, latent in latents.items()})
            p_x, layers, _ = self._walk(self.p_params, from_values(values), None)
            latents = {name: _under_prior(latent, layers[name]) for name, latent in latents.items()}
        return Terms(self._log_px_z(p_x, latents), tuple(latents.values()), statistics)

    def at(self, values: Mapping[str, Array]) -> Terms:
        p_x, latents, _ = self._walk(self.p_params, from_values(real_values(values)), None)
        fixed, evidence = lax.stop_gradient((self.q_params, self.evidence))
        _, layers, statistics = self._walk(fixed, from_values(values, with_posterior=True), evidence)
        scored = (dataclasses.replace(l, log_q=layers[name].log_q, prior=None) for name, l in latents.items())
        return Terms(self._log_px_z(p_x, latents), tuple(scored), statistics)


def _under_prior(latent: Latent, layer: Latent) -> Latent:
    """Return a layer of the posterior with the prior of the same layer of another walk."""
    kl = None
    if latent.kl is not None:
        is_blocks = latent.log_q is not None and latent.log_q.ndim == 3
        kl = (jax.vmap(kl_divergence) if is_blocks else kl_divergence)(latent.posterior, layer.prior)
    return dataclasses.replace(latent, log_p=layer.log_p, prior=layer.prior, kl=kl)


def sample_terms(
    params: Params,
    key: Array,
    batch: Batch,
    *,
    model: Any,
    num_samples: int = 1,
    estimator: Estimator = pathwise,
    evidence: Any = None,
    first_sample: int | Array = 0,
) -> Terms:
    """Return the log densities of K samples z ~ q(z|x) for each example.

    z = m + σ e with e ~ N(0, I), so gradients flow through m and σ. The estimator decides which of these gradients are
    used. If it depends on the objective, bind the objective first:
    `functools.partial(doubly_reparameterized, objective=iwae)`.

    Args:
      params: parameters of the model, or its `Variables`, which stay as they are.
      key: for the posterior's samples; a typed key, or a key for each example, [B].
      batch: {"x": [B, ...], ...}, as `model.encode` and the likelihood read it.
      model: a `VAE`, or any Linen module with its methods `encode` and `decode`.
      num_samples: K.
      estimator: the rule for the gradient, such as `pathwise`.
      evidence: `encode(params, batch, model=model)`, if the caller has it already.
      first_sample: number of the first sample, for samples in chunks.

    Returns:
      Terms [K, B], in nats.

    Raises:
      ValueError: the batch has no data `x`, or arrays of unequal lengths.
    """
    return _sample_terms(
        params, params, key, batch, model=model, num_samples=num_samples, estimator=estimator, evidence=evidence,
        first_sample=first_sample,
    )  # fmt: skip


def _sample_terms(
    q_params: Params,
    p_params: Params,
    key: Array,
    batch: Batch,
    *,
    model: Any,
    num_samples: int,
    estimator: Estimator,
    evidence: Any = None,
    first_sample: int | Array = 0,
    update: bool = False,
) -> Terms:
    """Return `sample_terms` with separate parameters for q(z|x), equal in value to those of p(x, z).

    With `update` the passes update the statistics of the model, and the terms contain them.
    """
    draw = from_posterior(key, batch_size(batch), num_samples, first_sample=first_sample)
    if evidence is None:
        evidence, statistics = _encode(q_params, batch, model=model, update=update)
        if statistics is not None:
            is_shared = q_params is p_params
            q_params = q_params._replace(statistics=statistics)
            p_params = q_params if is_shared else p_params._replace(statistics=statistics)
    return estimator(_Passes(model, q_params, p_params, batch, draw, evidence, update))


def negative_bound(
    params: Params,
    key: Array,
    batch: Batch,
    *,
    model: Any,
    objective: Objective | Pair,
    num_samples: int = 1,
    estimator: Estimator = pathwise,
) -> tuple[Array, Metrics]:
    """Return minus the mean bound over the batch, the loss that `jax.grad` differentiates.

    The loss of a `Pair` is that of `generative`, whose gradient reaches the parameters of p(x|z) and p(z). The
    gradient of `inference` reaches the parameters of q(z|x). The mean penalty of the layers is added to the loss.

    Args:
      params: parameters of the model, or its `Variables`, whose new values `loss_and_statistics` returns.
      key: for the posterior's samples; a typed key, or a key for each example, [B].
      batch: {"x": [B, ...], ...}, as `model.encode` and the likelihood read it.
      model: a `VAE`, or any Linen module with its methods `encode` and `decode`.
      objective: a function of `Terms` that returns a bound for each example, [B]; or a `Pair`.
      num_samples: K, the posterior samples of each example.
      estimator: the rule for the gradient, such as `pathwise`.

    Returns:
      The loss [] in nats per example, and metrics: the means of the bound and of its parts, each []. `bound` is the
      bound, `reconstruction` is E_q log p(x|z), `kl` exists if the posterior has a density, and `penalty` if a layer
      has one. A model with a method `classify` has an unknown label summed out, see `sum_over_labels`.

    Raises:
      ValueError: the objective needs a term that the estimator does not return, its result is not [B], or the batch has
        no data `x`, or arrays of unequal lengths.
      InputError: `decode` returned no p(x|z) and layers, or the model needs random numbers of Flax, or variables that
        are missing or may not be changed.
    """
    return loss_and_statistics(
        params, key, batch, model=model, objective=objective, num_samples=num_samples, estimator=estimator
    )[:2]


def loss_and_statistics(
    params: Params,
    key: Array,
    batch: Batch,
    *,
    model: Any,
    objective: Objective | Pair,
    num_samples: int = 1,
    estimator: Estimator = pathwise,
) -> tuple[Array, Metrics, Statistics]:
    """Return `negative_bound`, and the variables of the model that a training step updates without a gradient.

    All collections of `Variables.statistics` are mutable in the passes. A module finds that out by
    `self.is_mutable_collection(name)`, which is false in an evaluation.

    Args:
      params: parameters of the model, or its `Variables`.
      key: as for `negative_bound`, like the other arguments.
      batch: {"x": [B, ...], ...}.
      model: a `VAE`, or any Linen module with its methods `encode` and `decode`.
      objective: a function of `Terms`, or a `Pair`.
      num_samples: K.
      estimator: the rule for the gradient.

    Returns:
      The loss [], the metrics, and the new statistics, {} for a model without any.

    Raises:
      ValueError, InputError: as for `negative_bound`.
    """
    settings = {"objective": objective, "estimator": estimator, "key": key, "model": model, "num_samples": num_samples}
    bounds_of = functools.partial(_bounds_of, params, **settings)
    if hasattr(model, "classify"):
        bounds, statistics = _sum_over_labels(params, bounds_of, batch, model), {}
    else:
        bounds, terms = bounds_of(batch)
        statistics = _statistics_of(params, terms)
    metrics = {"bound": jnp.mean(bounds.bound)} | {name: jnp.mean(part) for name, part in bounds.parts.items()}
    loss = -metrics["bound"] + (0 if bounds.penalty is None else jnp.mean(bounds.penalty))
    return loss + metrics.get("classifier_loss", 0), metrics, statistics


def _bounds_of(
    params: Params, batch: Batch, *, objective: Objective | Pair, estimator: Estimator, **settings: Any
) -> tuple[Bounds, Terms]:
    """Return the numbers of each example, and the terms of a walk that updates the statistics."""
    sample = functools.partial(_sample_terms, batch=batch, update=True, **settings)
    if isinstance(objective, Pair):
        terms, bound, penalty = _pair_bound(objective, params, sample, estimator)
    else:
        terms = sample(params, params, estimator=functools.partial(estimator, objective=objective))
        bound, penalty = objective(terms), terms.penalty  # [B], [K, B]
    shape = getattr(bound, "shape", None)
    if shape != (size := batch_size(batch),):
        found = type(bound).__name__ if shape is None else f"shape {list(shape)}"
        raise ValueError(f"objective returned {found}; return a bound for each example, [{size}]")
    return Bounds(bound, bound_parts(terms), None if penalty is None else jnp.mean(penalty, axis=0)), terms


def _sum_over_labels(
    params: Params, bounds_of: Callable[[Batch], tuple[Bounds, Terms]], batch: Batch, model: Any
) -> Bounds:
    """Return the bounds [B] of a model with a classifier; raise ValueError for one whose passes update statistics."""
    if isinstance(params, Variables) and params.statistics:
        raise ValueError("model has a method classify and statistics; use layers without statistics")

    def given_class(label: Array) -> tuple[Bounds, dict[str, Array]]:
        bounds, terms = bounds_of(with_label(batch, label))
        return bounds, {latent.name: latent.z for latent in terms.latents}

    bounds, values = jax.vmap(given_class)(jnp.arange(model.num_classes))  # [C, B], [C, K, B, *event]
    first = {name: z[0] for name, z in values.items()}  # `classify` reads layers that do not depend on the label
    log_q = classify(params, batch, first, model=model)
    return sum_over_labels(bounds, log_q, batch, classifier_weight=model.classifier_weight)


def classify(params: Params, batch: Batch, values: Mapping[str, Array] | None = None, *, model: Any) -> Array:
    """Return log q(y|x) of a model with a classifier, [B, C] in nats.

    Args:
      params: parameters of the model, or its `Variables`, which stay as they are.
      batch: {"x": [B, ...], ...}; its labels are not read.
      values: {name: [B, *event] or [1, B, *event]} of the layers, for a q(y|x, layers).
      model: a Linen module with the method `classify(batch, values)`, which returns a `Categorical` of [B, C].

    Raises:
      ValueError: q(y|x, layers) has more than one value for each example; use one sample of the layers.
    """
    logits = _apply(params, batch, values or {}, model=model, method="classify", update=False)[0].logits
    log_q = jax.nn.log_softmax(logits.reshape(-1, logits.shape[-1]))
    if len(log_q) != batch_size(batch):
        raise ValueError(f"q(y|x, layers) has shape {list(logits.shape)}; use one sample, objective.num_samples=1")
    return log_q


def _statistics_of(params: Params, terms: Terms) -> Statistics:
    """Return the new statistics; raise ValueError if an estimator has dropped those of a model that has some."""
    if not (isinstance(params, Variables) and params.statistics):
        return {}
    if terms.statistics is None:
        raise ValueError("estimator returned terms without `statistics`; keep those of the terms of a pass")
    return terms.statistics


def _pair_bound(
    objective: Pair, params: Params, sample: Callable[..., Terms], estimator: Estimator
) -> tuple[Terms, Array, Array | None]:
    """Return the terms, the bound [B] whose gradients follow the roles of the parameters, and the penalty [K, B]."""
    fixed = lax.stop_gradient(params)
    encoder_terms = sample(params, fixed, estimator=functools.partial(estimator, objective=objective.inference))
    encoder_bound = objective.inference(encoder_terms)  # [B]
    terms = sample(fixed, params, estimator=pathwise)  # the same values, which XLA computes once
    bound = objective.generative(terms) + (encoder_bound - lax.stop_gradient(encoder_bound))  # [B]
    return terms, bound, encoder_terms.penalty


def bound_parts(terms: Terms) -> dict[str, Array]:
    """Return the reconstruction term, the KL divergence and the penalty of each example.

    Args:
      terms: log densities [K, B].

    Returns:
      Arrays [B] in nats: `reconstruction`, and `kl` unless the posterior is a point. If there are L > 1 layers, `kl_1`,
      ..., `kl_L` are their shares. `penalty` exists if a layer has one.
    """
    check_terms(terms)
    parts = {"reconstruction": jnp.mean(terms.log_px_z, axis=0)}
    kl = terms.kl
    if kl is not None:
        parts["kl"] = jnp.sum(kl, axis=0)
        if len(kl) > 1:
            parts |= {f"kl_{layer}": row for layer, row in enumerate(kl, start=1)}
    if terms.penalty is not None:
        parts["penalty"] = jnp.mean(terms.penalty, axis=0)
    return parts
