"""Decoded arrays on disk: a .npy file each, its SHA-256 and a stamp of its source beside it. It never raises."""

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from vae_jax.runtime import atomic_files


def fingerprint(array: np.ndarray) -> str:
    """SHA-256 over dtype, shape and bytes, in hexadecimal: equal for equal arrays, whatever their strides."""
    array = np.ascontiguousarray(array)
    found = digest(array.dtype, array.shape)
    found.update(array.reshape(-1).view(np.uint8))
    return found.hexdigest()


def digest(dtype: np.dtype, shape: tuple[int, ...]) -> Any:
    """The SHA-256 of `fingerprint`, to be given the bytes of such an array by its `update`."""
    return hashlib.sha256(f"{dtype.str} {shape}".encode())


def stamp(directory: Path) -> list[list]:
    """Name, size and time of change of each file of a prepared data set: another stamp means other data."""
    stats = ((path.name, path.stat()) for path in directory.iterdir())
    return sorted([name, stat.st_size, stat.st_mtime_ns] for name, stat in stats)


def read(path: Path, source: list) -> np.ndarray | None:
    """The array saved at `path` from the source of that stamp; None if it is missing, outdated or damaged."""
    try:
        beside = json.loads(path.with_suffix(".json").read_text())
        if beside["source"] != source:
            return None
        array = np.load(path, allow_pickle=False)
        return array if fingerprint(array) == beside["sha256"] else None
    except Exception:  # whatever is wrong with a damaged cache, it is made anew
        return None


def write(path: Path, array: np.ndarray, source: list) -> None:
    """Saves `array`, each of the two files in one step; a folder that cannot be written is let be."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = json.dumps({"sha256": fingerprint(array), "source": source})
        atomic_files.replace(path, lambda file: np.save(file, array, allow_pickle=False))
        atomic_files.replace(path.with_suffix(".json"), lambda file: file.write(beside.encode()))
