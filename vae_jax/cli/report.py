"""`vae-jax report RUN [RUN2 ...]`: the report of a run, or the comparison of several, as one HTML file."""

import dataclasses
import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vae_jax.cli.commands import register_command
from vae_jax.cli.output import output_folder
from vae_jax.cli.parsing import OutputOptions, parse
from vae_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Report(OutputOptions):
    """Write report.html of a run: results, curves, figures, protocol, settings, versions; the file loads nothing.

    Of several runs: comparison.html in the folder that contains them, with differences that are paired over the test
    examples, and standard deviations over seeds.
    """


@register_command("report", "one HTML file about a run, or that compares several", arguments="RUN ...", order=58)
def run(argv: Sequence[str]) -> dict[str, Any]:
    """Write the report; return its path."""
    words = list(itertools.takewhile(lambda word: not word.startswith("-"), argv))
    options = parse("report RUN", Report, argv[len(words) :], Report())
    directories = list({path.resolve(): path for path in map(Path, words)}.values())  # each run once
    if not directories:
        raise InputError("report: no run directory; use `vae-jax report RUN`")
    from vae_jax.report import write_comparison, write_report
    from vae_jax.runs import RunDirectory

    if len(directories) == 1:
        folder = output_folder(options, RunDirectory(directories[0]))
        return {"workdir": str(directories[0]), "report": str(write_report(directories[0], folder.report))}
    parent = RunDirectory(os.path.commonpath([directory.resolve() for directory in directories]))
    path = write_comparison(directories, output_folder(options, parent).path / "comparison.html")
    return {"workdirs": [str(directory) for directory in directories], "report": str(path)}
