"""experiments/timing.py: the training time over several processes."""

import json

from scripts import load


def test_the_timer_continues_from_the_stored_seconds(tmp_path, monkeypatch):
    times = iter([100.0, 105.0, 112.0, 112.0, 200.0, 203.0])
    script = load("timing")
    monkeypatch.setattr(script.time, "perf_counter", lambda: next(times))
    timer = script.TrainingTimer(tmp_path / "clock.json", lambda: False)
    assert timer() is False  # less than 10 seconds: nothing is written
    assert not timer.path.exists()
    assert timer() is False
    assert json.loads(timer.path.read_text())["seconds"] == 12
    again = script.TrainingTimer(timer.path, lambda: True)
    again.write()
    assert json.loads(timer.path.read_text())["seconds"] == 15
    assert "jax" in json.loads(timer.path.read_text())["device"]
