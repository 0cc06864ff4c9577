"""The number of steps of a dispatch follows the time of a step, and changes no result."""

import numpy as np
import pytest
from hand_made import hand_made
from training_runs import digest_of, metric_rows

from vae_jax.config import TrainConfig
from vae_jax.runs import default_callbacks, pace, train_loop
from vae_jax.runs.pace import Pace


def clock_of(seconds_per_step, monkeypatch):
    """Return a program of some steps that takes this long by the clock of `Pace`."""
    now = [0.0]
    monkeypatch.setattr(pace.time, "monotonic", lambda: now[0])

    def program(count):
        now[0] += seconds_per_step * count
        return np.zeros(count)

    return program


@pytest.mark.fault
@pytest.mark.parametrize(("seconds", "expected"), [(0.001, 100), (0.04, 100), (0.2, 10), (0.9, 2), (9.0, 1)])
def test_a_dispatch_takes_a_few_seconds_at_most(seconds, expected, monkeypatch):
    program, found = clock_of(seconds, monkeypatch), Pace(fixed=False)
    counts = []
    for _ in range(5):
        counts.append(found.steps(100))
        assert len(found.dispatch(program, counts[-1])) == counts[-1]
    assert counts == [1, 1, 1, expected, expected]
    assert found.is_slow(100) == (expected < 100)


def test_a_program_of_a_fixed_number_of_steps_is_not_shortened(monkeypatch):
    program, found = clock_of(9.0, monkeypatch), Pace(fixed=True)
    for _ in range(4):
        assert found.steps(100) == 100
        found.dispatch(program, 100)
    assert not found.measures
    assert not found.is_slow(100)


@pytest.mark.fault
def test_a_slow_run_stops_within_an_interval_and_resumes_with_the_same_bits(tmp_path, monkeypatch):
    """A step that takes seconds: dispatches end within an interval, and so can the run."""
    training = TrainConfig(steps=20, batch_size=16, log_every=10, evaluate_every=10, save_every=10)
    complete = train_loop.fit(hand_made(training=training), tmp_path / "complete")
    monkeypatch.setattr(pace, "SECONDS", 1e-9)
    monkeypatch.setattr(pace, "LONG", 1e-9)
    stops = iter([False, False, False, False, True])  # before the first step, and after 2, 3, 4 and 5
    saves = iter([False, True, False, False])  # after 2, 3, 4 and 5
    parts = tmp_path / "parts"
    polls = default_callbacks(lambda: next(stops), lambda: next(saves))
    first = train_loop.fit(hand_made(training=training), parts, callbacks=polls)
    assert (first.status, first.step) == ("interrupted", 5)
    assert sorted(int(path.name) for path in (parts / "checkpoints").iterdir()) == [3, 5]  # requested, stopped
    assert metric_rows(parts) == []
    second = train_loop.fit(hand_made(training=training), parts)
    assert (second.status, second.resumed_from) == ("done", 5)
    assert digest_of(complete.state, tmp_path / "complete") == digest_of(second.state, parts)
