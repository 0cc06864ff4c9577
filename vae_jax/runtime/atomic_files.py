"""Files that are written whole or not at all, and whether a directory can be written to."""

import json
import os
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from vae_jax.errors import StorageError
from vae_jax.runtime import multihost


def write_json(path: Path, content: Any) -> None:
    """Writes `content` as JSON, as `write_file` does."""
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    write_file(path, lambda file: file.write(text.encode()))


def write_file(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Lets `write` fill a file, whole or not at all; raises StorageError where the file system refuses.

    Of several processes the first writes for all.
    """
    multihost.run_on_primary(lambda: write_file_locally(path, write))


def write_file_locally(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """`write_file` of this process alone, whatever the others do."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace(path, write)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from error


def replace(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Lets `write` fill a file in a folder that is there, whole or not at all, beside others who do; raises OSError."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with open(temporary, "xb") as file:
            write(file)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def remove(path: Path) -> None:
    """Removes a file if it is there, the first of several processes for all; StorageError where it cannot be."""

    def unlink() -> None:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"cannot remove {path}: {error.strerror}") from error

    multihost.run_on_primary(unlink)


def check_writable(directory: Path, flag: str = "--workdir") -> None:
    """Refuses a directory that cannot be made or written to, and leaves nothing behind; raises StorageError."""
    existing = directory
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    try:  # only trying tells: by the mode bits, root may write to /proc
        tempfile.TemporaryDirectory(prefix=".vae-jax-", dir=existing).cleanup()
    except OSError as error:
        raise StorageError(f"{flag}: {directory} cannot be made or written to ({error.strerror})") from None
