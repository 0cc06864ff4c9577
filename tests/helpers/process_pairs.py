"""Runs of two processes with one CPU device each."""

import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
HEARTBEAT = 10  # seconds
PATIENCE = 240  # seconds, on a machine with other work


def free_port():
    """Return a port that is free now."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def start(rank, port, *command, flags=(), **kwargs):
    """Start a process with one device; `command` runs in it, with the flags that join it to another process."""
    environment = os.environ | {
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=1",  # The last one is used.
        "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    join = ["--distributed.coordinator", f"localhost:{port}", "--distributed.num-processes", "2"]
    join += ["--distributed.process-id", str(rank), "--distributed.initialization-timeout", str(PATIENCE)]
    join += ["--distributed.heartbeat-timeout", str(HEARTBEAT), "--distributed.shutdown-timeout", "10"]
    return subprocess.Popen(
        [sys.executable, *command, *flags, *join],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kwargs,
    )  # fmt: skip


@contextlib.contextmanager
def pair(*command, rank=lambda rank: {}):
    """Yield both processes of a run; kill them at the end if they still run."""
    port = free_port()
    both = [start(r, port, *command, **rank(r)) for r in (0, 1)]
    try:
        yield both
    finally:
        for process in both:
            process.kill()
            process.communicate()


def ends(both, timeout=PATIENCE):
    """Wait for both; return [(exit code, last line of stdout, last line of stderr)]."""
    results = []
    for process in both:
        out, err = (text.splitlines() or [""] for text in process.communicate(timeout=timeout))
        results.append((process.returncode, out[-1], err[-1]))
    return results
