"""vae_jax/report/comparison.py: groups over seeds, and paired differences against scipy."""

import re

import numpy as np
import pytest
from report_runs import EVALUATION, write_run
from scipy import stats

from vae_jax.report import comparison, paired_difference, read_contents
from vae_jax.runs import RunDirectory


def test_a_paired_difference_is_that_of_scipy_for_many_examples():
    rng = np.random.default_rng(0)
    shared = rng.normal(size=4000)  # difficulty of the examples
    a, b = (shared + 0.1 * rng.normal(size=4000) + shift for shift in (20.004, 20.0))
    found = paired_difference(a, b)
    expected = stats.ttest_rel(a, b)
    assert found.mean == pytest.approx(np.mean(a) - np.mean(b))
    assert found.mean / found.error == pytest.approx(expected.statistic)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-2)
    assert found.error < stats.sem(a) / 5  # what both models share is not part of it
    assert paired_difference(a, a) == (0, 0, 1)
    assert paired_difference(a + 1, a).p == pytest.approx(0)
    with pytest.raises(ValueError, match="two arrays"):
        paired_difference(a, b[:-1])


@pytest.fixture
def runs(tmp_path):
    """Two seeds of one setting, and a run of another setting, which is worse by 1 nat."""
    rng = np.random.default_rng(1)
    base = rng.normal(22, 3, size=40)
    numbers = {"a-0": (0.0, {}), "a-1": (0.5, {"seed": 1}), "b": (1.25, {"network__hidden": (32,)})}
    for name, (shift, settings) in numbers.items():
        nll = base + shift + 0.1 * rng.normal(size=40)
        scores = {"nll": nll, "elbo": -nll - 1, "reconstruction": -nll + 3}
        write_run(tmp_path / name, scores=scores, settings=settings)
    return [read_contents(tmp_path / name) for name in numbers]


def cells(html):
    """Return the rows of the first table, as lists of text."""
    rows = re.findall("<tr>(.*?)</tr>", html.partition("</table>")[0])
    return [[re.sub("<[^>]*>", "", c) for c in re.findall("<t[hd][^>]*>(.*?)</t[hd]>", row)] for row in rows]


def test_runs_that_differ_in_the_seed_are_one_group(runs):
    groups = comparison.group_runs(runs)
    assert [(group.label, len(group.runs)) for group in groups] == [
        ("network.hidden=256 128", 2), ("network.hidden=32", 1)
    ]  # fmt: skip
    assert [group.label for group in comparison.group_runs(runs[:2])] == ["a-0"]
    stored = runs[1].stored
    settings = {**stored.settings, "objective.beta": 1, "network.hidden": [256.0, 128]}
    same = runs[1]._replace(stored=stored._replace(settings=settings))
    assert [len(group.runs) for group in comparison.group_runs([runs[0], same])] == [2]


def test_runs_of_one_seed_are_counted_once_and_named(runs, tmp_path):
    again = runs[0]._replace(directory=RunDirectory(tmp_path / "again"))
    (group,) = comparison.group_runs([*runs[:2], again])
    assert ([run.name for run in group.runs], [run.name for run in group.repeated]) == (["a-0", "a-1"], ["again"])
    html = "".join(comparison.comparison([*runs[:2], again]))
    assert cells(html)[1][1] == "2"
    assert f"are not part of the results: {tmp_path / 'again'}." in html
    assert "not part of the results" not in "".join(comparison.comparison(runs))
    assert cells("".join(comparison.comparison([runs[0], again])))[1][3] == "one seed"


