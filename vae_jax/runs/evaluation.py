"""Evaluation of a run's model on one split: all metrics, their protocol, and the metrics that are undefined."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vae_jax.config import Config
from vae_jax.errors import NotFiniteError
from vae_jax.inference import Params
from vae_jax.runs.run import Run, evaluation_key
from vae_jax.runtime import defaults
from vae_jax.training import Evaluator, bits_per_dim

EVALUATION_FILE = "evaluation.json"
# What the results of `evaluate_run` depend on, apart from the weights.
PROTOCOL = ("seed", "training_images", "binarization", "batch_size", "num_samples", "chunk")


class Interrupted(Exception):
    """An evaluation ended early because its `stop()` returned True."""


def evaluate_run(
    run: Run,
    params: Params,
    *,
    split: str,
    report_progress: Callable[[int, int], None] = lambda done, total: None,
    stop: Callable[[], bool] = lambda: False,
    evaluator: Evaluator | None = None,
) -> dict[str, Any]:
    """Compute every metric that is defined for a model on a split.

    Args:
      run: the run whose data, settings and mesh are used.
      params: the model's parameters.
      split: train, validation or test.
      report_progress: called with (images done, all images) during the estimation of the negative log-likelihood.
      stop: polled during the same estimation.
      evaluator: replaces `run.evaluator()`. Runs with the same model can share one, and its compiled programs.

    Returns:
      The metrics of `Evaluator.bound` and `Evaluator.likelihood` (log-probabilities in nats per example), and:
      `split`, `num_examples`, `likelihood` and the fields of `evaluation_protocol`;
      `bits_per_dim`, computed from the metric that `bits_per_dim_of` names: "nll", or "elbo" if there is no NLL;
      `undefined`: for each metric that is undefined for this model and data, the reason.

    Raises:
      Interrupted: `stop()` returned True before the last image.
      NotFiniteError: a metric is not finite; the message lists all of these.
    """
    images = run.images(split)
    key, evaluator = evaluation_key(run, split), evaluator or run.evaluator()
    likelihood, protocol = run.config.model.likelihood, evaluation_protocol(run)
    result: dict[str, Any] = {"split": split, "num_examples": len(images), "likelihood": likelihood, **protocol}
    with np.errstate(all="ignore"):  # the error below reports what is not finite
        result |= evaluator.bound(params, key, images)
        if "num_samples" in protocol:

            def report(done: int) -> None:
                if stop() and done < len(images):
                    raise Interrupted
                report_progress(done, len(images))

            amounts = {name: protocol[name] for name in ("num_samples", "chunk")}
            result |= evaluator.likelihood(params, key, images, **amounts, report=report)
    result["undefined"] = undefined_numbers(run.config)
    if "bits_per_dim" not in result["undefined"]:
        result["bits_per_dim_of"] = "nll" if "nll" in result else "elbo"
        result["bits_per_dim"] = bits_per_dim(result.get("nll", -result["elbo"]), run.image_shape)
    _check_finite(result, run)
    return result


def _check_finite(result: dict[str, Any], run: Run) -> None:
    wrong = {name: value for name, value in result.items() if isinstance(value, float) and not math.isfinite(value)}
    if wrong:
        values = ", ".join(f"{name}={value}" for name, value in wrong.items())
        raise NotFiniteError(
            f"the evaluation on the split {result['split']} is not finite: {values}; {run.directory} has diverged"
        )


def read_evaluation(directory: Path, step: int, protocol: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
    """Read the evaluation.json of a run if it belongs to a step and a protocol.

    Args:
      directory: the run's directory.
      step: the step of the evaluated weights.
      protocol: the protocol of `evaluation_protocol`; None accepts every protocol.

    Returns:
      The content of the file; None if it cannot be read or belongs to another step or protocol.
    """
    try:
        stored = json.loads((directory / EVALUATION_FILE).read_text())
    except (OSError, ValueError):
        return None
    same = protocol is None or all(stored.get(name) == protocol.get(name) for name in PROTOCOL)
    return stored if stored.get("step") == step and same else None


def evaluation_protocol(run: Run) -> dict[str, Any]:
    """Return what the results of `evaluate_run` depend on, apart from the weights.

    Args:
      run: the run.

    Returns:
      A value for each name in `PROTOCOL`. `training_images` is the fingerprint of the training images; it represents
      the test images too, because both come from the same source. `num_samples` and `chunk` are absent if no negative
      log-likelihood is estimated.
    """
    config, settings = run.config, run.config.evaluation
    protocol: dict[str, Any] = {
        "seed": config.seed,
        "training_images": run.data["fingerprint"],
        "binarization": config.data.binarization,
        "batch_size": settings.batch_size,
    }
    if config.model.posterior != "deterministic" and settings.num_samples:
        protocol |= {"num_samples": settings.num_samples, "chunk": defaults.evaluation_chunk(settings.chunk)}
    return protocol


def undefined_numbers(config: Config) -> dict[str, str]:
    """Return the metrics that are undefined for a model and its data, each with the reason."""
    model = config.model
    undefined: dict[str, str] = {}
    if model.posterior == "deterministic":
        reason = (
            "a deterministic posterior has no density, so KL, bounds on log p(x) and importance weights do not exist"
        )
        undefined |= dict.fromkeys(("kl", "elbo", "nll", "bits_per_dim"), reason)
    elif model.likelihood in ("gaussian", "learned-gaussian"):
        undefined["bits_per_dim"] = f"{model.likelihood} is a density over real numbers, but pixels have 256 values"
    elif model.likelihood == "bernoulli" and config.data.binarization == "none":
        undefined["bits_per_dim"] = "bernoulli is a distribution over binary pixels, but these pixels are intensities"
    return undefined
