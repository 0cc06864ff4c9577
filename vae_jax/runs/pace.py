"""The number of steps of a dispatch: so few that the devices compute them within seconds, as a signal to stop needs."""

import time
from typing import Any

import jax

from vae_jax.runtime import multihost

LONG = 5.0  # seconds; steps that take longer are divided into several dispatches
SECONDS = 2.0  # of each of these
_NUM_TIMED = 2


class Pace:
    """Limits the steps of a dispatch by the time of the first steps.

    The first three dispatches have one step each. The first waits for the compiler; the other two are timed, and the
    faster one counts. The results do not depend on the limit. With several processes the primary process decides.

    Args:
      fixed: whether the program is compiled for one number of steps, so that a dispatch may not be shortened.
    """

    def __init__(self, *, fixed: bool):
        self._fixed = fixed
        self._times: list[float] = []  # seconds of the first dispatches
        self._step_seconds = 0.0

    @property
    def measures(self) -> bool:
        """Whether the time of a step is still being measured."""
        return not self._fixed and len(self._times) <= _NUM_TIMED

    def is_slow(self, steps: int) -> bool:
        """Return whether this number of steps is known to take longer than one dispatch may."""
        return self._step_seconds * steps > LONG

    def steps(self, most: int) -> int:
        """Return the number of steps of the next dispatch, at most `most`."""
        if self.measures:
            return 1
        return max(1, min(most, int(SECONDS / self._step_seconds))) if self.is_slow(most) else most

    def dispatch(self, program: Any, *arguments: Any) -> Any:
        """Return the results of a program, which wait for the devices only while the time of a step is measured."""
        if not self.measures:
            return program(*arguments)
        start = time.monotonic()
        results = jax.block_until_ready(program(*arguments))
        self._times.append(time.monotonic() - start)
        self._step_seconds = multihost.broadcast_from_primary(lambda: min(self._times[1:], default=0.0))
        return results
