"""Statistics of benchmarks: bootstrap intervals, and the comparison of two reports."""

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from numpy.typing import ArrayLike

from vae_jax.config import differences
from vae_jax.errors import InputError
from vae_jax.runtime import atomic_files

RESAMPLES = 2000
MIN_ROUNDS = 5  # rounds that an interval needs
FORMAT = 1
DERIVED = frozenset({"train.save_every", "bandwidth_working_set"})  # entries that follow from other ones


class Interval(TypedDict):
    """A median with the limits of its interval, None if there are too few rounds for an interval."""

    median: float
    low: float | None
    high: float | None


# Statistics.


def interval(values: ArrayLike, others: ArrayLike | None = None, *, level: float = 0.95, seed: int = 0) -> Interval:
    """Return the median over rounds and its percentile bootstrap interval.

    With `others` it is the ratio of the two medians, each resampled separately, for measurements that were not taken in
    the same rounds. There is no interval for fewer than `MIN_ROUNDS` rounds: a bootstrap interval lies between the
    smallest and the largest value, and those enclose the true median with a probability of only 1 - 2^(1 - n), which is
    0.5 for two rounds and 0.75 for three.

    Reference: Efron & Tibshirani, An Introduction to the Bootstrap, 1993. The interval uses `RESAMPLES` resamples.

    Args:
      values: The measurements, one for each round, [n].
      others: The measurements to divide by, [m], or None.
      level: The confidence level.
      seed: The seed of the resampling.

    Returns:
      The median, or the ratio of medians, and its interval.
    """
    rng = np.random.default_rng(seed)

    def medians(sample: np.ndarray) -> tuple[float, np.ndarray]:
        return float(np.median(sample)), np.median(rng.choice(sample, (RESAMPLES, len(sample))), axis=1)

    samples = np.asarray(values, float)
    median, resampled = medians(samples)
    rounds = len(samples)
    if others is not None:
        divisors = np.asarray(others, float)
        divisor, resampled_divisors = medians(divisors)
        median, resampled, rounds = median / divisor, resampled / resampled_divisors, min(rounds, len(divisors))
    if rounds < MIN_ROUNDS:
        return {"median": median, "low": None, "high": None}
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return {"median": median, "low": float(low), "high": float(high)}


def ratio_interval(values: ArrayLike, others: ArrayLike, *, level: float = 0.95, seed: int = 0) -> Interval:
    """Return `interval` of the ratios values / others round by round: a slow phase of the machine cancels out."""
    return interval(np.asarray(values, float) / np.asarray(others, float), level=level, seed=seed)


def compare(before: Mapping[str, Any], after: Mapping[str, Any], *, level: float = 0.99) -> list[dict[str, Any]]:
    """Compare the rows that two reports have in common.

    The speed of a machine changes from hour to hour. A step is therefore compared in seconds, and also in units of a
    float32 matrix product that was timed in the same round. A row is slower or faster only if both intervals lie on one
    side of 1.

    Args:
      before: The report to compare with, from `read_report`.
      after: The new report.
      level: The confidence level of the intervals.

    Returns:
      For each common row a dictionary with `row`, its name; `before` and `after`, the medians in seconds; `seconds`
      and `normalized_seconds`, the ratios after / before with their intervals, the second one in units of the matrix
      product; and `verdict`: "slower", "faster", "no change beyond noise" or "too few rounds".
    """
    rows = []
    old_rows = {row["row"]: row for row in before["rows"]}
    unit_before, unit_after = before["machine"]["samples"]["float32"], after["machine"]["samples"]["float32"]
    for row in after["rows"]:
        if row["row"] not in old_rows:
            continue
        new, old = row["samples"], old_rows[row["row"]]["samples"]
        seconds = interval(new, old, level=level)
        normalized = interval(np.divide(new, unit_after), np.divide(old, unit_before), level=level)
        medians = {"before": statistics.median(old), "after": statistics.median(new)}
        ratios = {"seconds": seconds, "normalized_seconds": normalized}
        rows.append({"row": row["row"], **medians, **ratios, "verdict": _verdict(seconds, normalized)})
    return rows


def _verdict(*ratios: Interval) -> str:
    """Return whether the intervals of all ratios lie on one side of 1."""
    lows = [ratio["low"] for ratio in ratios if ratio["low"] is not None]
    highs = [ratio["high"] for ratio in ratios if ratio["high"] is not None]
    if not lows or not highs:
        return "too few rounds"
    return "slower" if min(lows) > 1 else "faster" if max(highs) < 1 else "no change beyond noise"


def context_differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return how two reports differ apart from their measurements.

    Args:
      before: The report to compare with.
      after: The new report.

    Returns:
      {name: [before, after]} of the settings, the machine and its versions that differ. The entry `rows`, if the
      reports have different rows, holds the names that only `before` has and those that only `after` has.
    """
    found = {}
    for part in ("config", "machine"):
        old, new = ({k: v for k, v in r[part].items() if not isinstance(v, dict)} for r in (before, after))
        found |= {name: [old.get(name), new.get(name)] for name in differences(old, new, ignore=DERIVED)}
    old, new = ([row["row"] for row in r["rows"]] for r in (before, after))
    if set(old) != set(new):
        found["rows"] = [[name for name in old if name not in new], [name for name in new if name not in old]]
    return found


def read_report(path: str | Path) -> dict[str, Any]:
    """Read a report that `vae-jax bench` has written.

    Args:
      path: The file bench.json.

    Returns:
      The report.

    Raises:
      InputError: If the file cannot be read or is not a report.
    """
    try:
        report = atomic_files.read_json(Path(path))
        rows = [(str(row["row"]), [float(s) for s in row["samples"]]) for row in report["rows"]]
        units = [float(s) for s in report["machine"]["samples"]["float32"]]
        has_parts = all(isinstance(report[part], dict) for part in ("config", "machine"))
        if (
            not has_parts
            or report["format"] != FORMAT
            or any(len(samples) != len(units) or not units for _, samples in rows)
        ):
            raise ValueError
    except OSError as error:
        raise InputError(f"--compare={path} cannot be read ({error.strerror})") from None
    except (ValueError, TypeError, KeyError):
        raise InputError(f"--compare={path} must be a bench.json of `vae-jax bench`") from None
    return report