def test_the_table_of_results(runs):
    html = "".join(comparison.comparison(runs))
    header, best, other = cells(html)
    assert header[:6] == ["Settings", "Seeds", "NLL ± standard error, nats", "sd of seeds", "K",
                          "Difference from the best"]  # fmt: skip
    nll = [run.scores["nll"] for run in runs]
    mean = (nll[0] + nll[1]) / 2
    assert best[1:6] == [
        "2", f"{mean.mean():.2f} ± {stats.sem(mean):.2f}", f"{np.std([nll[0].mean(), nll[1].mean()], ddof=1):.2f}",
        "5,000", "best",
    ]  # fmt: skip
    difference = nll[2] - mean
    assert other[1:7] == ["1", f"{nll[2].mean():.2f} ± 0.19", "one seed", "5,000",
                          f"{difference.mean():.2f} ± {stats.sem(difference):.2f}", "&lt; 0.001"]  # fmt: skip
    assert "Each run" in html
    assert html.count("<img") == 3
    assert "a-0<b>" in re.sub("</?(i|span)[^>]*>", "", html)


def test_numbers_that_must_not_be_compared_are_named(runs):
    other = runs[2]._replace(evaluation=runs[2].evaluation | {"test_examples": "d" * 64, "num_samples": 7})
    html = "".join(comparison.comparison([runs[0], other]))
    assert "not comparable" in html
    assert "The test examples differ: bbbbbbbbbbbb, dddddddddddd." in html
    assert "different numbers of samples K; with fewer samples the bound is less tight: 5000, 7." in html
    assert comparison.incomparable(runs) == []


def test_missing_scores_and_unfinished_runs_are_named(runs, tmp_path):
    without = runs[2]._replace(scores={})
    assert cells(comparison.comparison([runs[0], without])[1])[2][5] == "scores-test.npz is missing"
    unfinished = runs[2]._replace(evaluation={}, figures=[])
    html = "".join(comparison.comparison([runs[0], unfinished]))
    assert "Without an evaluation: b. It is not finished; the command that started it resumes it." in html
    diverged = unfinished._replace(failure="the bound is NaN at step 7")
    html = "".join(comparison.comparison([runs[0], diverged]))
    assert "Without an evaluation: b. The training has diverged: the bound is NaN at step 7." in html
    nothing = [run._replace(evaluation={}, rows=[], figures=[]) for run in runs]
    assert len(comparison.comparison(nothing)) == 2


def test_runs_that_stop_early_are_no_other_seed(runs):
    def with_settings(run, **changes):
        settings = run.stored.settings | {f"train.{name}": value for name, value in changes.items()}
        return run._replace(stored=run.stored._replace(settings=settings))

    early = [with_settings(runs[1], patience=3, evaluate_every=every) for every in (10, 20)]
    groups = comparison.group_runs([runs[0], with_settings(runs[1], evaluate_every=7), *early])
    assert [len(group.runs) for group in groups] == [2, 1, 1]


def test_runs_on_other_examples_are_no_other_seed(runs):
    other = runs[1]._replace(evaluation=runs[1].evaluation | {"test_examples": "d" * 64})
    assert [len(group.runs) for group in comparison.group_runs([runs[0], runs[1]])] == [2]
    assert [len(group.runs) for group in comparison.group_runs([runs[0], other])] == [1, 1]
    html = "".join(comparison.comparison([runs[0], other, runs[2]]))
    labels = [row[0] for row in cells(html)[1:]]
    assert len(set(labels)) == 3
    assert sum("test examples=dddddddddddd" in label for label in labels) == 1


def test_a_bound_that_all_runs_have_is_compared(runs):
    point = runs[2]._replace(evaluation={n: v for n, v in EVALUATION.items() if not n.startswith(("nll", "elbo"))})
    assert comparison.shared_metric(runs) == "nll"
    assert comparison.shared_metric([runs[0], point]) == "reconstruction"
    header, best, *_ = cells(comparison.comparison([runs[0], point])[1])
    assert header[2] == "Reconstruction ± standard error, nats"
    assert best[2].startswith("−1")  # the larger one is better


def test_runs_of_the_same_name_are_named_by_their_path(runs, tmp_path):
    same = runs[1]._replace(directory=write_run(tmp_path / "x" / "a-0"))
    html = "".join(comparison.comparison([runs[0], same]))
    assert str(tmp_path / "x" / "a-0") in html
