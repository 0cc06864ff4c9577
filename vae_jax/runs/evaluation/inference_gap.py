"""The gap between log p(x) and the ELBO of a run's model: the parts of the posterior's family and of the encoder."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec

from vae_jax import random
from vae_jax.distributions import Batch
from vae_jax.errors import InputError, NotFiniteError
from vae_jax.inference import RELIABLE, Params, PosteriorOptimization, inference_gap
from vae_jax.runs.evaluation.evaluation import evaluation_protocol, has_density
from vae_jax.runs.experiment import memory
from vae_jax.runs.experiment.experiment import Experiment
from vae_jax.runs.experiment.labels import refuse_unknown_labels
from vae_jax.runtime import Placement
from vae_jax.training import evaluate_examples, mean_and_error


def evaluate_inference_gap(
    experiment: Experiment,
    params: Params,
    settings: PosteriorOptimization,
    *,
    split: str,
    placement: Placement,
    num_examples: int | None = None,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Optimize a posterior for each example of a split, and return the parts of the gap between log p(x) and the ELBO.

    Args:
      experiment: what was trained.
      params: parameters of the model, or `Variables`.
      settings: the optimization and the numbers of samples.
      split: train, validation, test or all.
      placement: the devices.
      num_examples: the first so many examples of the split; None for all.
      report: called with (examples done, all examples) after each batch.

    Returns:
      Means over the examples in nats, each with its standard error `NAME_se`: `elbo`, `optimized_elbo`, `nll` by
      importance sampling from the optimized posterior, `approximation_gap` = -nll - optimized_elbo and
      `amortization_gap` = optimized_elbo - elbo; `pareto_k` and `pareto_k_above` as in `Evaluator.likelihood`; and the
      protocol.

    Raises:
      InputError: the model has no density, or its posterior is no diagonal Gaussian, or there are too few examples.
      NotFiniteError: an estimate is not finite.
    """
    arrays = _chosen_examples(experiment, split, num_examples)
    count = len(arrays["x"])
    terms = functools.partial(gap_terms, model=experiment.model, preprocess=experiment.preprocess, settings=settings)
    replicated = NamedSharding(placement.mesh, PartitionSpec())
    program = jax.jit(terms, out_shardings=replicated, compiler_options=placement.compiler_options)
    values = evaluate_examples(
        program, params, experiment.evaluation_key(split), arrays,
        batch_size=_batch_size(experiment, placement, settings), placement=placement.batch,
        report=lambda done: report(done, count),
    )  # fmt: skip
    shared = {name: value for name, value in evaluation_protocol(experiment).items() if name != "num_samples"}
    protocol = {"split": split, "num_examples": count, **dataclasses.asdict(settings), **shared}
    return {**_summarize(values), **protocol}


def _chosen_examples(experiment: Experiment, split: str, num_examples: int | None) -> dict[str, np.ndarray]:
    """Return the examples to evaluate; raise InputError if there are fewer, or the bound is undefined."""
    if not has_density(experiment):
        raise InputError("likelihood=optimized needs a model whose posterior has a density; use another model")
    arrays = experiment.dataset(split).arrays
    refuse_unknown_labels(experiment.model, arrays, "optimized")
    available = len(arrays["x"])
    count = available if num_examples is None else num_examples
    if not 0 < count <= available:
        raise InputError(
            f"--optimized.examples={count} must be from 1 to {available}, the examples of the split {split}"
        )
    return {name: array[:count] for name, array in arrays.items()}


def _batch_size(experiment: Experiment, placement: Placement, settings: PosteriorOptimization) -> int:
    """Return how many examples are optimized at once: with their samples, as many as an evaluation decodes."""
    sizes = memory.evaluation_sizes(experiment, placement)
    samples = max(settings.num_samples, min(settings.chunk, settings.evaluation_samples))
    return max(1, sizes.batch_size * sizes.chunk // samples)


def _summarize(values: dict[str, np.ndarray]) -> dict[str, Any]:
    values = {name: array.astype(np.float64) for name, array in values.items()}
    wrong = [name for name, array in values.items() if name != "pareto_k" and not np.isfinite(array).all()]
    if wrong:
        raise NotFiniteError(f"estimates {', '.join(wrong)} of the optimized posterior are not finite")
    parts = {
        "elbo": values["elbo"], "optimized_elbo": values["optimized_elbo"], "nll": -values["log_px"],
        "approximation_gap": values["log_px"] - values["optimized_elbo"],
        "amortization_gap": values["optimized_elbo"] - values["elbo"],
    }  # fmt: skip
    result: dict[str, Any] = {}
    for name, array in parts.items():
        result |= mean_and_error(name, array)
    if "pareto_k" in values:
        result["pareto_k"] = float(np.median(values["pareto_k"]))
        result["pareto_k_above"] = float(np.mean(values["pareto_k"] > RELIABLE))
    return result


def gap_terms(
    params: Params, keys: Array, batch: Batch, *, model: Any, preprocess: Any, settings: PosteriorOptimization
) -> dict[str, Array]:
    """Return the estimates of stored examples, [B] each; the preprocessing draws as in the other evaluations."""
    batch = preprocess(random.fold_in(keys, 0), batch)
    found = inference_gap(params, random.fold_in(keys, 4), batch, model=model, settings=settings)
    return {name: value for name, value in found._asdict().items() if value is not None}
