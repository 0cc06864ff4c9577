"""runs.sweep_summary."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from vae_jax.errors import NotFiniteError
from vae_jax.runs import evaluation
from vae_jax.runs.members import Member
from vae_jax.runs.sweep import Trained
from vae_jax.runtime import atomic_files


def evaluate_members(
    trained: Sequence[Trained], *, split: str = "test", stop: Callable[[], bool] = lambda: False
) -> list[dict[str, Any]]:
    """The evaluation of each member, left in its directory too; `failure` in place of numbers where it diverged.

    Members of one group share their compiled evaluations, whatever their numbers. Raises Interrupted where `stop()`
    comes true before the end.
    """
    share: dict[tuple, Any] = {}
    results = []
    for run, params, failure in trained:
        if failure is not None:
            results.append({"failure": failure})
            continue
        if stop():
            raise evaluation.Interrupted
        key = (run.model, run.config.evaluation, run.config.data.binarization)
        evaluator = share.setdefault(key, run.evaluator())
        try:
            found = evaluation.evaluate_run(run, params, split=split, evaluator=evaluator, stop=stop)
        except NotFiniteError as error:  # finite weights may have a bound that is not
            results.append({"failure": str(error)})
            continue
        atomic_files.write_json(run.directory / evaluation.EVALUATION_FILE, {"step": run.config.train.steps, **found})
        results.append(found)
    return results


SUMMARISED = ("elbo", "reconstruction", "kl", "nll", "bits_per_dim", "squared_error", "active_units")


def summarize(sweep: Sequence[Member], results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For each setting but the seed: {"varied", "members", name: {"mean", "sd"}}, over the members with that number.

    The sd is that between seeds (divisor n - 1), None for a single one. Members that diverged are counted apart, in
    "failed" where there are any.
    """
    rows: dict[str, dict[str, Any]] = {}
    for member, result in zip(sweep, results, strict=True):
        varied = {path: value for path, value in member.varied.items() if path != "seed"}
        rows.setdefault(repr(varied), {"varied": varied, "found": []})["found"].append(result)
    summary = []
    for row in rows.values():
        numbers = {name: [r[name] for r in row["found"] if name in r] for name in SUMMARISED}
        failed = sum("failure" in result for result in row["found"])
        summary.append(
            {"varied": row["varied"], "members": len(row["found"]) - failed}
            | ({"failed": failed} if failed else {})
            | {name: mean_and_sd(values) for name, values in numbers.items() if values}
        )
    return summary


def mean_and_sd(values: Sequence[float]) -> dict[str, float | None]:
    """{"mean", "sd"} of numbers over seeds; the sd has divisor n - 1 and is None for a single one."""
    return {"mean": float(np.mean(values)), "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None}


def markdown_table(summary: Sequence[Mapping[str, Any]]) -> str:
    """The summary as a table: mean ± sd over the seeds that did not diverge, in nats."""
    names = [name for name in SUMMARISED if any(name in row for row in summary)]
    counts = ["members", *(["failed"] if any("failed" in row for row in summary) else [])]
    titles = [*summary[0]["varied"], *counts, *names]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for row in summary:
        cells = [str(value) for value in (*row["varied"].values(), *(row.get(count, 0) for count in counts))]
        cells += [_cell(row.get(name)) if row["members"] else "diverged" for name in names]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(value: Mapping[str, float | None] | None) -> str:
    if value is None:
        return "does not exist"
    return f"{value['mean']:.2f}" + ("" if value["sd"] is None else f" ± {value['sd']:.2f}")
