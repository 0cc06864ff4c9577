"""Errors of Orbax and its storage in one line, and suppression of the messages that they print in addition."""

import inspect
import logging
import os
import re
import sys

_PATH = f"{os.sep}orbax{os.sep}"
_MARKS = (_PATH, "tensorstore", "orbax-checkpoint", "OCDBT")  # in log messages of Orbax and its storage
_HOOK_NAME = "_hook_without_orbax"


class Damaged(Exception):
    """The files of a step differ from what was saved."""


def reason(error: BaseException) -> str:
    """Return the root cause of an error in one line of at most 250 characters, or the file system's message for it."""
    while error.__cause__:
        error = error.__cause__
    kind = "" if isinstance(error, OSError | Damaged) else f"{type(error).__name__}: "
    text = kind + " ".join(str(error).split())
    if match := re.search(r"os_error_code='(\d+)'", text):  # at the end of a long text about the array
        return os.strerror(int(match[1]))
    return text if len(text) <= 250 else f"{text[:100]} ... {text[-145:]}"


def silence() -> None:
    """Drop log messages of Orbax, and the errors that its cancelled operations report when they are collected."""
    for name in ("absl", "asyncio"):
        logging.getLogger(name).addFilter(_not_from_orbax)
    previous = sys.unraisablehook
    if getattr(previous, "__name__", "") == _HOOK_NAME:
        return

    def _hook_without_orbax(unraisable: "sys.UnraisableHookArgs") -> None:
        origin, error = unraisable.object, unraisable.exc_value
        cancelled = inspect.iscoroutine(origin) and _PATH in origin.cr_code.co_filename
        late = origin is None and isinstance(error, RuntimeError) and str(error) == "Event loop is closed"
        if not (cancelled or late):
            previous(unraisable)

    sys.unraisablehook = _hook_without_orbax


def _not_from_orbax(record: logging.LogRecord) -> bool:
    text = f"{record.pathname} {record.getMessage()}"
    return not any(mark in text for mark in _MARKS)
