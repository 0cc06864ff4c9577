"""Handling of SIGTERM and SIGINT: the first one requests a stop, a SIGINT after it ends the process at once."""

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextlib.contextmanager
def stop_on_signals() -> Iterator[Callable[[], bool]]:
    """Record SIGTERM and SIGINT inside a `with` block; a SIGINT after either ends the process at once.

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
    old_handlers = {number: signal.signal(number, handle) for number in STOP_SIGNALS}
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


def _exit_on_second_signal(reader: socket.socket) -> None:
    """End the process when SIGINT follows a stop signal; return when the other end of the socket is closed."""
    stopping = False
    while number := reader.recv(1):
        if stopping and number[0] == signal.SIGINT:
            os._exit(128 + signal.SIGINT)  # the exit code with which a shell reports a process ended by SIGINT
        stopping = stopping or number[0] in STOP_SIGNALS
