"""Progress of a training run on the terminal, with steps per second and the remaining time."""

import math
import sys
import time
from datetime import timedelta
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

_PLAIN_LINE_SECONDS = 10.0


class Progress:
    """Progress display: a live bar on a terminal, otherwise a line every ten seconds and one at the end.

    Rates count only the steps of this process after `begin`, which follows the compilation; validations and saves
    count. Without `begin` they are those after the first `update`, as soon as there is a second one. The default
    `stream` is stderr.
    """

    def __init__(
        self, total_steps: int, *, examples_per_step: int, initial_step: int = 0, stream: TextIO | None = None
    ):
        self._total_steps = total_steps
        self._examples_per_step = examples_per_step
        self._stream = sys.stderr if stream is None else stream
        self._step = initial_step
        self._bounds: dict[str, float] = {}
        self._live: Live | None = None
        self._unprinted, self._print_from = False, -math.inf
        self._start = self._last = (time.monotonic(), initial_step)
        self._first: tuple[float, int] | None = None
        self._begun = False

    def __enter__(self) -> "Progress":
        self._start = self._last = (time.monotonic(), self._step)
        if self._stream.isatty():
            from rich.console import Console
            from rich.live import Live

            console = Console(file=self._stream, highlight=False)
            if console.is_terminal and not console.is_dumb_terminal:
                self._live = Live(
                    console=console, get_renderable=self._render, refresh_per_second=4, redirect_stdout=False
                )
                self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
        elif self._unprinted:
            self.print(self._status())

    def begin(self, step: int) -> None:
        """Start the clock of the rates: the program is compiled, and `step` of the run's steps are finished."""
        self._step = int(step)
        self._first = self._last = (time.monotonic(), self._step)
        self._begun = True

    def update(self, step: int, bound: float | None = None, validation_bound: float | None = None) -> None:
        """Show that `step` of the run's steps are done; a bound in nats that is None keeps its last value."""
        self._step = int(step)
        self._last = (time.monotonic(), self._step)
        self._first = self._first or self._last
        for name, value in (("bound", bound), ("validation bound", validation_bound)):
            if value is not None:
                self._bounds[name] = float(value)
        self._unprinted = True
        if self._live is None and self._last[0] >= self._print_from:
            self.print(self._status())
            self._unprinted, self._print_from = False, self._last[0] + _PLAIN_LINE_SECONDS

    def print(self, line: str) -> None:
        """Print `line` above the bar."""
        if self._live is None:
            print(line, file=self._stream, flush=True)
        else:
            self._live.console.print(line, markup=False, soft_wrap=True)

    def _steps_per_second(self) -> float:
        """Return the rate; 0 if it is not known yet."""
        start_time, start_step = self._start
        if self._begun and self._first is not None and self._step == self._first[1] < self._total_steps:
            return 0.0
        if self._first is not None and self._step > self._first[1]:
            start_time, start_step = self._first
        return (self._step - start_step) / max(self._last[0] - start_time, 1e-9)

    def _status(self) -> str:
        rate = self._steps_per_second()
        done = 100 * self._step / max(self._total_steps, 1)
        parts = [f"step {self._step}/{self._total_steps} ({done:.0f} %)"]
        parts += [f"{name} {value:.2f} nats" for name, value in self._bounds.items()]
        if rate > 0:
            parts.append(f"{rate:,.{0 if rate >= 100 else 2}f} steps/s")
            parts.append(f"{rate * self._examples_per_step:,.0f} examples/s")
        parts.append(f"elapsed {timedelta(seconds=int(time.monotonic() - self._start[0]))}")
        if rate > 0 and self._step < self._total_steps:
            parts.append(f"left {timedelta(seconds=round((self._total_steps - self._step) / rate))}")
        return ", ".join(parts)

    def _render(self) -> "Table":
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        rows = Table.grid(expand=True)
        rows.add_row(ProgressBar(total=max(self._total_steps, 1), completed=self._step))
        rows.add_row(self._status())
        return rows
