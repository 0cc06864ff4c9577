"""The training time of an experiment that several processes train, one after another, because it is resumed."""

import json
import platform
import time
from collections.abc import Callable
from pathlib import Path

import jax

from vae_jax.runtime import atomic_files, host


class TrainingTimer:
    """The total training time in seconds, stored on disk and continued by the next process.

    Pass it to `default_callbacks` or `fit_group` as `stop`: it is called before the first step and after each dispatch,
    and returns the value of its `stop`.

    Attributes:
      path: the JSON file with the seconds and the device.
      stop: whether the training should stop; called once for each call of the timer.
      seconds: the total so far, as of the last `write`.
    """

    def __init__(self, path: Path, stop: Callable[[], bool] = lambda: False):
        self.path, self.stop = path, stop
        self.before = self.seconds = json.loads(path.read_text())["seconds"] if path.exists() else 0.0
        self.start = self.written = time.perf_counter()

    def __call__(self) -> bool:
        """Write the file if the last write is more than 10 seconds ago; return `stop()`."""
        if time.perf_counter() - self.written > 10:
            self.write()
        return self.stop()

    def write(self) -> None:
        """Write the seconds so far and the device to disk."""
        self.written = time.perf_counter()
        self.seconds = self.before + self.written - self.start
        atomic_files.write_json(self.path, {"seconds": self.seconds, "device": device_description()})


def device_description() -> str:
    """Return the number and kind of this process's devices, and the versions of JAX and Python."""
    devices = jax.devices()
    cores = f", {host.cores()} cores" if devices[0].platform == "cpu" else ""
    return f"{len(devices)} {devices[0].device_kind}{cores}, jax {jax.__version__}, Python {platform.python_version()}"
