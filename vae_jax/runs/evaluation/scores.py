"""Scores of each example of an evaluation, in a file scores-SPLIT.npz: by them runs are compared example by example."""

import io
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from vae_jax.data import ArrayDataset
from vae_jax.runtime import atomic_files


def identify_examples(dataset: ArrayDataset) -> dict[str, np.ndarray]:
    """Return what identifies the examples in a file of results: `index`, `file_name`, `split` and `label`, if known.

    Args:
      dataset: the examples.

    Returns:
      {name: [N]}.
    """
    return dict(dataset.origin) | ({"label": dataset.arrays["y"]} if "y" in dataset.arrays else {})


def write_scores(path: Path, scores: Mapping[str, np.ndarray], dataset: ArrayDataset) -> None:
    """Write the scores of examples and what identifies the examples, atomically.

    Args:
      path: the file to write.
      scores: {name: [N]}, as `evaluate_run` passes them to `receive`.
      dataset: the examples.

    Raises:
      StorageError: the file cannot be written.
    """
    arrays = {**scores, **identify_examples(dataset)}
    atomic_files.write_file(path, lambda file: np.savez(file, allow_pickle=False, **arrays))


def read_scores(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Read a file of `write_scores`.

    Args:
      path: the file.

    Returns:
      {name: [N]}; {} if the file does not exist, or is no such file.
    """
    try:
        arrays = np.load(io.BytesIO(atomic_files.read_file(Path(path))), allow_pickle=False)
        return dict(arrays) if isinstance(arrays, Mapping) else {}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return {}
