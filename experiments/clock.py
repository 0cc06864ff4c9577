"""How long a training took that several processes may have worked on: for experiments that go on where they were."""

import json
import platform
import time
from collections.abc import Callable
from pathlib import Path

import jax

from vae_jax.runtime import atomic_files, host


class Clock:
    """Seconds that a training has taken, kept on disk over the processes that do it.

    To be given to `fit` or `fit_group` as its `stop`, which is asked after each dispatch: it passes the question on.
    """

    def __init__(self, path: Path, stop: Callable[[], bool] = lambda: False):
        self.path, self.stop = path, stop
        self.before = self.seconds = json.loads(path.read_text())["seconds"] if path.exists() else 0.0
        self.start = self.written = time.perf_counter()

    def __call__(self) -> bool:
        if time.perf_counter() - self.written > 10:
            self.write()
        return self.stop()

    def write(self) -> None:
        """Leaves the seconds so far, and what they were spent on, on disk."""
        self.written = time.perf_counter()
        self.seconds = self.before + self.written - self.start
        atomic_files.write_json(self.path, {"seconds": self.seconds, "device": device()})


def device() -> str:
    """What this process computes with."""
    found = jax.devices()
    cores = f", {host.cores()} cores" if found[0].platform == "cpu" else ""
    return f"{len(found)} {found[0].device_kind}{cores}, jax {jax.__version__}, Python {platform.python_version()}"
