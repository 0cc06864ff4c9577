"""Evaluation of a complete split: every example once, for any batch size, in float32 at the highest precision."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec

from vae_jax import random
from vae_jax.distributions import Batch, from_means, label_mask
from vae_jax.inference import RELIABLE, Params, bound_parts, decode, encode, importance_estimate, sample_terms
from vae_jax.training import classification
from vae_jax.training.code_usage import chosen_codes, summarize_codes
from vae_jax.training.example_batches import Arrays, PerExample, evaluate_examples
from vae_jax.training.latent_means import ActiveUnits, latent_means
from vae_jax.training.loss import Preprocess
from vae_jax.training.metrics import mean_and_error, reconstruction_errors, summarize_errors

Receive = Callable[[dict[str, np.ndarray]], None]


def elbo_terms(
    params: Params, keys: Array, batch: Batch, *, model: Any, preprocess: Preprocess, kind: str
) -> dict[str, Array]:
    """Return the terms of the ELBO and the errors of the reconstruction of each example.

    Args:
      params: parameters of the model, or its `Variables`.
      keys: a key for each example, [B].
      batch: stored examples, {"x": [B, ...], ...}.
      model: a `VAE`, or any Linen module with its methods `encode` and `decode`.
      preprocess: (keys [B], stored examples) -> inputs of the model.
      kind: images, vectors or counts.

    Returns:
      The arrays of `bound_parts`, each [B] in nats, from one posterior sample; `mean/NUMBER` [B, D] of each layer, its
      posterior mean E[z], or [B, L, D] of L blocks; the `reconstruction_errors` of decoding the means. The mean of a
      layer that depends on others is an estimate, and `mean_variance/NUMBER`, of the same shape, is its variance.
      `chosen_codes` of layers of integer codes.
    """
    batch = preprocess(random.fold_in(keys, 0), batch)
    evidence = encode(params, batch, model=model)
    sample = functools.partial(sample_terms, params, model=model, evidence=evidence)
    terms = sample(random.fold_in(keys, 1), batch)
    parts = bound_parts(terms) | chosen_codes(terms)
    parts |= latent_means(functools.partial(sample, random.fold_in(keys, 2), batch), terms)
    p_x, _ = decode(params, from_means(), evidence, batch, model=model)
    return parts | reconstruction_errors(batch["x"], p_x.mean(), kind=_error_kind(kind, preprocess))


def _error_kind(kind: str, preprocess: Preprocess) -> str:
    """Return the kind of data of the errors; "" if the preprocessing replaces counts by other numbers."""
    values_of = getattr(preprocess, "values_of", None)
    is_replaced = kind == "counts" and values_of is not None and values_of(kind) != "counts"
    return "" if is_replaced else kind


def likelihood_terms(
    params: Params, keys: Array, batch: Batch, *, model: Any, preprocess: Preprocess, num_samples: int, chunk: int
) -> dict[str, Array]:
    """Return the importance-sampling estimate of log p(x) for each example.

    An example is preprocessed with the same random numbers as in `elbo_terms` under the same keys.

    Args:
      params: parameters of the model, or its `Variables`.
      keys: a key for each example, [B].
      batch: stored examples, {"x": [B, ...], ...}.
      model: a `VAE`, or any Linen module with its methods `encode` and `decode`.
      preprocess: (keys [B], stored examples) -> inputs of the model.
      num_samples: K.
      chunk: how many samples are computed at once.

    Returns:
      The arrays of `Estimate`, [B] each: `log_px` in nats, `ess`, and `pareto_k` if there are enough samples for it.
    """
    batch, sample_keys = preprocess(random.fold_in(keys, 0), batch), random.fold_in(keys, 1)
    found = importance_estimate(params, sample_keys, batch, model=model, num_samples=num_samples, chunk=chunk)
    return {name: value for name, value in found._asdict().items() if value is not None}


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """The evaluations of one model; each is compiled once, for any parameters and examples.

    Attributes:
      model: a `VAE`, or any Linen module with its methods `encode` and `decode`.
      preprocess: (keys [B], stored examples) -> inputs of the model.
      kind: what an example is, which selects the metrics of its reconstruction: images, vectors or counts.
      batch_size: how many examples are evaluated at once.
      placement: the sharding of the rows of a batch, such as `batch_sharding(mesh)`; None for one device.
      compiler_options: options of XLA for the devices.
    """

    model: Any
    preprocess: Preprocess
    kind: str = "images"
    batch_size: int = 80
    placement: NamedSharding | None = None
    compiler_options: dict[str, Any] | None = None

    @functools.cached_property
    def _elbo(self) -> PerExample:
        settings = {"model": self.model, "preprocess": self.preprocess, "kind": self.kind}
        return self._jit(functools.partial(elbo_terms, **settings))

    def _jit(self, per_example: PerExample) -> PerExample:
        """Return the jitted function. Its results are replicated on all devices, so every process can read them."""
        replicated = None if self.placement is None else NamedSharding(self.placement.mesh, PartitionSpec())
        return jax.jit(per_example, out_shardings=replicated, compiler_options=self.compiler_options)

    @functools.cached_property
    def _classifier(self) -> PerExample:
        settings = {"model": self.model, "preprocess": self.preprocess}
        return self._jit(functools.partial(classification.classifier_terms, **settings))

    @functools.cached_property
    def _likelihoods(self) -> dict[tuple[Any, int, int], PerExample]:
        return {}

    def _likelihood(self, terms: Callable[..., dict[str, Array]], num_samples: int, chunk: int) -> PerExample:
        """Return the jitted function of some terms with a number of samples."""
        settings = terms, num_samples, chunk
        if settings not in self._likelihoods:
            fixed = {"model": self.model, "preprocess": self.preprocess, "num_samples": num_samples, "chunk": chunk}
            self._likelihoods[settings] = self._jit(functools.partial(terms, **fixed))
        return self._likelihoods[settings]

    def bound(
        self,
        params: Params,
        key: Array,
        arrays: Arrays,
        *,
        receive: Receive = lambda scores: None,
        poll: Callable[[], None] | None = None,
    ) -> dict[str, Any]:
        """Return the ELBO and its parts, active units and errors of the reconstruction, as means over all examples.

        Args:
          params: parameters of the model, or its `Variables`.
          key: a typed key; equal keys give equal results.
          arrays: stored examples, {"x": [N, ...], ...}.
          receive: called with `reconstruction` and, if they are defined, `kl` and `elbo` of each example, {name: [N]}.
          poll: called several times a second during a batch; it may raise an error to end the evaluation.

        Returns:
          A dictionary of numbers:

          - `reconstruction` and, if the posterior has a density, `kl` and `elbo`, in nats per example, from one
            posterior sample; `reconstruction_se` and `elbo_se` are standard errors over the examples.
          - `active_units`, the number of latents whose posterior mean has a variance above 0.01 over the examples. The
            variance of an estimated mean is subtracted.
          - the metrics of `summarize_errors` for decoding the posterior mean: `squared_error`, and for images `psnr`,
            for vectors `explained_variance`, for counts `log_squared_error`.
          - of a model with integer codes, `code_perplexity`, `code_usage` and `bits_per_code`, see `summarize_codes`.
          - if the code has several layers, `kl_1`, ..., the shares of the layers in the KL, which can be negative, and
            the list `active_units_by_layer`, in the same order, with an entry for each block.

        Raises:
          ValueError: there are no examples.
        """
        where = {"batch_size": self.batch_size, "placement": self.placement}
        units = ActiveUnits()
        values = evaluate_examples(self._elbo, params, key, arrays, poll=poll, take=units.take, **where)
        result: dict[str, Any] = mean_and_error("reconstruction", values["reconstruction"])
        scores = {name: values[name] for name in ("reconstruction", "kl") if name in values}
        if "kl" in values:
            scores["elbo"] = values["reconstruction"] - values["kl"]
            result["kl"] = float(values["kl"].mean(dtype=np.float64))
            result |= mean_and_error("elbo", scores["elbo"])
        receive(scores)
        result |= {name: float(v.mean(dtype=np.float64)) for name, v in values.items() if name.startswith("kl_")}
        active = units.counts()
        if len(active) > 1:
            result["active_units_by_layer"] = active
        errors = summarize_errors(values, kind=self.kind, shape=arrays["x"].shape[1:])
        return result | {"active_units": sum(active)} | errors | summarize_codes(values, num_layers=units.num_layers)

    def likelihood(
        self,
        params: Params,
        key: Array,
        arrays: Arrays,
        *,
        num_samples: int,
        chunk: int,
        report: Callable[[int], None] | None = None,
        receive: Receive = lambda scores: None,
        poll: Callable[[], None] | None = None,
    ) -> dict[str, Any]:
        """Return the negative log-likelihood by importance sampling, as a mean over all examples.

        Args:
          params: parameters of the model, or its `Variables`.
          key: a typed key; equal keys give equal results.
          arrays: stored examples, {"x": [N, ...], ...}.
          num_samples: K, the posterior samples of each example.
          chunk: how many samples are computed at once.
          report: receives the number of examples so far, after each batch.
          receive: called with `nll`, `ess` and `pareto_k` of each example, {name: [N]}.
          poll: called several times a second during a batch; it may raise an error to end the evaluation.

        Returns:
          `nll` = -log p(x) in nats per example, its standard error over the examples `nll_se`, and `ess`, the median
          over the examples of the effective sample size. With 25 samples or more also `pareto_k`, the median shape of
          the tail of the weights, and `pareto_k_above`, the share of the examples whose shape exceeds 0.7.

        Raises:
          ValueError: the posterior has no density, or there are no examples.
        """
        program = self._likelihood(likelihood_terms, num_samples, chunk)
        where = {"batch_size": self.batch_size, "placement": self.placement}
        calls = {"report": report, "poll": poll}
        values = evaluate_examples(program, params, key, arrays, **calls, **where)
        nll = -values.pop("log_px")
        receive({"nll": nll} | values)
        result = mean_and_error("nll", nll) | {"ess": float(np.median(values["ess"]))}
        if "pareto_k" in values:
            result["pareto_k"] = float(np.median(values["pareto_k"]))
            result["pareto_k_above"] = float(np.mean(values["pareto_k"] > RELIABLE))
        return result

    def classes(
        self,
        params: Params,
        key: Array,
        arrays: Arrays,
        *,
        num_samples: int = 0,
        chunk: int = 1,
        receive: Receive = lambda scores: None,
        poll: Callable[[], None] | None = None,
    ) -> dict[str, Any]:
        """Return the metrics of the classification by a model that reads labels, for a uniform p(y).

        Args:
          params: parameters of the model, or its `Variables`.
          key: a typed key; equal keys give equal results.
          arrays: stored examples, {"x": [N, ...], "y": [N], ...}. Examples without a label count for the NLL alone.
          num_samples: K, the posterior samples of each example given each class; 0: only the classifier.
          chunk: how many samples are computed at once.
          receive: called with `log_qy` = log q(y|x) and `log_px_y` = log p(x|y) of each example, {name: [N, C]}.
          poll: called several times a second during a batch; it may raise an error to end the evaluation.

        Returns:
          The metrics `classifier_*` of q(y|x), if the model has a classifier, and `generative_*` of p(y|x) = p(x|y) /
          Σ_c p(x|c), if there are samples, see `summarize_classes`. With samples also `nll_unlabelled` = -log p(x), the
          mean in nats per example, and its standard error `nll_unlabelled_se`.
        """
        programs = {"log_qy": self._classifier} if hasattr(self.model, "classify") else {}
        if num_samples:
            programs["log_px_y"] = self._likelihood(classification.class_likelihood_terms, num_samples, chunk)
        where = {"batch_size": self.batch_size, "placement": self.placement, "poll": poll}
        known = label_mask(arrays)
        shown = np.ones(len(arrays["y"]), bool) if known is None else known
        result: dict[str, Any] = {}
        for name, program in programs.items():
            values = log_probability = evaluate_examples(program, params, key, arrays, **where)[name]
            receive({name: values})
            if name == "log_px_y":
                log_probability, log_px = classification.posterior_of_classes(values)
                result |= mean_and_error("nll_unlabelled", -log_px)
            if shown.any():
                prefix = "classifier" if name == "log_qy" else "generative"
                result |= classification.summarize_classes(prefix, log_probability[shown], arrays["y"][shown])
        return result
