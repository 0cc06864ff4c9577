"""A cache of decoded arrays on disk. Its functions never raise an error.

An entry is a .npy file and a .json file of the same name. The latter stores the array's fingerprint and the file
statistics of the dataset that the array was decoded from.
"""

import contextlib
import hashlib
import json
from pathlib import Path

import numpy as np

from vae_jax.runtime import atomic_files

FileStats = list[list]  # [name, bytes, modification time in ns] of each file


def fingerprint(array: np.ndarray) -> str:
    """Return the SHA-256 of an array: of its dtype, its shape and its bytes in C order.

    Equal arrays have equal fingerprints, whatever their strides.

    Args:
      array: An array of any shape, of a dtype without Python objects.

    Returns:
      The hash in hexadecimal, 64 characters.
    """
    array = np.ascontiguousarray(array)
    running_hash = start_fingerprint(array.dtype, array.shape)
    running_hash.update(array.reshape(-1).view(np.uint8).data)
    return running_hash.hexdigest()


def start_fingerprint(dtype: np.dtype, shape: tuple[int, ...]) -> "hashlib._Hash":
    """Return the SHA-256 of `fingerprint` before the array's bytes, which the caller passes to its `update`."""
    return hashlib.sha256(f"{dtype.str} {shape}".encode())


def file_stats(directory: Path) -> FileStats:
    """Return name, size and modification time of each file of a prepared dataset; they change when the data change."""
    stats = ((path.name, path.stat()) for path in directory.iterdir())
    return sorted([name, stat.st_size, stat.st_mtime_ns] for name, stat in stats)


def read(path: Path, source: FileStats) -> np.ndarray | None:
    """Return the array saved at `path` from a dataset with these file statistics.

    Returns None if the entry is missing, outdated or damaged.
    """
    try:
        metadata = json.loads(path.with_suffix(".json").read_text())
        if metadata["source"] != source:
            return None
        array = np.load(path, allow_pickle=False)
        return array if fingerprint(array) == metadata["sha256"] else None
    except Exception:  # whatever is wrong with a damaged entry, it is written again
        return None


def write(path: Path, array: np.ndarray, source: FileStats) -> None:
    """Save `array`, replacing each of the two files atomically; do nothing where the folder cannot be written."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        metadata = json.dumps({"sha256": fingerprint(array), "source": source})
        atomic_files.replace(path, lambda file: np.save(file, array, allow_pickle=False))
        atomic_files.replace(path.with_suffix(".json"), lambda file: file.write(metadata.encode()))
