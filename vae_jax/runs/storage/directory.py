"""The files of a run, by name; the directory alone is enough to resume or evaluate a run that a config describes."""

import dataclasses
import os
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class RunDirectory:
    """The paths of the files of a run.

    Attributes:
      path: the directory, runs/NAME for example. It need not exist.
      variant: the end of the names of figures that show anything but the test examples and the model's own samples;
        "" for the run's own figures.
    """

    path: Path
    variant: str = ""

    def __init__(self, path: "str | os.PathLike | RunDirectory", variant: str | None = None):
        is_directory = isinstance(path, RunDirectory)
        if variant is None:
            variant = path.variant if is_directory else ""
        object.__setattr__(self, "path", path.path if is_directory else Path(path))
        object.__setattr__(self, "variant", variant)

    def __str__(self) -> str:
        return str(self.path)

    @property
    def config(self) -> Path:
        """The settings, the description of the training data, and recorded changes."""
        return self.path / "config.json"

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints, checkpoints/STEP/."""
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        """The metrics of training and validation, one JSON object per line."""
        return self.path / "metrics.jsonl"

    @property
    def evaluation(self) -> Path:
        """The result of the evaluation of the last step."""
        return self.path / "evaluation.json"

    @property
    def environment(self) -> Path:
        """The versions and devices of the last start that has trained."""
        return self.path / "environment.json"

    @property
    def report(self) -> Path:
        """The report of the run, one HTML file."""
        return self.path / "report.html"

    @property
    def fitted_prior(self) -> Path:
        """The folder of the density that is fitted to the codes."""
        return self.path / "fitted_prior"

    @property
    def failure(self) -> Path:
        """Why a member of a sweep has diverged; it is absent otherwise."""
        return self.path / "failure.json"

    @property
    def figures(self) -> Path:
        """The folder of the figures."""
        return self.path / "figures"

    def figure(self, name: str) -> Path:
        """Return the path of a figure, figures/NAME.png or figures/NAME-VARIANT.png."""
        return self.figures / f"{name}{self.variant and '-'}{self.variant}.png"

    def scores(self, label: str) -> Path:
        """Return the path of the scores of each example of a split, scores-LABEL.npz."""
        return self.path / f"scores-{label}.npz"

    def member(self, name: str) -> "RunDirectory":
        """Return the directory of a member of a sweep, a subdirectory."""
        return RunDirectory(self.path / name)
