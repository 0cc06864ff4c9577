"""Lock of a run's directory: one owner at a time, whose name others report."""

import os
import subprocess
import sys

import pytest

from vae_jax.errors import LockedError, StorageError
from vae_jax.runtime.lock import run_lock

pytestmark = pytest.mark.fault

HOLD = """
import sys, time
from vae_jax.runtime.lock import run_lock
with run_lock(sys.argv[1]):
    print("locked", flush=True)
    time.sleep(60)
"""


def test_the_second_owner_is_refused_with_the_name_of_the_first(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout.readline() == "locked\n", other.stderr.read()
            name = f"in use by process {other.pid} on {os.uname().nodename}$"
            with pytest.raises(LockedError, match=name), run_lock(tmp_path / "run"):
                pass
        finally:
            other.kill()
    for _ in range(2):  # the lock is free again after kill -9 and after the end of its block
        with run_lock(tmp_path / "run"), pytest.raises(LockedError), run_lock(tmp_path / "run"):
            pass


def test_a_lock_that_cannot_be_made_is_a_storage_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="file"), run_lock(tmp_path / "file"):
        pass
