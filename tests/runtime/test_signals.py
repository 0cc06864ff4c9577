"""Signals: the first one requests a stop, a SIGINT after it ends the process at once, also outside Python."""

import signal
import subprocess
import sys
import time

import pytest

from vae_jax.runtime.signals import save_on_signal, stop_on_signals

pytestmark = pytest.mark.fault

CHILD = """
import ctypes, signal, sys, time
from vae_jax.runtime.signals import stop_on_signals

with stop_on_signals() as stop:
    libc, lock = ctypes.CDLL(None), ctypes.create_string_buffer(64)
    libc.pthread_mutex_lock(lock)
    print("ready", flush=True)
    if sys.argv[1] == "between two steps":
        while not stop():
            time.sleep(0.01)
        print("stop requested", flush=True)
    libc.pthread_mutex_lock(lock)  # never returns, and runs outside Python as XLA's compiler does
"""


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("moment", ["between two steps", "in the compiler"])
def test_the_second_signal_ends_the_process_at_once(first, moment):
    with subprocess.Popen([sys.executable, "-c", CHILD, moment], stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout.readline() == "ready\n"
            time.sleep(0.3)  # until it has reached the moment to test
            child.send_signal(first)
            if moment == "between two steps":
                assert child.stdout.readline() == "stop requested\n"
            with pytest.raises(subprocess.TimeoutExpired):  # the first alone does not end it
                child.wait(timeout=0.3)
            child.send_signal(signal.SIGINT)
            assert child.wait(timeout=60) in (-signal.SIGINT, 128 + signal.SIGINT)  # a shell reports 130 for both
        finally:
            child.kill()


def test_the_first_signal_is_reported_and_the_handlers_are_restored():
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in handlers:
        with stop_on_signals() as stop:
            assert not stop()
            signal.raise_signal(number)
            time.sleep(0)  # Python runs the handler between two instructions.
            assert stop()
        assert {n: signal.getsignal(n) for n in handlers} == handlers
    assert signal.set_wakeup_fd(-1) == -1


def test_a_scheduler_may_repeat_sigterm():
    with stop_on_signals() as stop:
        for _ in range(3):
            signal.raise_signal(signal.SIGTERM)
        assert stop()


def test_a_hangup_requests_a_stop_unless_it_is_ignored():
    old = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup
    try:
        for handler, stops in ((signal.SIG_DFL, True), (signal.SIG_IGN, False)):  # nohup sets the second one
            signal.signal(signal.SIGHUP, handler)
            with stop_on_signals() as stop:
                signal.raise_signal(signal.SIGHUP)
                assert stop() is stops
    finally:
        signal.signal(signal.SIGHUP, old)


def test_sigusr1_requests_one_save():
    handler = signal.getsignal(signal.SIGUSR1)
    with stop_on_signals() as stop, save_on_signal() as save:
        assert not save()
        signal.raise_signal(signal.SIGUSR1)
        assert save()
        assert not save()
        assert not stop()
    assert signal.getsignal(signal.SIGUSR1) == handler
