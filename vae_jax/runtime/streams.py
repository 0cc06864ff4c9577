"""Standard streams that are closed, full, broken, or cannot encode a character: no work is lost for a message."""

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast


class TolerantStream:
    """A text stream whose writes never fail: after the first error all of them are discarded.

    Args:
      stream: the stream that is written to. Its other attributes are those of this stream.
    """

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text; return its length."""
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Write what is buffered."""
        self._try(self._stream.flush)

    def _try(self, action: Any) -> None:
        try:
            action()
        except (OSError, ValueError):  # ValueError: it is closed
            with contextlib.suppress(OSError, ValueError):  # a stream without a descriptor
                discard(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def discard(stream: TextIO) -> None:
    """Let a stream write to the null device, also what it has buffered, which would be an error at exit."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


@contextlib.contextmanager
def tolerant_streams() -> Iterator[None]:
    """Let messages on stderr be lost without an error inside a `with` block, and stdout print every character.

    A terminal or a pipe can end before the training does, and a log file can be on a full disk. A descriptor that is
    closed at the start is opened on the null device; otherwise the next file would get its number, and with it what
    libraries print.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115  # None if it is closed
    with contextlib.redirect_stderr(cast(TextIO, TolerantStream(stderr))):
        yield
