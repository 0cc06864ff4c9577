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
