"""Signals: SIGTERM, SIGHUP and SIGINT request a stop, a SIGINT after one of them ends the process; SIGUSR1 a save."""

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


@contextlib.contextmanager
def stop_on_signals() -> Iterator[Callable[[], bool]]:
    """Record `STOP_SIGNALS` inside a `with` block; a SIGINT after one of them ends the process at once.

    A SIGHUP that is ignored, as under `nohup`, stays ignored.

    Python runs a signal handler only between two of its instructions, so not while XLA compiles. A thread reads the
    interpreter's wake-up socket, receives each signal in that time, and ends the process at the second one.

    Yields:
      A function that returns whether a signal has arrived.
    """
    received: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        del frame
        received.append(number)
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    reader, writer = socket.socketpair()
    writer.setblocking(False)
    watcher = threading.Thread(target=_exit_on_second_signal, args=(reader,), daemon=True)
    ignored = [signal.SIGHUP] if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else []
    old_handlers = {number: signal.signal(number, handle) for number in STOP_SIGNALS if number not in ignored}
    old_wakeup_fd = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    watcher.start()
    try:
        yield lambda: bool(received)
    finally:
        signal.set_wakeup_fd(old_wakeup_fd)
        for number, handler in old_handlers.items():
            signal.signal(number, handler)
        writer.close()
        watcher.join()
        reader.close()


@contextlib.contextmanager
def save_on_signal() -> Iterator[Callable[[], bool]]:
    """Record SIGUSR1 inside a `with` block; SLURM sends it before a time limit if it is asked to.

    Yields:
      A function that returns whether the signal has arrived since the previous call.
    """
    received: list[int] = []
    old_handler = signal.signal(signal.SIGUSR1, lambda number, frame: received.append(number))

    def requested() -> bool:
        arrived = bool(received)
        received.clear()
        return arrived

    try:
        yield requested
    finally:
        signal.signal(signal.SIGUSR1, old_handler)


def _exit_on_second_signal(reader: socket.socket) -> None:
    """End the process when SIGINT follows a stop signal; return when the other end of the socket is closed."""
    stopping = False
    while number := reader.recv(1):
        if stopping and number[0] == signal.SIGINT:
            os._exit(128 + signal.SIGINT)  # the exit code with which a shell reports a process ended by SIGINT
        stopping = stopping or number[0] in STOP_SIGNALS
