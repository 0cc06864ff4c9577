"""The lock of a run directory: one run at a time writes to it."""

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from vae_jax.errors import LockedError, StorageError

LOCK_NAME = "lock"


@contextlib.contextmanager
def run_lock(directory: str | os.PathLike[str]) -> Iterator[None]:
    """Hold the lock of a run directory for the duration of a `with` block.

    Two runs in one directory would overwrite each other's checkpoints. The kernel releases the lock when the process
    ends, however it ends. In a run of several processes the primary process locks for all.

    Args:
      directory: The run directory. It is created if it does not exist.

    Yields:
      None, while the lock is held.

    Raises:
      LockedError: If another process holds the lock. The message names its process id and host.
      StorageError: If the lock file cannot be created or locked.
    """
    path = Path(directory) / LOCK_NAME
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # The `with` block below closes the file. Mode "w" would erase the owner's name.
        file = open(path, "a+", encoding="utf-8")  # noqa: SIM115
    except OSError as error:
        raise StorageError(f"cannot open the lock {path}: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
        except BlockingIOError:
            file.seek(0)
            owner = file.readline().strip() or "a process that has just started"
            raise LockedError(f"{directory} is in use by {owner}") from None
        except OSError as error:
            raise StorageError(f"cannot lock {path}: {error.strerror}") from error
        yield
