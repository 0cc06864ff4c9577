"""The comparison of several runs: means over seeds, and differences that are paired over the test examples."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vae_jax.config import resumable_settings
from vae_jax.report.charts import line_chart
from vae_jax.report.contents import RunContents
from vae_jax.report.markup import element, escape, note, number, section, table, with_error
from vae_jax.report.sections import picture
from vae_jax.runs import mean_and_sd, metric_panels

METRICS = {"nll": "NLL", "elbo": "ELBO", "reconstruction": "Reconstruction"}  # the first that all runs have
_AFFECTS_RESULTS = {
    "train.steps",
    "train.patience",
    "evaluation.num_samples",
}  # although a run may change them when it resumes
_OTHERS = {"elbo": ("ELBO", 2), "kl": ("KL", 2), "bits_per_dim": ("bits/dim", 3), "active_units": ("Active units", 1)}


class Difference(NamedTuple):
    """The mean difference of two models over the same examples.

    Attributes:
      mean: the mean of a − b, in the unit of the scores.
      error: its standard error.
      p: the two-sided p-value of a mean of zero, by the normal distribution.
    """

    mean: float
    error: float
    p: float


class Group(NamedTuple):
    """Runs with equal settings and test examples apart from the seed.

    Attributes:
      label: the settings in which the groups differ, or the name of the run.
      runs: the runs, one for each seed.
      repeated: further runs, with the seed of one of `runs`.
    """

    label: str
    runs: list[RunContents]
    repeated: list[RunContents]


def paired_difference(a: np.ndarray, b: np.ndarray) -> Difference:
    """Return the mean of a − b over examples, with the standard error sd(a − b) / √N and the p-value erfc(|z| / √2).

    Variation that both models share, such as that of difficult examples, is not part of the error. The p-value is that
    of a normal distribution, so N should be 30 or more.

    Args:
      a: scores of one model, [N] with N > 1.
      b: scores of another model on the same examples, [N].

    Raises:
      ValueError: the shapes differ, or there are fewer than two examples.
    """
    if a.shape != b.shape or a.ndim != 1 or len(a) < 2:
        raise ValueError(f"scores have shapes {a.shape} and {b.shape}; pass two arrays [N] with N > 1")
    difference = np.asarray(a, np.float64) - b
    mean, error = float(difference.mean()), float(difference.std(ddof=1) / math.sqrt(len(difference)))
    return Difference(mean, error, math.erfc(abs(mean) / error / math.sqrt(2)) if error else float(mean == 0))


def group_runs(runs: Sequence[RunContents]) -> list[Group]:
    """Return runs in groups of equal settings and test examples, apart from the seed and what changes no result.

    Args:
      runs: the runs.

    Returns:
      The groups, in the order of their first runs.
    """
    ignored = (resumable_settings() - _AFFECTS_RESULTS) | {"seed"}
    found: dict[str, list[RunContents]] = {}
    keys: dict[str, dict[str, Any]] = {}
    for run in runs:
        settings = {path: value for path, value in run.stored.settings.items() if path not in ignored}
        if settings.get("train.patience"):
            settings["train.evaluate_every"] = run.stored.settings["train.evaluate_every"]
        settings["test examples"] = str(run.evaluation.get("test_examples"))[:12]  # a script's settings state no data
        key = repr({path: _with_floats(value) for path, value in settings.items()})
        keys[key] = settings
        found.setdefault(key, []).append(run)
    every = list(keys.values())
    paths = dict.fromkeys(path for settings in every for path in settings)
    differing = [p for p in paths if len({repr(_with_floats(s.get(p))) for s in every}) > 1]
    groups = []
    for key, members in found.items():
        words = [f"{path}={_text(keys[key][path])}" for path in differing if path in keys[key]]
        of_seeds: dict[Any, RunContents] = {}
        repeated = [m for m in members if of_seeds.setdefault(m.stored.settings.get("seed"), m) is not m]
        groups.append(Group(", ".join(words) or members[0].name, list(of_seeds.values()), repeated))
    return groups


def repetitions(groups: Sequence[Group]) -> list[str]:
    """Return a sentence for each group with several runs of one seed, which are no sample of the seeds."""
    return [
        f"These runs have the settings and the seed of another one, and are not part of the results: "
        f"{', '.join(str(run.directory) for run in group.repeated)}."
        for group in groups
        if group.repeated
    ]


def _with_floats(value: Any) -> Any:
    """Return a setting whose numbers are floats: 1 and 1.0 are the same, but True is no number."""
    if isinstance(value, list | tuple):
        return [_with_floats(entry) for entry in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _text(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def shared_metric(runs: Sequence[RunContents]) -> str | None:
    """Return the first of `METRICS` that all runs have; None without one."""
    return next((name for name in METRICS if all(name in run.evaluation for run in runs)), None)


def incomparable(runs: Sequence[RunContents]) -> list[str]:
    """Return why the numbers of runs must not be compared: a sentence for each field of the protocol that differs."""
    found = []
    for name, what in (
        ("test_examples", "The test examples differ"),
        ("preprocess", "The preprocessing differs, so the models assign probabilities to different inputs"),
        ("split", "The splits differ"),
        ("likelihood", "p(x|z) differs; values are comparable only if all are probabilities of the same input"),
        ("num_samples", "The NLL has different numbers of samples K; with fewer samples the bound is less tight"),
    ):
        values = list(dict.fromkeys(str(run.evaluation.get(name)) for run in runs))
        if len(values) > 1:
            shown = values if name != "test_examples" else [value[:12] for value in values]
            found.append(f"{what}: {', '.join(shown)}.")
    return found


def _scores(group: Group, metric: str) -> np.ndarray | None:
    """Return the mean score over the runs of a group of each example, [N]; None if those of a run are unknown."""
    scores = [run.scores.get(metric) for run in group.runs]
    known = [s for s in scores if s is not None]
    if len(known) < len(scores) or len({len(s) for s in known}) > 1:
        return None
    return np.mean(np.asarray(known, np.float64), axis=0)


def comparison(runs: Sequence[RunContents]) -> list[str]:
    """Return the sections that compare runs.

    Args:
      runs: two runs or more.

    Returns:
      HTML: the results of each group of equal settings, those of each run, the curves, and the samples.
    """
    finished = [run for run in runs if run.evaluation]
    notes = [
        note(f"Without an evaluation: {run.name}. {run.why_not_evaluated}", "warning")
        for run in runs
        if not run.evaluation
    ]
    metric = shared_metric(finished) if finished else None
    sections = ["".join(notes)]
    if metric is not None:
        groups = group_runs(finished)
        sections.append(_results(groups, finished, metric))
        if len(groups) < len(finished):
            sections.append(_each_run(finished, metric))
    return [*sections, _curves(runs), *_samples(runs)]


def _results(groups: Sequence[Group], runs: Sequence[RunContents], metric: str) -> str:
    sign = 1 if metric == "nll" else -1
    reasons = [*incomparable(runs), *repetitions(groups)]
    mean = {group.label: float(np.mean([run.evaluation[metric] for run in group.runs])) for group in groups}
    best = min(groups, key=lambda group: sign * mean[group.label])
    comparable = not any("examples differ" in reason or "splits" in reason for reason in reasons)
    others = {n: v for n, v in _OTHERS.items() if n != metric and any(n in run.evaluation for run in runs)}
    header = ["Settings", "Seeds", f"{METRICS[metric]} ± standard error, nats", "sd of seeds"]
    header += ["K"] if metric == "nll" else []
    header += ["Difference from the best", "p", *(title for title, _ in others.values())]
    rows = []
    for group in sorted(groups, key=lambda group: sign * mean[group.label]):
        values = [run.evaluation for run in group.runs]
        sd = mean_and_sd([v[metric] for v in values])["sd"]
        cells = [
            "<br>".join(map(escape, group.label.split(", "))),
            str(len(values)),
            _value(group, metric, best=group is best),
            _sd(sd),
        ]
        cells += [number(values[0]["num_samples"])] if metric == "nll" else []
        cells += _difference(group, best, metric, comparable=comparable)
        cells += [_mean_of(values, name, digits) for name, (_, digits) in others.items()]
        rows.append(cells)
    return section("Results", table(header, rows, class_="results"), *(note(r, "warning") for r in reasons), _legend())


def _legend() -> str:
    text = (
        "Errors are standard errors over the test examples. A difference is paired: its error is that of the mean of "
        "the differences of each example, after the mean over the seeds of a group; p is two-sided and normal. The "
        "variation of the seeds is the column sd, and no part of p."
    )
    return element("p", escape(text), class_="hint")


def _value(group: Group, metric: str, *, best: bool) -> str:
    values = [run.evaluation for run in group.runs]
    scores = _scores(group, metric)
    error = values[0][f"{metric}_se"]
    if scores is not None and len(values) > 1:
        error = float(scores.std(ddof=1) / math.sqrt(len(scores)))
    text = with_error(float(np.mean([v[metric] for v in values])), error)
    return element("span", text, class_="best") if best else text


def _sd(sd: float | None) -> str:
    return "one seed" if sd is None else number(sd)


def _mean_of(values: Sequence[Mapping[str, Any]], name: str, digits: int) -> str:
    found = [float(v[name]) for v in values if name in v]
    return number(float(np.mean(found)), digits) if found else "undefined"


def _difference(group: Group, best: Group, metric: str, *, comparable: bool) -> list[str]:
    """Return the cells of the difference from the best group and its p-value."""
    if group is best:
        return ["best", ""]
    a, b = _scores(group, metric), _scores(best, metric)
    if not comparable:
        return ["not comparable", ""]
    if a is None or b is None or a.shape != b.shape or len(a) < 2:
        return ["scores-test.npz is missing", ""]
    mean, error, p = paired_difference(a, b)
    return [with_error(mean, error), "&lt; 0.001" if p < 0.001 else number(p, 3)]


def _each_run(runs: Sequence[RunContents], metric: str) -> str:
    rows = [
        (
            escape(run.name), escape(run.stored.settings.get("seed")), number(run.evaluation.get("step", run.step)),
            with_error(run.evaluation[metric], run.evaluation[f"{metric}_se"]),
        )
        for run in runs
    ]  # fmt: skip
    header = ("Run", "Seed", "Step", f"{METRICS[metric]} ± standard error, nats")
    return section("Each run", table(header, rows, class_="results"))


def _curves(runs: Sequence[RunContents]) -> str:
    """Return the curves of all runs in one chart for each metric: those of validation, else those of training."""
    charts = []
    panels = [(name, {panel.name: panel for panel in metric_panels(run.rows)}) for name, run in _named(runs).items()]
    for metric in ("bound", "reconstruction", "kl"):
        for kind in ("validation", "training"):
            found = {name: of[metric] for name, of in panels if metric in of and kind in of[metric].series}
            if len(found) == len(panels):
                low = min(p.limits[0] for p in found.values() if p.limits)
                high = max(p.limits[1] for p in found.values() if p.limits)
                some = next(iter(found.values()))
                series = {name: panel.series[kind] for name, panel in found.items()}
                title = f"{some.title}, {kind}"
                charts.append(line_chart(series, title=title, unit=some.unit, limits=(low, high)))
                break
    return section("Training", element("div", *charts, class_="charts") if charts else "")


def _named(runs: Sequence[RunContents]) -> dict[str, RunContents]:
    """Return runs by name; by path if two have the same name."""
    names = [run.name for run in runs]
    return {run.name if names.count(run.name) == 1 else str(run.directory): run for run in runs}


def _samples(runs: Sequence[RunContents]) -> list[str]:
    found = [picture(p, name) for name, run in _named(runs).items() for p in run.figures if p.stem == "samples"]
    return [section("Samples", element("div", *found, class_="pictures"))] if found else []
