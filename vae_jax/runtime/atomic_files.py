"""Atomic file writes: a file is written completely or not at all. Also reads of files, and a check of a directory."""

import errno
import json
import os
import stat
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from vae_jax.errors import StorageError
from vae_jax.runtime import multihost


def write_json(path: Path, content: object) -> None:
    """Write a value as JSON, atomically.

    Args:
      path: The file to write. Missing parent directories are created.
      content: A value that `json.dumps` accepts. NaN and infinity are not allowed.

    Raises:
      StorageError: If the file system refuses the write.
    """
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    write_file(path, lambda file: file.write(text.encode()))


def write_file(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file atomically: after an error the old content is unchanged.

    In a run of several processes only the primary process writes.

    Args:
      path: The file to write. Missing parent directories are created.
      write: Writes the content to the open binary file that it receives.

    Raises:
      StorageError: In all processes, if the file system refuses the write.
    """
    multihost.run_on_primary(lambda: write_file_locally(path, write))


def write_file_locally(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file as `write_file` does, but in this process, without communication with other processes."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace(path, write)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from error


def replace(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Replace a file in an existing directory atomically; several writers may do so at the same time.

    When the function returns, the file is on the disk, not only in the memory of the system.

    Args:
      path: The file to write.
      write: Writes the content to the open binary file that it receives.

    Raises:
      OSError: If the file system refuses the write.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with open(temporary, "xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the new name, which a loss of power would undo otherwise
    finally:
        os.close(folder)


def read_file(path: Path) -> bytes:
    """Read a regular file.

    Args:
      path: The file.

    Returns:
      Its content.

    Raises:
      OSError: If the file cannot be read, or is a pipe or a device, for whose end a reader may wait without end.
    """
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", os.fspath(path))
        return file.read()


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Args:
      path: The file.

    Returns:
      The value that it contains.

    Raises:
      OSError: If the file cannot be read, as in `read_file`.
      ValueError: If it is not JSON, or nested too deep.
    """
    try:
        return json.loads(read_file(path))
    except RecursionError:
        raise ValueError("nested too deep") from None


def remove(path: Path) -> None:
    """Remove a file if it exists. In a run of several processes the primary process does it.

    Args:
      path: The file to remove.

    Raises:
      StorageError: In all processes, if the file exists and cannot be removed.
    """

    def unlink() -> None:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"cannot remove {path}: {error.strerror}") from error

    multihost.run_on_primary(unlink)


def check_writable(directory: Path, flag: str = "--workdir") -> None:
    """Raise an error if a directory cannot be created or written to; create nothing.

    Args:
      directory: The directory to check. It need not exist.
      flag: The command-line flag that the error message names.

    Raises:
      StorageError: If the directory, or its nearest existing parent, is not writable.
    """
    existing = directory
    try:  # The mode bits are not enough: they allow root to write to /proc.
        while not existing.exists() and existing != existing.parent:
            existing = existing.parent
        if max(map(len, map(os.fsencode, directory.parts)), default=0) > os.pathconf(existing, "PC_NAME_MAX"):
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        tempfile.TemporaryDirectory(prefix=".vae-jax-", dir=existing).cleanup()
    except OSError as error:
        raise StorageError(f"{flag}={directory} cannot be created or written to ({error.strerror})") from None
