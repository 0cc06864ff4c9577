"""Progress display: lines on a plain stream, a live bar on a terminal."""

import io

import pytest

from vae_jax.runs import progress as progress_module
from vae_jax.runs.loggers import print_json
from vae_jax.runs.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """Clock of the progress display; tests set `now`, in seconds."""

    class Clock:
        now = 1000.0

    class Time:
        monotonic = staticmethod(lambda: Clock.now)

    monkeypatch.setattr(progress_module, "time", Time)
    return Clock


def test_plain_progress_prints_every_ten_seconds_and_at_the_end(clock):
    stream = io.StringIO()
    with Progress(10_000, examples_per_step=100, stream=stream) as progress:
        for step in range(1, 26):
            clock.now += 1
            progress.update(100 * step, bound=-step)
            if step == 5:
                progress.print("saved [bold]5[/bold]")
    lines = stream.getvalue().splitlines()
    steps = [line.split()[1] for line in lines]
    assert steps == ["100/10000", "[bold]5[/bold]", "1100/10000", "2100/10000", "2500/10000"]
    assert "steps/s" not in lines[0]  # the first steps include the compilation
    for part in ["(25 %)", "bound -25.00 nats", "100 steps/s", "10,000 examples/s", "0:00:25", "left 0:01:15"]:
        assert part in lines[-1]


def test_plain_progress_does_not_repeat_its_last_line(clock):
    stream = io.StringIO()
    with Progress(10, examples_per_step=1, stream=stream) as progress:
        clock.now += 5
        progress.update(10, validation_bound=-2)
    (line,) = stream.getvalue().splitlines()
    assert "2.00 steps/s" in line
    assert "validation bound -2.00 nats" in line
    assert "left" not in line


def test_rates_of_a_resumed_run_count_only_new_steps_and_exclude_compilation(clock):
    stream = io.StringIO()
    with Progress(2000, examples_per_step=10, initial_step=1000, stream=stream) as progress:
        clock.now += 20  # compiles, then 40 steps
        progress.update(1040)
        clock.now += 2
        progress.update(1040, validation_bound=-1)
        clock.now += 8
        progress.update(1140)
    first, last = stream.getvalue().splitlines()
    assert first == "step 1040/2000 (52 %), elapsed 0:00:20"
    assert "10.00 steps/s, 100 examples/s, elapsed 0:00:30, left 0:01:26" in last


@pytest.mark.fault
@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("dispatches", [1, 2, 5])
def test_the_rate_agrees_with_the_clock_where_a_dispatch_returns_before_or_after_its_steps(clock, waits, dispatches):
    """A dispatch of 20 steps takes 20 s after 10 s of compilation; metrics are read after the next dispatch."""
    stream, total = io.StringIO(), 20 * dispatches
    with Progress(total, examples_per_step=1, stream=stream) as progress:
        clock.now += 10
        for dispatch in range(dispatches + 1):
            if waits and dispatch < dispatches:  # the call returns when its steps are finished
                clock.now += 20
            if dispatch:
                clock.now += 0 if waits else 20
                progress.update(20 * dispatch, bound=-1)
            if waits and dispatch < dispatches:
                progress.advance(20 * (dispatch + 1))
    lines = stream.getvalue().splitlines()
    for line in lines:
        step = int(line.split("/")[0].removeprefix("step "))
        if dispatches > 1:
            assert ("steps/s" in line) == (step > 20)
            assert "steps/s" not in line or ", 1.00 steps/s" in line
            assert step in (20, total) or f"left 0:0{(total - step) // 60}:{(total - step) % 60:02}" in line
    assert lines[-1].startswith(f"step {total}/{total} (100 %), bound -1.00 nats")
    assert dispatches > 1 or "0.67 steps/s" in lines[-1]  # of all 30 seconds, since no later steps exist


@pytest.mark.parametrize("term", ["xterm", "dumb"])
def test_progress_on_a_terminal(monkeypatch, capsys, term):
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", term)
    monkeypatch.setenv("COLUMNS", "200")
    stream = Terminal()
    with Progress(100, examples_per_step=4, stream=stream) as progress:
        progress.update(50, bound=-3.5)
        progress.print("saved [bold]50[/bold]")
        print_json({"result": 1})
    shown = stream.getvalue()
    assert "step 50/100 (50 %), bound -3.50 nats" in shown
    assert "saved [bold]50[/bold]" in shown
    assert ("━" in shown) == (term == "xterm")
    assert capsys.readouterr().out == '{"result": 1}\n'
