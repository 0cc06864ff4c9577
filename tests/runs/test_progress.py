"""Progress display: lines on a plain stream, a live bar on a terminal."""

import io
import types

import pytest

from vae_jax.runs import progress as progress_module
from vae_jax.runs.callbacks import ProgressBar
from vae_jax.runs.progress import Progress
from vae_jax.runs.storage.loggers import print_json


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
    assert "step 1040/2000 (52 %), 2.00 steps/s, 20 examples/s" in first
    assert "10.00 steps/s, 100 examples/s, elapsed 0:00:30, left 0:01:26" in last


class Steps:
    """A run whose dispatches take 20 s for 20 steps, after 10 s of compilation, and return at different times."""

    is_first_dispatch, step, member = True, 0, 0

    def __init__(self, total):
        self.experiment = types.SimpleNamespace(training=types.SimpleNamespace(steps=total, batch_size=1))
        self.first_step, self.notes, self.finished_step = 0, (), 0


@pytest.mark.fault
@pytest.mark.parametrize("returns", ["at once", "with its steps", "with those of the next"])
@pytest.mark.parametrize("dispatches", [1, 2, 5])
def test_the_rate_agrees_with_the_clock_whenever_a_dispatch_returns(clock, capsys, returns, dispatches):
    run, bar, begin = Steps(20 * dispatches), ProgressBar(), clock.now + 10
    bar.on_start(run)
    finish = lambda dispatch: begin + 20 * (dispatch + 1)  # noqa: E731
    clock.now = begin
    for dispatch in range(dispatches):
        if returns == "with its steps" or (returns == "with those of the next" and dispatch):
            clock.now = max(clock.now, finish(dispatch))
        if dispatch:
            clock.now = max(clock.now, finish(dispatch - 1))  # the metrics of the previous dispatch are read
            bar.on_row(run, 20 * dispatch, {"bound": -1.0})
        run.finished_step = 20 * sum(finish(d) <= clock.now for d in range(dispatch + 1))
        bar.on_steps(run)
        run.is_first_dispatch = False
    clock.now = max(clock.now, finish(dispatches - 1))
    bar.on_row(run, 20 * dispatches, {"bound": -1.0})
    bar.on_end(run)
    lines = capsys.readouterr().err.splitlines()
    for line in lines:
        step = int(line.split("/")[0].removeprefix("step "))
        known = dispatches > 1 or returns != "with its steps"  # otherwise all seconds count
        assert (", 1.00 steps/s" if known else ", 0.67 steps/s") in line
        left = f"left 0:0{(20 * dispatches - step) // 60}:{(20 * dispatches - step) % 60:02}"
        assert (left in line) == (step < 20 * dispatches)
    assert lines[-1].startswith(f"step {20 * dispatches}/{20 * dispatches} (100 %), bound -1.00 nats")


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
