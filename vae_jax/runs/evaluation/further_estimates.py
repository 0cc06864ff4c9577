"""Estimates in evaluation.json that a command adds to those of the evaluation of a run, each a list of results."""

from collections.abc import Mapping
from typing import Any

from vae_jax.runs.evaluation.evaluation import read_evaluation
from vae_jax.runs.storage.directory import RunDirectory

# name in evaluation.json: the protocol of a result, by which another one replaces it; the list is sorted by the first
_PROTOCOLS = {
    "ais": ("num_distributions", "num_examples", "split", "start", "num_chains", "num_leapfrog", "num_simulated"),
    "optimized": ("num_steps", "num_examples", "split", "learning_rate", "num_samples", "evaluation_samples"),
}


def merge_estimate(evaluation: Mapping[str, Any], name: str, result: Mapping[str, Any]) -> dict[str, Any]:
    """Return an evaluation with one more result in a list, which replaces that of the same protocol.

    Args:
      evaluation: the content of evaluation.json.
      name: of the list: "ais" or "optimized".
      result: the result of `evaluate_annealed` or `evaluate_inference_gap`.
    """

    def protocol(entry: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(entry.get(key) for key in _PROTOCOLS[name])

    entries = [entry for entry in evaluation.get(name, ()) if protocol(entry) != protocol(result)]
    return {**evaluation, name: sorted([*entries, dict(result)], key=lambda entry: protocol(entry)[0])}


def further_estimates(directory: RunDirectory, step: int) -> dict[str, Any]:
    """Return the lists of these results in evaluation.json of a step, which another evaluation of it keeps."""
    stored = read_evaluation(directory, step) or {}
    return {name: stored[name] for name in _PROTOCOLS if name in stored}
