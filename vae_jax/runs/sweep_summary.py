"""The evaluation of a sweep's members, and its summary over seeds as numbers and as a table."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from vae_jax.errors import NotFiniteError
from vae_jax.runs.evaluation import evaluation
from vae_jax.runs.evaluation.further_estimates import further_estimates
from vae_jax.runs.evaluation.scores import write_scores
from vae_jax.runs.evaluation.written_results import lock_results, write_evaluation
from vae_jax.runs.members import Member
from vae_jax.runs.sweep import Trained

SUMMARY_METRICS = (
    "elbo", "reconstruction", "kl", "nll", "nll_unlabelled", "bits_per_dim", "squared_error", "active_units",
    "code_perplexity", "code_usage", "bits_per_code", "classifier_error", "generative_error",
)  # fmt: skip
# Of metrics whose values are small; others have two digits.
DIGITS = {"bits_per_dim": 3, "code_usage": 4, "classifier_error": 4, "generative_error": 4}


def evaluate_members(
    trained: Sequence[Trained], *, split: str = "test", stop: Callable[[], bool] = lambda: False
) -> list[dict[str, Any]]:
    """Evaluate each member, and write its evaluation.json and scores-SPLIT.npz.

    The files of a member that another process has trained further are not written; its `warnings` state it.

    Members with equal models and evaluation settings share the compiled programs.

    Args:
      trained: the members.
      split: train, validation or test.
      stop: polled before each member and during its evaluation.

    Returns:
      For each member the result of `evaluate_run`, or {"failure": reason} if the member diverged.

    Raises:
      Interrupted: `stop()` returned True before the last example.
      LockedError: another process trains one of the members.
    """
    results = []
    for experiment, directory, params, failure in trained:
        if failure is not None:
            results.append({"failure": failure})
            continue
        if stop():
            raise evaluation.Interrupted
        scores, step = dict[str, np.ndarray](), experiment.training.steps
        with lock_results(directory, step) as refusal:
            try:
                result = evaluation.evaluate_run(experiment, params, split=split, stop=stop, receive=scores.update)
            except NotFiniteError as error:  # the bound can overflow although the parameters are finite
                results.append({"failure": f"{directory}: {error}"})
                continue
            if refusal:
                result["warnings"].append(refusal)
            else:
                write_scores(directory.scores(split), scores, experiment.dataset(split))
                write_evaluation(directory, {"step": step, **result, **further_estimates(directory, step)})
        results.append(result)
    return results


def summarize(sweep: Sequence[Member], results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return mean and standard deviation over seeds of each metric.

    Args:
      sweep: the members.
      results: the result of `evaluate_members` for each member.

    Returns:
      A dictionary for each combination of varied settings other than the seed: "varied" (setting -> value), "members"
      (number of members that did not diverge), "failed" (number of those that diverged; absent if zero), and for each
      metric that a member has, the result of `mean_and_sd`.
    """
    groups: dict[str, tuple[dict[str, Any], list[Mapping[str, Any]]]] = {}
    for member, result in zip(sweep, results, strict=True):
        varied = {path: value for path, value in member.varied.items() if path != "seed"}
        groups.setdefault(repr(varied), (varied, []))[1].append(result)
    summary = []
    for varied, found in groups.values():
        numbers = {name: [result[name] for result in found if name in result] for name in SUMMARY_METRICS}
        failed = sum("failure" in result for result in found)
        summary.append(
            {"varied": varied, "members": len(found) - failed}
            | ({"failed": failed} if failed else {})
            | {name: mean_and_sd(values) for name, values in numbers.items() if values}
        )
    return summary


def mean_and_sd(values: Sequence[float]) -> dict[str, float | None]:
    """Return {"mean": ..., "sd": ...}.

    Args:
      values: one number for each seed.

    Returns:
      The standard deviation has the divisor n - 1; it is None for a single value.
    """
    return {"mean": float(np.mean(values)), "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None}


def markdown_table(summary: Sequence[Mapping[str, Any]]) -> str:
    """Return a summary as a Markdown table.

    Args:
      summary: the summary of `summarize`.

    Returns:
      One line for each combination of settings; a cell is mean ± standard deviation over the seeds that did not
      diverge. Bounds, reconstruction, KL and NLL are in nats per example.
    """
    names = [name for name in SUMMARY_METRICS if any(name in row for row in summary)]
    counts = ["members", *(["failed"] if any("failed" in row for row in summary) else [])]
    titles = [*summary[0]["varied"], *counts, *names]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for row in summary:
        cells = [str(value) for value in (*row["varied"].values(), *(row.get(count, 0) for count in counts))]
        cells += [_cell(name, row.get(name)) if row["members"] else "diverged" for name in names]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(name: str, value: Mapping[str, float | None] | None) -> str:
    if value is None:
        return "does not exist"
    digits = DIGITS.get(name, 2)
    return f"{value['mean']:.{digits}f}" + ("" if value["sd"] is None else f" ± {value['sd']:.{digits}f}")
