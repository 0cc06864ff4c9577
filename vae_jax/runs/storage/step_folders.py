"""The folders of saved steps, `checkpoints/STEP`: their names, their listing, and paths that Orbax takes literally."""

import datetime
import functools
import glob
import os
import re
import shutil
import stat
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from vae_jax.errors import InputError, StorageError

_STEP_NAME = re.compile(r"0|[1-9][0-9]{0,17}", re.ASCII)
_TEMPORARIES = "*.orbax-checkpoint-tmp*"
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")  # the first part of a path that was made from a URL
_BUCKET = re.compile(r"(^|/)(gs|s3):/")  # Orbax takes it for a URL, anywhere in a path


def list_steps(folder: str | os.PathLike) -> list[int]:
    """Return the steps in a folder of checkpoints by name, oldest first, damaged or not; [] if there is no folder.

    Only the decimal number of a step, without leading zeros and of at most 18 digits, is a name of a step.
    """
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(int(name) for name in names if _STEP_NAME.fullmatch(name))


class StepFolder(NamedTuple):
    """The folder of a step.

    Attributes:
      step: its number.
      path: the folder.
      commit_timestamp: when it was saved, which Orbax reads from a file otherwise; nothing here depends on it.
    """

    step: int
    path: Any
    commit_timestamp: datetime.datetime = datetime.datetime.min


class StepNames:
    """The names of steps for Orbax, in place of the standard ones, which fail for a number of thousands of digits."""

    def build_name(self, step: int) -> str:
        """Return the name of a step's folder."""
        return str(step)

    def find_all(self, base_path: Any) -> Iterator[Any]:
        """Yield the folders of all steps."""
        return (self.find_step(base_path, step) for step in list_steps(base_path))

    def find_step(self, base_path: Any, step: int) -> Any:
        """Return the folder of a step, which need not exist."""
        return StepFolder(step, base_path / self.build_name(step))


def literal_path(path: Path) -> Any:
    """Return a path for Orbax, which finds the files of a save by `glob` over their absolute path.

    Without this, a folder with `[`, `*` or `?` in its path is searched as a pattern: the files of the processes are not
    found, and the save that Orbax reports as complete cannot be restored.
    """
    return _literal_path_class()(path)


@functools.cache
def _literal_path_class() -> Any:
    from etils.epath import gpath

    class LiteralPath(gpath.PosixGPath):
        def glob(self, pattern: str) -> Iterator["LiteralPath"]:
            return (self._new(found) for found in glob.glob(os.path.join(glob.escape(os.fspath(self)), pattern)))

    return LiteralPath


def check_path(path: Path) -> None:
    """Check that checkpoints can be stored under a path.

    Args:
      path: the run's directory.

    Raises:
      InputError: the path is a URL, begins with `~`, or contains a character that the storage of Orbax cannot take.
    """
    place, first = os.fspath(path.absolute()), path.parts[0] if path.parts else ""
    if (_URL.fullmatch(first) and len(path.parts) > 1) or _BUCKET.search(place):
        problem = "is a URL; mount the storage, and pass the path of the mounted folder"
    elif first.startswith("~"):
        problem = "begins with ~, which the shell has not replaced; pass the complete path"
    elif "\\" in place:
        problem = "contains a backslash, which the storage of checkpoints cannot take; choose another directory"
    elif not _is_utf8(place):
        problem = "is not valid UTF-8, which the storage of checkpoints needs; choose another directory"
    else:
        return
    raise InputError(f"directory={path} {problem}")


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def identity(folder: Path) -> tuple[int, int] | None:
    """Return the device and the inode of a folder; None if it does not exist."""
    try:
        status = os.stat(folder)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_dev, status.st_ino


def size_of(folder: Path) -> int:
    """Return the bytes in all files below a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def remove_temporaries(folder: Path) -> None:
    """Remove the temporary folders of saves that have failed or were killed; for a second, others may appear."""
    end = time.monotonic() + 1  # threads of a failed save may still write
    while time.monotonic() < end and (paths := list(folder.glob(_TEMPORARIES))):
        for path in paths:
            shutil.rmtree(path, ignore_errors=True)
        time.sleep(0.05)


def rename(folder: Path, steps: Iterable[int], prefix: str) -> None:
    """Rename steps to PREFIX-STEP; an existing PREFIX-STEP is removed; raise StorageError if this is refused."""
    for step in steps:
        renamed = folder / f"{prefix}-{step}"
        shutil.rmtree(renamed, ignore_errors=True)
        try:
            (folder / str(step)).rename(renamed)
        except OSError as error:
            raise StorageError(f"cannot rename step {step} to {renamed}: {error.strerror}") from error


def special_files(folder: Path) -> list[Path]:
    """Return the entries below a folder that are neither files nor folders, such as pipes, which a read waits for."""
    modes = ((path, path.stat().st_mode) for path in folder.rglob("*"))
    return [path for path, mode in modes if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))]
