"""Cells of a table of trained models: the seeds of a cell are trained in one program, evaluated, and summarized.

A cell is a config and a directory, which has a run directory `seed=N` for each seed, or `SETTING=N` of another number
that the members of one program may differ in. Both its training and its table are resumable: what a directory contains
is not computed again.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from timing import TrainingTimer, device_description

from vae_jax.config import Config, override
from vae_jax.runs import Interrupted, evaluate_members, fit_group, make_members, mean_and_sd, read_evaluation
from vae_jax.runtime import atomic_files, signals

Rows = list[dict[str, Any]]


class Planned(NamedTuple):
    """A cell that a command trains: a description for stderr, the directory, and the settings except for the seed."""

    description: str
    directory: Path
    config: Config


def run_table(
    planned: Sequence[Planned], seeds: int, write: Callable[[], tuple[Rows, str]], *, varied: str = "seed"
) -> dict[str, Any]:
    """Train and evaluate cells one after another, until SIGTERM or SIGINT.

    Args:
      planned: the cells, one or more.
      seeds: the number of seeds 0, 1, ... of each cell.
      write: called after each cell; writes the table of all results on disk, and returns its rows and its text.
      varied: the setting that has the values 0, 1, ... instead of the seed.

    Returns:
      `status`, "done" or "interrupted"; `failures`, {directory: reason}; and `rows`.
    """
    failures, rows, text, status = {}, [], "", "done"
    with signals.stop_on_signals() as stop:
        for i, cell in enumerate(planned, start=1):
            print(f"cell {i} of {len(planned)}: {cell.description}", file=sys.stderr)
            failed = run_cell(cell.config, cell.directory, seeds, stop=stop, varied=varied)
            failures |= {str(cell.directory): reason for reason in failed}
            rows, text = write()
            if stop():
                print("interrupted, saved; the same command resumes", file=sys.stderr)
                status = "interrupted"
                break
    print(text, file=sys.stderr)
    return {"status": status, "failures": failures, "rows": rows}


def run_cell(
    config: Config, directory: Path, seeds: int, *, stop: Callable[[], bool], varied: str = "seed"
) -> list[str]:
    """Train and evaluate the unfinished seeds of a cell until `stop()` is true; return the reasons of failures."""
    unfinished = [seed for seed in range(seeds) if not _is_finished(directory / f"{varied}={seed}", config)]
    if not unfinished:
        return []
    batch_size, most = config.train.batch_size, len(jax.devices())
    devices = max(n for n in range(1, most + 1) if len(unfinished) % n == batch_size % n == 0)
    group = make_members(override(config, mesh__data=devices), {varied: unfinished})
    of_seeds = f"of-seeds={','.join(map(str, unfinished))}.json"
    timer = TrainingTimer(directory / f"clock-{of_seeds}", stop)
    trained = fit_group(group, directory, stop=timer)
    timer.write()
    start = time.perf_counter()
    try:
        results = evaluate_members(trained, stop=stop) if trained else []
    except Interrupted:
        return []
    if trained:
        seconds = {"seconds": time.perf_counter() - start, "device": device_description()}
        atomic_files.write_json(directory / f"evaluation-clock-{of_seeds}", seconds)
    return [result["failure"] for result in results if "failure" in result]


def _is_finished(directory: Path, config: Config) -> bool:
    """Return whether a run has its last step and an evaluation with the numbers of samples of a config."""
    evaluation = read_evaluation(directory, config.train.steps)
    if evaluation is None:
        return False
    wanted = config.evaluation
    same_of_classes = evaluation.get("class_samples", wanted.class_samples) == wanted.class_samples
    return evaluation.get("num_samples") == wanted.num_samples and same_of_classes


def member_directories(directory: Path, varied: str = "seed") -> list[Path]:
    """Return the directories of the runs of a cell, in the order of their seeds; arguments as for `summarize_cell`."""
    return sorted(directory.glob(f"{varied}=*"), key=lambda path: int(path.name.partition("=")[2]))


def summarize_cell(
    directory: Path, steps: int, *, varied: str = "seed", metrics: Sequence[str] = ("nll", "elbo", "kl")
) -> dict[str, Any]:
    """Return the numbers of a cell's evaluated seeds: means over seeds, and the seconds of all of them.

    Args:
      directory: the cell's directory.
      steps: the number of steps of a finished run; evaluations of other steps are not used.
      varied: as for `run_table`.
      metrics: the metrics that are summarized; one that the evaluations do not contain is left out.

    Returns:
      `seeds`, 0 if no seed is evaluated; then nothing else. Of several numbers of samples, the evaluations with the
      largest one are summarized. Each metric, {"mean", "sd"}; `nll_se`, the largest standard error over the test
      examples; `num_samples`; `active_units`, for each seed the number in each layer; `seconds` of training and
      `evaluation_seconds`, summed over seeds; `device`.
    """
    paths = member_directories(directory, varied)
    evaluations = [result for path in paths if (result := read_evaluation(path, steps)) is not None]
    if not evaluations:
        return {"seeds": 0}
    samples = max(map(_numbers_of_samples, evaluations))  # other evaluations are no other seeds of the same number
    evaluations = [result for result in evaluations if _numbers_of_samples(result) == samples]
    training, evaluation = (
        [json.loads(path.read_text()) for path in sorted(directory.glob(f"{clock}-of-seeds=*.json"))]
        for clock in ("clock", "evaluation-clock")
    )
    return {
        "seeds": len(evaluations),
        **{
            name: mean_and_sd([result[name] for result in evaluations])
            for name in metrics
            if all(name in result for result in evaluations)
        },
        "nll_se": max(result["nll_se"] for result in evaluations),
        "num_samples": evaluations[0]["num_samples"],
        "active_units": [result.get("active_units_by_layer", [result["active_units"]]) for result in evaluations],
        "seconds": sum(time["seconds"] for time in training),
        "evaluation_seconds": sum(time["seconds"] for time in evaluation),
        "device": "; ".join(dict.fromkeys(time["device"] for time in training)),
    }


def _numbers_of_samples(evaluation: dict[str, Any]) -> tuple[int, int]:
    return evaluation.get("num_samples", 0), evaluation.get("class_samples", 0)


def number(mean: float | None, sd: float | None = None) -> str:
    """Return a mean and, if there is one, its standard deviation as text of a table; "" without a mean."""
    return "" if mean is None else f"{mean:.2f}" + ("" if sd is None else f" ± {sd:.2f}")


def mean_active_units(row: dict[str, Any]) -> str:
    """Return the active units of each layer, means over seeds, as text of a table."""
    return "+".join(f"{np.mean(layer):.3g}" for layer in zip(*row["active_units"], strict=True))


def markdown_table(titles: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """Return the lines of a Markdown table."""
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    return lines + [f"| {' | '.join(map(str, row))} |" for row in rows]


def write_table(output: Path, rows: Rows, text: str) -> None:
    """Write table.json and table.md."""
    atomic_files.write_json(output / "table.json", rows)
    atomic_files.write_file(output / "table.md", lambda file: file.write(text.encode()))
