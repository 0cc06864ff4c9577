"""Damage to files, and a disk that is full."""

import contextlib
import os
import resource
import shutil
from pathlib import Path


def step_files(directory, step):
    return sorted(f for f in (Path(directory) / "checkpoints" / str(step)).rglob("*") if f.is_file())


def leaf_file(directory, step):
    return max(step_files(directory, step), key=lambda f: f.stat().st_size)


def truncate(run, step):
    os.truncate(leaf_file(run, step), leaf_file(run, step).stat().st_size // 2)


def empty(run, step):
    shutil.rmtree(run / "checkpoints" / str(step))
    (run / "checkpoints" / str(step)).mkdir()


@contextlib.contextmanager
def full_disk():
    """No file of this process can grow past 4 kB: what a full disk does to a save."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def damage_unseen(path):
    """Flip one bit of a file without a change of its modification time."""
    times, content = path.stat(), bytearray(path.read_bytes())
    content[int(0.8 * len(content))] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
