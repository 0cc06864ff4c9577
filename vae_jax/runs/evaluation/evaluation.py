"""Evaluation of an experiment's model on one split: all metrics, their protocol, and the metrics that are undefined."""

import functools
import math
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from vae_jax.errors import NotFiniteError
from vae_jax.inference import RELIABLE, Params
from vae_jax.runs.experiment import memory
from vae_jax.runs.experiment.experiment import Experiment
from vae_jax.runs.experiment.labels import num_classes, num_summed_labels
from vae_jax.runs.experiment.program_cache import cache_programs
from vae_jax.runs.generation.decoding import placement_of
from vae_jax.runs.storage.directory import RunDirectory
from vae_jax.runtime import Placement, atomic_files, multihost
from vae_jax.training import Evaluator, bits_per_dim

# What the results of `evaluate_run` depend on, apart from the weights.
PROTOCOL = ("seed", "training_examples", "test_examples", "preprocess", "num_samples", "class_samples")
MIN_EFFECTIVE_SHARE = 0.01  # of the K samples; with a smaller effective sample size the NLL still falls with K
MAX_HEAVY_SHARE = 0.1  # of the examples, whose importance weights have a tail too heavy for a reliable mean
_PIXELS = {"binary": "pixels are binary", "levels": "pixels have 256 values"}  # `PreprocessConfig.values` in a sentence


class Interrupted(Exception):
    """An evaluation ended early because its `stop()` returned True."""


def make_evaluator(experiment: Experiment, placement: Placement, batch_size: int | None = None) -> Evaluator:
    """Return the evaluations of an experiment's model; experiments with equal models share the compiled programs.

    Args:
      experiment: its model, preprocessing and kind of data are used.
      placement: the devices.
      batch_size: how many examples are evaluated at once; None for that of `memory.evaluation_sizes`.
    """
    size = memory.evaluation_sizes(experiment, placement).batch_size if batch_size is None else batch_size
    return _make_evaluator(experiment.model, experiment.preprocess, experiment.kind, size, placement)


@cache_programs
def _make_evaluator(model: Any, preprocess: Any, kind: str, batch_size: int, placement: Placement) -> Evaluator:
    return Evaluator(model, preprocess, kind, batch_size, placement.batch, placement.compiler_options)


def evaluate_run(
    experiment: Experiment,
    params: Params,
    *,
    split: str,
    placement: Placement | None = None,
    report_progress: Callable[[int, int], None] = lambda done, total: None,
    stop: Callable[[], bool] = lambda: False,
    evaluator: Evaluator | None = None,
    receive: Callable[[dict[str, np.ndarray]], None] = lambda scores: None,
) -> dict[str, Any]:
    """Compute every metric that is defined for a model on a split.

    Args:
      experiment: what was trained.
      params: parameters of the model, or `Variables`.
      split: train, validation, test or all.
      placement: the devices; None for those of the parameters.
      report_progress: called with (examples done, all examples) before and during the estimation of the NLL.
      stop: polled during the same estimation; in a single process also during each batch.
      evaluator: replaces that of `make_evaluator`.
      receive: called with scores {name: [N]} of the examples, see `Evaluator.bound` and the other methods.

    Returns:
      The metrics of `Evaluator.bound`, `Evaluator.likelihood` and, for a model that reads labels, `Evaluator.classes`
      (log-probabilities in nats per example), and:
      `split`, `num_examples`, `batch_size`, `chunk` (if there is an NLL) and the fields of `evaluation_protocol`;
      `likelihood`, the name of the family of p(x|z), None if the model does not state it;
      for images `bits_per_dim`, computed from the metric that `bits_per_dim_of` names, "nll" or "elbo";
      `undefined`: for each metric that is undefined here, the reason; `warnings`: lines about metrics that can mislead.

    Raises:
      Interrupted: `stop()` returned True before the last example.
      NotFiniteError: a metric is not finite; the message lists all of these.
    """
    arrays, key = experiment.dataset(split).arrays, experiment.evaluation_key(split)
    count, placement = len(arrays["x"]), placement or placement_of(params)
    evaluator = evaluator or make_evaluator(experiment, placement)
    result = _describe_evaluation(experiment, split, count, evaluator.batch_size)
    calls, chunk = _likelihood_calls(count, stop, report_progress), memory.evaluation_sizes(experiment, placement).chunk
    with np.errstate(all="ignore"), memory.refuse_lack_of_memory(f"evaluation of the split {split}"):
        result |= evaluator.bound(params, key, arrays, receive=receive)
        if samples := result.get("num_samples", 0):
            report_progress(0, count)
            amounts = {"num_samples": samples, "chunk": chunk}
            result |= evaluator.likelihood(params, key, arrays, **amounts, **calls, receive=receive) | {"chunk": chunk}
        if num_classes(experiment.model) is not None:
            amounts = {"num_samples": result.get("class_samples", 0), "chunk": chunk}
            result |= evaluator.classes(params, key, arrays, **amounts, poll=calls["poll"], receive=receive)
    return _finished(result, experiment, arrays)


