"""Reports as files."""

import os
from collections.abc import Sequence
from pathlib import Path

from vae_jax.errors import InputError
from vae_jax.report import sections
from vae_jax.report.comparison import comparison
from vae_jax.report.contents import RunContents, read_contents
from vae_jax.report.page import page
from vae_jax.runs import RunDirectory
from vae_jax.runtime import atomic_files


def write_report(directory: str | os.PathLike | RunDirectory, path: Path | None = None) -> Path:
    """Write the report of a run: results, curves, figures, protocol, settings, environment, and the command to repeat.

    The file contains all that it shows, and loads nothing. Only this process writes.

    Args:
      directory: the run's directory; the run need not be finished.
      path: the HTML file to write; None for report.html in the directory.

    Returns:
      The path of the file.

    Raises:
      InputError: the directory contains no run.
      StorageError: a file cannot be read, or the report cannot be written.
      CheckpointError: config.json is not the configuration of a run.
    """
    run = read_contents(directory)
    return _write(path or run.directory.report, page(run.name, run.summary, _sections(run)))


def write_comparison(directories: Sequence[str | os.PathLike | RunDirectory], path: Path) -> Path:
    """Write a comparison of several runs: results with significance, curves and samples.

    Args:
      directories: two run directories or more.
      path: the HTML file to write.

    Returns:
      The path of the file.

    Raises:
      InputError: there are fewer than two directories, or one contains no run.
      StorageError: a file cannot be read, or the comparison cannot be written.
      CheckpointError: a config.json is not the configuration of a run.
    """
    if len(directories) < 2:
        raise InputError(f"a comparison of {len(directories)} run(s) is not possible; pass two run directories or more")
    runs = [read_contents(directory) for directory in directories]
    names = ", ".join(run.name for run in runs)
    return _write(path, page(f"Comparison of {len(runs)} runs", names, comparison(runs)))


def _write(path: Path, text: str) -> Path:
    atomic_files.write_file_locally(path, lambda file: file.write(text.encode()))
    return path


def _sections(run: RunContents) -> list[str]:
    return [
        sections.headline(run.evaluation, run.scores) if run.evaluation else sections.not_evaluated(run),
        sections.curves(run.rows),
        sections.figures(run.figures),
        sections.protocol(run.evaluation),
        sections.annealed(run.evaluation),
        sections.inference_gap(run.evaluation),
        sections.data(run),
        sections.settings(run),
        sections.environment(run),
        sections.repeat(run),
    ]
