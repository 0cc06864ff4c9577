"""experiments/benchmarks/steps.py and families.py: the ratios, and runs with --quick."""

import json

import pytest
from scripts import load


def test_rows_run_and_are_printed(data_dir, capsys):
    script = load("benchmarks/steps")
    result = script.main(["--quick", "--rows", "all three", "--data-dir", data_dir])
    assert [row["row"] for row in result["rows"]] == ["unchanged", "all three"]
    assert result["rows"][0]["ratio"] == 1
    assert all(row["steps_per_second"] > 0 for row in result["rows"])
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == result


@pytest.mark.thorough
def test_step_times_of_priors_are_ratios_to_the_normal_prior(data_dir, capsys):
    result = load("benchmarks/families").main(["--quick", "--rows", "mixture", "--data-dir", data_dir])
    assert [row["row"] for row in result["rows"]] == ["standard-normal", "mixture"]
    assert [row["ratio"] > 0 for row in result["rows"]] == [True, True]
    assert result["rows"][0]["ratio"] == 1
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == result


def test_ratios_are_those_of_processor_time_in_each_round():
    times = {"unchanged": [(9.0, 1.0), (9.0, 2.0), (3.0, 4.0)], "SGD": [(1.0, 2.0), (2.0, 1.0), (3.0, 1.0)]}
    first, other = load("benchmarks/steps").summarize(times, steps=18)
    assert first == {"row": "unchanged", "steps_per_second": 2, "steps_per_cpu_second": 9, "ratio": 1}
    assert other["ratio"] == 0.5