def _describe_evaluation(experiment: Experiment, split: str, count: int, batch_size: int) -> dict[str, Any]:
    """Return what is evaluated, and with which settings."""
    name = _likelihood_name(experiment.model)
    what = {"split": split, "num_examples": count, "likelihood": name, "batch_size": batch_size}
    return what | evaluation_protocol(experiment)


def _finished(result: dict[str, Any], experiment: Experiment, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return the results with why metrics are undefined, warnings, and for images bits/dim; refuse infinite ones."""
    result["undefined"] = undefined_metrics(experiment)
    of_result = (*_loose_bound(result), *_heavy_tails(result))
    result["warnings"] = [*of_result, *likelihood_warnings(experiment), *_unknown_labels(experiment, arrays)]
    if experiment.kind == "images":
        _add_bits_per_dim(result, experiment.shape)
    _check_finite(result)  # NumPy has not reported such numbers
    return result


def _likelihood_calls(
    count: int, stop: Callable[[], bool], report_progress: Callable[[int, int], None]
) -> dict[str, Any]:
    """Return the functions that `Evaluator.likelihood` calls after, and in a single process also during each batch."""
    report = functools.partial(_report, total=count, stop=stop, report_progress=report_progress)
    return {"report": report, "poll": functools.partial(_end_if, stop) if multihost.is_single_process() else None}


def _end_if(stop: Callable[[], bool]) -> None:
    """Raise Interrupted if `stop()` returns True."""
    if stop():
        raise Interrupted


def _report(done: int, *, total: int, stop: Callable[[], bool], report_progress: Callable[[int, int], None]) -> None:
    """Report the number of evaluated examples; raise Interrupted before the last one if `stop()` returns True."""
    if stop() and done < total:
        raise Interrupted
    report_progress(done, total)


def _loose_bound(result: dict[str, Any]) -> Iterator[str]:
    """Yield a warning if few of the samples determine the NLL."""
    if "ess" in result and result["ess"] < MIN_EFFECTIVE_SHARE * result["num_samples"]:
        yield (
            f"nll={result['nll']:.2f} is a loose upper bound on -log p(x): the median effective sample size is "
            f"{result['ess']:.1f} of K={result['num_samples']} samples, so a larger evaluation.num_samples lowers it"
        )


def _heavy_tails(result: dict[str, Any]) -> Iterator[str]:
    """Yield a warning if the mean of the importance weights is unreliable for many of the examples."""
    if result.get("pareto_k_above", 0) > MAX_HEAVY_SHARE:
        yield (
            f"pareto_k is above {RELIABLE} for {result['pareto_k_above']:.0%} of the examples: the mean of their "
            "importance weights is unreliable; `vae-jax evaluate RUN --likelihood ais` estimates the NLL with a bound "
            "of its error"
        )


def _unknown_labels(experiment: Experiment, arrays: Mapping[str, np.ndarray]) -> Iterator[str]:
    """Yield a warning if a semi-supervised model is evaluated on examples without a label."""
    if unknown := num_summed_labels(experiment.model, arrays):
        yield (
            f"{unknown:,} of the {len(arrays['x']):,} examples have no label: their elbo and nll are no bounds on "
            "log p(x), because p(x|z) reads the mean embedding under q(y|x); nll_unlabelled is one"
        )


def likelihood_warnings(experiment: Experiment) -> list[str]:
    """Return a warning if p(x|z) is a density although x is binary; it is known before the training.

    Args:
      experiment: its model and preprocessing are used; those that are no registered choices have no warning.
    """
    likelihood: Any = getattr(experiment.model, "likelihood", None)
    preprocess: Any = experiment.preprocess
    values_of = getattr(preprocess, "values_of", None)
    if "reals" not in getattr(likelihood, "scores", ()) or values_of is None or values_of(experiment.kind) != "binary":
        return []
    return [
        f"likelihood={likelihood.name} is a density over {likelihood.support}, but preprocess="
        f"{preprocess.name} makes x binary, so ELBO and NLL are no bounds on a probability and cannot be "
        "compared with those of other models; use likelihood=bernoulli"
    ]


def _likelihood_name(model: Any) -> str | None:
    """Return the name of the family of p(x|z); None if the model does not state it."""
    return getattr(getattr(model, "likelihood", None), "name", None)


def _add_bits_per_dim(result: dict[str, Any], shape: tuple[int, ...]) -> None:
    """Add `bits_per_dim` and the name of the metric that it is computed from, if it is defined."""
    if "bits_per_dim" not in result["undefined"]:
        nats = result.get("nll", -result["elbo"])
        result["bits_per_dim_of"] = "nll" if "nll" in result else "elbo"
        result["bits_per_dim"] = bits_per_dim(nats, shape)


def _check_finite(result: dict[str, Any]) -> None:
    wrong = {name: value for name, value in result.items() if isinstance(value, float) and not math.isfinite(value)}
    if wrong:
        values = ", ".join(f"{name}={value}" for name, value in wrong.items())
        raise NotFiniteError(
            f"the evaluation on the split {result['split']} is not finite: {values}; the model has diverged; lower "
            "optimizer.learning_rate and train it again"
        )


def read_evaluation(
    directory: str | os.PathLike | RunDirectory, step: int | None = None, protocol: Mapping[str, Any] | None = None
) -> dict[str, Any] | None:
    """Read the evaluation.json of a run if it belongs to a step and a protocol.

    Args:
      directory: the run's directory.
      step: the step of the evaluated weights; None accepts every step.
      protocol: the protocol of `evaluation_protocol`; None accepts every protocol.

    Returns:
      The content of the file; None if it cannot be read or belongs to another step or protocol.
    """
    try:
        stored = atomic_files.read_json(RunDirectory(directory).evaluation)
    except (OSError, ValueError):
        return None
    if not isinstance(stored, dict):
        return None
    same = protocol is None or all(stored.get(name) == protocol.get(name) for name in PROTOCOL)
    return stored if step in (None, stored.get("step")) and same else None


def evaluation_protocol(experiment: Experiment) -> dict[str, Any]:
    """Return what the results of `evaluate_run` depend on, apart from the weights.

    Args:
      experiment: the experiment; its examples are not read if a run describes them.

    Returns:
      A value for each name in `PROTOCOL`. `training_examples` is the checksum of the training examples x, and
      `test_examples` that of all arrays of the test examples; it is absent if there are none, or if other data are
      evaluated. `num_samples` is absent if no
      negative log-likelihood is estimated, and 1 if all samples are equal; `class_samples` is absent if it is not
      estimated given each class.
    """
    protocol: dict[str, Any] = {
        "seed": int(experiment.seed),
        "training_examples": experiment.data["arrays"]["x"]["sha256"],
        "preprocess": experiment.description()["preprocess"],
    }
    if "test" in experiment.held_out:
        protocol["test_examples"] = experiment.held_out["test"]["sha256"]
    num_samples, walk = experiment.evaluation.num_samples, memory.trace_walk(experiment)
    amounts = {"num_samples": min(num_samples, 1) if walk.is_certain else num_samples}
    if num_classes(experiment.model) is not None:
        amounts["class_samples"] = experiment.evaluation.class_samples
    return protocol | ({name: n for name, n in amounts.items() if n} if has_density(experiment) else {})


def has_density(experiment: Experiment) -> bool:
    """Return whether the posterior of the model has a density, so that a bound on log p(x) exists; nothing is computed.

    Args:
      experiment: its model is traced with abstract arrays.
    """
    return "kl" in memory.trace_walk(experiment).parts


def undefined_metrics(experiment: Experiment) -> dict[str, str]:
    """Return the metrics that are undefined for a model and its data, each with the reason.

    Args:
      experiment: the experiment.

    Returns:
      {name: reason}. Metrics of other kinds of data, such as the bits per dimension of counts, are not listed.
    """
    images = experiment.kind == "images"
    if not has_density(experiment):
        reason = (
            "a deterministic posterior has no density, so KL, bounds on log p(x) and importance weights do not exist"
        )
        return dict.fromkeys(("kl", "elbo", "nll", *(["bits_per_dim"] if images else [])), reason)
    reason = _not_a_probability_of_pixels(experiment) if images else None
    return {} if reason is None else {"bits_per_dim": reason}


def _not_a_probability_of_pixels(experiment: Experiment) -> str | None:
    """Return why p(x|z) is no probability of the pixels that the model reads; None if it is one."""
    likelihood: Any = getattr(experiment.model, "likelihood", None)
    values_of = getattr(experiment.preprocess, "values_of", None)
    if not hasattr(likelihood, "scores") or values_of is None:
        return "a model or preprocessing that is no registered choice does not state whether p(x|z) is a probability"
    values = values_of(experiment.kind)
    if values in likelihood.scores:
        return None
    family = "density" if "reals" in likelihood.scores else "distribution"
    pixels = _PIXELS.get(values, f"pixels are {values}")
    return f"{likelihood.name} is a {family} over {likelihood.support}, but {pixels}"
