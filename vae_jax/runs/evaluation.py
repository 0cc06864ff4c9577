"""What is said of a run's model: every number that exists for it, by which protocol, and which numbers do not exist."""

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
# What the numbers of `evaluate` depend on beside the weights.
PROTOCOL = ("seed", "training_images", "binarization", "batch_size", "num_samples", "chunk")


class Interrupted(Exception):
    """An evaluation was asked to stop before its end."""


def evaluate_run(
    run: Run,
    params: Params,
    *,
    split: str,
    report_progress: Callable[[int, int], None] = lambda done, total: None,
    stop: Callable[[], bool] = lambda: False,
    evaluator: Evaluator | None = None,
) -> dict[str, Any]:
    """Every number that exists for this model on a split, each with its protocol; see vae_jax.evaluation.

    `report_progress` receives how many of how many images the NLL has been through; Interrupted is raised if `stop()` is true then.
    `evaluator` is `run.evaluator()` unless given: runs with the same model can share what is compiled for them.
    `bits_per_dim` are those of the NLL, or of the ELBO where there is no NLL, as `bits_per_dim_of` says.
    `undefined` says of those that do not exist why. Raises NotFiniteError that names the numbers that are not finite.
    """
    images = run.images(split)
    key, evaluator = evaluation_key(run, split), evaluator or run.evaluator()
    result: dict[str, Any] = {
        "split": split,
        "num_examples": len(images),
        "likelihood": run.config.model.likelihood,
    } | (protocol := evaluation_protocol(run))
    with np.errstate(all="ignore"):  # said below, once
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
    found = {name: value for name, value in result.items() if isinstance(value, float) and not math.isfinite(value)}
    if found:
        told = ", ".join(f"{name} {value}" for name, value in found.items())
        raise NotFiniteError(f"the evaluation on the split {split} is not finite: {told}; {run.directory} has diverged")
    return result


def read_evaluation(directory: Path, step: int, protocol: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
    """What evaluation.json in a run's directory says, if it can be read and is of this step; else None.

    None, too, where it was made by another `evaluation_protocol` than the one that is asked for.
    """
    try:
        found = json.loads((directory / EVALUATION_FILE).read_text())
    except (OSError, ValueError):
        return None
    same = protocol is None or all(found.get(name) == protocol.get(name) for name in PROTOCOL)
    return found if found.get("step") == step and same else None


def evaluation_protocol(run: Run) -> dict[str, Any]:
    """The values of the names in `PROTOCOL`, as `evaluate` tells them.

    `training_images` is their fingerprint, which changes where the test images do: both are of one source. There is no
    `num_samples`, and no `chunk`, where there is no NLL.
    """
    config, settings = run.config, run.config.evaluation
    found: dict[str, Any] = {
        "seed": config.seed,
        "training_images": run.data["fingerprint"],
        "binarization": config.data.binarization,
        "batch_size": settings.batch_size,
    }
    if config.model.posterior != "deterministic" and settings.num_samples:
        found |= {"num_samples": settings.num_samples, "chunk": defaults.evaluation_chunk(settings.chunk)}
    return found


def undefined_numbers(config: Config) -> dict[str, str]:
    """The numbers of an evaluation that do not exist for this model and data, and why: name -> reason."""
    model, found = config.model, {}
    if model.posterior == "deterministic":
        reason = "the code is a point: it has no density, hence no KL, no bound on log p(x) and no importance weights"
        found = dict.fromkeys(("kl", "elbo", "nll", "bits_per_dim"), reason)
    elif model.likelihood in ("gaussian", "learned-gaussian"):
        found["bits_per_dim"] = f"{model.likelihood} is a density over real numbers, and pixels have 256 values"
    elif model.likelihood == "bernoulli" and config.data.binarization == "none":
        found["bits_per_dim"] = "the Bernoulli is a probability of binary pixels, and these are intensities"
    return found
