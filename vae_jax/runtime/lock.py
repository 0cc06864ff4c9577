"""runtime.lock."""

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from vae_jax.errors import LockedError, StorageError

LOCK_NAME = "lock"


@contextlib.contextmanager
def run_lock(directory: str | os.PathLike) -> Iterator[None]:
    """Holds a run directory: two runs in one would replace each other's steps.

    The kernel releases the lock when its process ends, however it ends. In a run of several processes the
    first one takes it for all. Raises LockedError, which names the owner, or StorageError.
    """
    path = Path(directory) / LOCK_NAME
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "a+", encoding="utf-8")  # noqa: SIM115  (closed below; "w" would wipe the owner's name)
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
