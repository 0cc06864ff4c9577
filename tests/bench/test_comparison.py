"""Intervals of benchmarks, and the comparison of two reports."""

import io

import numpy as np

from vae_jax.bench import comparison, tables


def test_the_interval_of_a_ratio_covers_the_truth():
    rng, hits, widths = np.random.default_rng(0), 0, []
    for i in range(300):
        drift = np.exp(rng.normal(0, 0.3, 9))  # the speed of the machine changes by a third, for both rows alike
        row, baseline = drift * rng.lognormal(0, 0.03, (2, 9)) * [[1.2], [1.0]]
        ratio = comparison.ratio_interval(row, baseline, seed=i)
        hits += ratio["low"] <= 1.2 <= ratio["high"]
        widths.append(ratio["high"] - ratio["low"])
        assert ratio["low"] <= ratio["median"] <= ratio["high"]
    assert 0.88 * 300 <= hits < 300  # the level is 95 %, but 9 rounds are few
    assert np.median(widths) < 0.1  # with the drift it would be 0.3
    assert comparison.ratio_interval([2.0], [1.0]) == {"median": 2.0, "low": None, "high": None}


def make_report(rng, factor=1.0, speed=1.0, noise=0.02, rounds=9):
    drift = speed * np.exp(rng.normal(0, 0.1, rounds))
    samples = lambda scale: (drift * scale * rng.lognormal(0, noise, rounds)).tolist()  # noqa: E731
    rows = [{"row": "program", "samples": samples(0.01 * factor)}, {"row": "rbg", "samples": samples(0.02)}]
    return {"format": comparison.FORMAT, "rows": rows, "machine": {"samples": {"float32": samples(0.1)}}}


def verdicts(before, after):
    return {row["row"]: row["verdict"] for row in comparison.compare(before, after)}


def test_a_comparison_distinguishes_a_change_from_noise():
    rng, results = np.random.default_rng(1), {"none": [], "drift": [], "slower": [], "faster": []}
    for _ in range(60):
        results["none"].append(verdicts(make_report(rng), make_report(rng)))
        results["drift"].append(
            verdicts(make_report(rng), make_report(rng, speed=1.6))
        )  # another machine with the same relative times
        results["slower"].append(verdicts(make_report(rng), make_report(rng, factor=1.6)))
        results["faster"].append(verdicts(make_report(rng, factor=1.6), make_report(rng)))
    for case in ("none", "drift"):
        assert sum(v["program"] != "no change beyond noise" for v in results[case]) <= 3
    assert sum(v["program"] == "slower" for v in results["slower"]) >= 57
    assert sum(v["program"] == "faster" for v in results["faster"]) >= 57
    assert sum(v["rbg"] != "no change beyond noise" for case in results.values() for v in case) <= 6
    few = make_report(rng, rounds=4)
    assert verdicts(few, few) == {"program": "too few rounds", "rbg": "too few rounds"}
    assert comparison.interval([1.0, 2.0, 3.0, 4.0]) == {"median": 2.5, "low": None, "high": None}


def test_other_differences_between_two_reports_are_printed():
    make = lambda rows, **settings: {  # noqa: E731
        "rows": [{"row": row, "samples": [0.01, 0.02]} for row in rows],
        "config": {"train.batch_size": 128, "train.save_every": 1} | settings,
        "machine": {"jax": "1.0", "bandwidth_working_set": 5, "rates": {"float32": 1}, "samples": {"float32": [1, 2]}},
    }
    before, after = (
        make(["program", "rbg"]),
        make(["program", "eager"], **{"train.batch_size": 64, "train.save_every": 7}),
    )
    after["machine"] |= {"jax": "1.1", "bandwidth_working_set": 6, "rates": {}}
    differences = comparison.context_differences(before, after)
    assert differences == {"train.batch_size": [128, 64], "jax": ["1.0", "1.1"], "rows": [["rbg"], ["eager"]]}
    assert comparison.context_differences(before, before) == {}
    printed = io.StringIO()
    tables.print_comparison(comparison.compare(before, after), differences, printed)
    *_, batch, version, first, second = printed.getvalue().splitlines()
    assert batch == "differs: train.batch_size: 128 before, 64 after"
    assert version == "differs: jax: 1.0 before, 1.1 after"
    assert (first, second) == ("only in A: rbg", "only in B: eager")
    assert "15.00" in printed.getvalue()  # ms
