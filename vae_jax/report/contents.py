"""What the files of a run contain, read for its report; the model is not needed."""

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vae_jax.config import Config, from_flat
from vae_jax.errors import InputError
from vae_jax.runs import (
    RunDirectory,
    StoredRun,
    read_evaluation,
    read_failure,
    read_metrics,
    read_scores,
    read_stored_run,
)
from vae_jax.runtime import atomic_files


class RunContents(NamedTuple):
    """The files of a run.

    Attributes:
      directory: their directory.
      stored: its settings and data.
      rows: the rows of metrics.jsonl.
      evaluation: evaluation.json; {} if the run is not finished, or if it is that of another step than the last row.
      scores: {name: [N]}, the scores of the test examples of that evaluation; {} if they are unknown.
      environment: environment.json; {} without one.
      figures: the paths of the figures.
      failure: why this member of a sweep diverged; None if it did not.
    """

    directory: RunDirectory
    stored: StoredRun
    rows: list[dict[str, Any]]
    evaluation: dict[str, Any]
    scores: dict[str, np.ndarray]
    environment: dict[str, Any]
    figures: list[Path]
    failure: str | None

    @property
    def name(self) -> str:
        """The name of the run, that of its directory."""
        return self.directory.path.resolve().name

    @property
    def step(self) -> int:
        """The last step of its metrics."""
        return self.rows[-1]["step"] if self.rows else 0

    @property
    def why_not_evaluated(self) -> str:
        """Why the run has no evaluation, as a sentence."""
        if self.failure is not None:
            return f"The training has diverged: {self.failure.rstrip('.')}."
        return "It is not finished; the command that started it resumes it."

    @property
    def summary(self) -> str:
        """What is trained on what, in one line."""
        words = [f"{self.stored.settings.get('data.name', 'data of a script')}, {self.stored.data['kind']}"]
        if self.stored.has_config:
            config = from_flat(self.stored.settings)
            words += [model_name(config), f"objective {config.objective.name}", f"seed {config.seed}"]
        return " · ".join([*words, f"step {self.step:,}"])


def model_name(config: Config) -> str:
    """Return the names of the model and of the parts that it uses, such as "vae (mlp, gaussian, ...)"."""
    parts = [getattr(config, section).name for section in config.model.parts]
    return f"{config.model.name} ({', '.join(parts)})" if parts else config.model.name


def read_contents(directory: str | os.PathLike | RunDirectory) -> RunContents:
    """Read the files of a run.

    Args:
      directory: the run's directory.

    Raises:
      InputError: the directory contains no run.
      StorageError: a file cannot be read.
      CheckpointError: config.json is not the configuration of a run.
    """
    directory = RunDirectory(directory)
    stored = read_stored_run(directory)
    if stored is None:
        raise InputError(
            f"{directory} contains no run ({directory.config.name} is missing); `vae-jax train --workdir DIRECTORY` "
            "creates one"
        )
    rows = read_metrics(directory.metrics) if directory.metrics.exists() else []
    evaluation = read_evaluation(directory, rows[-1]["step"] if rows else None) or {}
    figures = sorted(directory.figures.glob("*.png"))
    return RunContents(
        directory,
        stored,
        rows,
        evaluation,
        _scores_of(directory, evaluation),
        _environment(directory),
        figures,
        read_failure(directory),
    )


def _environment(directory: RunDirectory) -> dict[str, Any]:
    try:
        content = atomic_files.read_json(directory.environment)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _scores_of(directory: RunDirectory, evaluation: dict[str, Any]) -> dict[str, np.ndarray]:
    """Return the scores of the examples if their means are those of the evaluation, so that they belong to it."""
    scores = read_scores(directory.scores(evaluation.get("split", "test")))
    known = [name for name in ("reconstruction", "elbo", "nll") if name in evaluation]
    belongs = all(
        name in scores and np.isclose(scores[name].mean(dtype=np.float64), evaluation[name], rtol=1e-5, atol=0)
        for name in known
    )
    return scores if known and belongs else {}
