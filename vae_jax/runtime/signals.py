"""What SIGTERM and SIGINT do to a command: the first asks it to stop, a SIGINT after it ends the process at once."""

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

STOPPING = (signal.SIGTERM, signal.SIGINT)


@contextlib.contextmanager
def stop_on_signals() -> Iterator[Callable[[], bool]]:
    """Gives a function that says whether SIGTERM or SIGINT has come; a SIGINT after either ends the process at once.

    Python calls a handler only between two of its own instructions, so not while XLA compiles: a thread that is told
    of each signal by the interpreter's wake-up socket sees to the second one meanwhile.
    """
    received: list[int] = []

    def handle(number: int, frame: Any) -> None:
        del frame
        received.append(number)
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    watcher = threading.Thread(target=_leave_at_the_second, args=(ours,), daemon=True)
    before = {number: signal.signal(number, handle) for number in STOPPING}
    told_before = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    watcher.start()
    try:
        yield lambda: bool(received)
    finally:
        signal.set_wakeup_fd(told_before)
        for number, handler in before.items():
            signal.signal(number, handler)
        theirs.close()
        watcher.join()
        ours.close()


def _leave_at_the_second(told: socket.socket) -> None:
    """Ends the process when SIGINT follows one of STOPPING; returns when the other end of the socket is closed."""
    stopping = False
    while number := told.recv(1):
        if stopping and number[0] == signal.SIGINT:
            os._exit(128 + signal.SIGINT)  # as a shell tells of a process that SIGINT has ended
        stopping = stopping or number[0] in STOPPING
