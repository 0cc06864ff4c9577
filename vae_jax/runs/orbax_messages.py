"""Suppression of the messages that Orbax and its storage print in addition to the errors that they raise."""

import inspect
import logging
import os
import sys

_PATH = f"{os.sep}orbax{os.sep}"
_MARKS = (_PATH, "tensorstore", "orbax-checkpoint", "OCDBT")  # in log messages of Orbax and its storage
_HOOK_NAME = "_hook_without_orbax"


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
