"""bench.comparison."""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vae_jax.config import differences
from vae_jax.errors import InputError

RESAMPLES = 2000
FEWEST = 5  # rounds of which there is an interval
FORMAT = 1
FOLLOWING = frozenset({"train.save_every", "bandwidth_working_set"})  # settings and machine that follow from others


# Statistics.


def interval(
    values: Sequence[float], others: Sequence[float] | None = None, *, level: float = 0.95, seed: int = 0
) -> dict[str, float | None]:
    """{"median", "low", "high"}: a median over rounds and its bootstrap interval at `level`.

    No interval for fewer than `FEWEST` rounds: it cannot leave the least and the greatest of them, between which the
    truth lies with a probability of 1 - 2^(1 - n), 0.5 of two and 0.75 of three.

    With `others` the ratio of the two medians, each resampled by itself, for measurements that were not taken in turn.
    Percentiles of `RESAMPLES` resamples (Efron & Tibshirani, An introduction to the bootstrap, 1993).
    """
    rng = np.random.default_rng(seed)

    def medians(sample: Sequence[float]) -> tuple[float, np.ndarray]:
        sample = np.asarray(sample, float)
        return float(np.median(sample)), np.median(rng.choice(sample, (RESAMPLES, len(sample))), axis=1)

    middle, resampled = medians(values)
    fewest = len(values)
    if others is not None:
        divisor, divisors = medians(others)
        middle, resampled, fewest = middle / divisor, resampled / divisors, min(fewest, len(others))
    if fewest < FEWEST:
        return {"median": middle, "low": None, "high": None}
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return {"median": middle, "low": float(low), "high": float(high)}


def ratio_interval(values: Sequence[float], others: Sequence[float], **settings: Any) -> dict[str, float | None]:
    """`interval` of the ratios of two rows round by round: what slows the machine for a while slows both."""
    return interval(np.asarray(values, float) / np.asarray(others, float), **settings)


def compare(before: Mapping[str, Any], after: Mapping[str, Any], *, level: float = 0.99) -> list[dict[str, Any]]:
    """For each row of both reports: {"row", "before", "after", "seconds", "paced", "verdict"}.

    `before` and `after` are medians in seconds; `seconds` and `paced` are ratios after / before with their intervals.

    Another hour is another speed of the machine, so a step is also measured in products of two float32 matrices, timed
    in the same round: `paced`. A row is slower or faster only where both intervals, at `level`, lie on one side of 1.
    """
    found = []
    old = {row["row"]: row for row in before["rows"]}
    pace_before, pace_after = before["machine"]["samples"]["float32"], after["machine"]["samples"]["float32"]
    for row in after["rows"]:
        if row["row"] not in old:
            continue
        new, past = row["samples"], old[row["row"]]["samples"]
        seconds = interval(new, past, level=level)
        paced = interval(np.divide(new, pace_after), np.divide(past, pace_before), level=level)
        known = seconds["low"] is not None
        slower = known and min(seconds["low"], paced["low"]) > 1
        faster = known and max(seconds["high"], paced["high"]) < 1
        verdict = (
            "slower" if slower else "faster" if faster else "no change beyond noise" if known else "too few rounds"
        )
        middles = {"before": statistics.median(past), "after": statistics.median(new)}
        found.append({"row": row["row"], **middles, "seconds": seconds, "paced": paced, "verdict": verdict})
    return found


def context_differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, list[Any]]:
    """What else differs between two reports, {name: [before, after]}: settings, the machine and its versions, and
    `rows`, those that the other lacks."""
    found = {}
    for part in ("config", "machine"):
        old, new = ({k: v for k, v in r[part].items() if not isinstance(v, dict)} for r in (before, after))
        found |= {name: [old.get(name), new.get(name)] for name in differences(old, new, ignore=FOLLOWING)}
    old, new = ([row["row"] for row in r["rows"]] for r in (before, after))
    if set(old) != set(new):
        found["rows"] = [[name for name in old if name not in new], [name for name in new if name not in old]]
    return found


def read_report(path: str | Path) -> dict[str, Any]:
    """A report that `vae-jax bench` wrote; raises InputError where the file is not one."""
    try:
        report = json.loads(Path(path).read_text())
        rows = [(str(row["row"]), [float(s) for s in row["samples"]]) for row in report["rows"]]
        pace = [float(s) for s in report["machine"]["samples"]["float32"]]
        parts_are_there = all(isinstance(report[part], dict) for part in ("config", "machine"))
        if (
            not parts_are_there
            or report["format"] != FORMAT
            or any(len(samples) != len(pace) or not pace for _, samples in rows)
        ):
            raise ValueError
    except OSError as error:
        raise InputError(f"--compare: {path} cannot be read ({error.strerror})") from None
    except (ValueError, TypeError, KeyError):
        raise InputError(f"--compare={path} must be a bench.json of `vae-jax bench`") from None
    return report
