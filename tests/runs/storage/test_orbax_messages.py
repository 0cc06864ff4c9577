"""Messages of Orbax that are dropped, and messages of other libraries that are kept."""

import asyncio
import logging
import sys
import types

import pytest

from vae_jax.runs.storage import orbax_messages


@pytest.fixture
def reports(monkeypatch):
    """The errors that reach the hook which was installed before."""
    received = []
    monkeypatch.setattr(sys, "unraisablehook", received.append)
    orbax_messages.silence()
    return received


def unraisable(origin, error):
    return types.SimpleNamespace(object=origin, exc_value=error)


def test_log_messages_of_orbax_are_dropped_and_others_kept(reports, caplog):
    logger = logging.getLogger("absl")
    logger.warning("cannot write /run/checkpoints/5.orbax-checkpoint-tmp/state")
    logger.warning("OCDBT: cannot commit")
    logger.warning("8 devices")
    assert caplog.messages == ["8 devices"]


def test_a_cancelled_operation_of_orbax_is_not_reported(reports):
    async def operation():
        pass

    coroutine = operation()
    sys.unraisablehook(unraisable(coroutine, RuntimeError("not awaited")))  # not in a file of Orbax
    assert len(reports) == 1
    path = f"{orbax_messages._PATH}storage.py"
    code = types.CodeType.replace(operation.__code__, co_filename=path)
    of_orbax = types.FunctionType(code, {})()
    assert asyncio.iscoroutine(of_orbax)
    sys.unraisablehook(unraisable(of_orbax, RuntimeError("not awaited")))
    sys.unraisablehook(unraisable(None, RuntimeError("Event loop is closed")))
    assert len(reports) == 1
    coroutine.close()
    of_orbax.close()
    sys.unraisablehook(unraisable(None, RuntimeError("another error")))
    assert len(reports) == 2


def test_the_hook_is_installed_once(reports):
    hook = sys.unraisablehook
    orbax_messages.silence()
    assert sys.unraisablehook is hook
