"""IDX archives, the format of MNIST, Fashion-MNIST, KMNIST and EMNIST."""

import gzip
import math
import zlib
from pathlib import Path
from typing import IO

import numpy as np

from vae_jax.data.dataset import ArrayDataset, LoadedParts
from vae_jax.data.files import GIB, one_line
from vae_jax.data.kinds import check_labels
from vae_jax.errors import InputError, StorageError

IMAGES = "images-idx3-ubyte"  # the end of the name of an archive, except for .gz
LABELS = "labels-idx1-ubyte"
SPLITS = {"train-": "train", "t10k-": "test", "test-": "test"}  # before these in the name
EXPECTED = f"train-{IMAGES}.gz"


def find_archives(path: Path) -> dict[str, Path]:
    """Return {split: archive of images} of the data set that a folder contains, or to which an archive belongs.

    Args:
      path: A folder, or the archive of its training images.

    Returns:
      The archives of images; empty if the folder has none.

    Raises:
      InputError: If the folder has archives of several data sets.
      StorageError: If it cannot be listed.
    """
    folder = path if path.is_dir() else path.parent
    found: dict[str, dict[str, Path]] = {}
    try:
        archives = sorted(folder.iterdir())
    except OSError as error:
        raise StorageError(f"{folder} cannot be listed ({one_line(error)}); check its permissions") from None
    for archive in archives:
        name = archive.name.removesuffix(".gz")
        for start, split in SPLITS.items():
            if name.endswith(start + IMAGES) and archive.is_file():
                found.setdefault(name.removesuffix(start + IMAGES), {})[split] = archive
    if not path.is_dir():
        name = path.name.removesuffix(".gz")
        start = next((start for start in SPLITS if name.endswith(start + IMAGES)), "")
        archives = found.get(name.removesuffix(start + IMAGES), {})
        return archives | {SPLITS[start]: path} if start and archives else {}
    if len(found) > 1:
        paths = " or ".join(archives.get("train", next(iter(archives.values()))).name for archives in found.values())
        raise InputError(f"data.name={str(path)!r} has archives of several data sets; use the path of {paths}")
    return next(iter(found.values()), {})


def is_archive(path: Path) -> bool:
    """Return whether a path has the name of an archive of images."""
    return path.name.removesuffix(".gz").endswith(IMAGES)


def load_archives(path: Path) -> LoadedParts | None:
    """Return the images and labels of the IDX archives of one data set.

    Args:
      path: A folder, or an archive of images. The archives of labels are next to those of images; there may be none.

    Returns:
      The splits: x, uint8 [N, H, W, 1], and y, int32 [N]. None for a folder without archives.

    Raises:
      InputError: If an archive is missing, damaged or empty, the folder contains several data sets, there are no
        training images, or only some splits have labels.
    """
    where = f"data.name={str(path)!r}"
    if not path.exists():
        raise InputError(f"{where} does not exist; use the path of an IDX archive of images")
    if not (archives := find_archives(path)):
        return None
    labels = {split: _labels_of(archive) for split, archive in archives.items()}
    labelled = [split for split, archive in labels.items() if archive.exists()]
    if "train" not in archives:
        raise InputError(f"{where} has no archive of training images; add {EXPECTED}, whose name can have a prefix")
    if labelled and len(labelled) < len(labels):
        missing = next(archive.name for split, archive in labels.items() if split not in labelled)
        raise InputError(f"{where} has labels of some splits, but no file {missing}; add it")
    parts = {}
    for split, archive in archives.items():
        x, y = read_idx_pair(archive, labels[split], where) if labelled else (read_idx(archive, 3, where), None)
        if not x.size:
            raise InputError(f"{where} has no images in {archive.name}; download it again")
        arrays = {"x": x[..., np.newaxis]} | ({} if y is None else {"y": check_labels(y, len(x), where)})
        parts[split] = ArrayDataset(arrays, "images")
    return LoadedParts(parts, ())


def _labels_of(archive: Path) -> Path:
    """Return the archive of the labels of an archive of images: of two, gzipped or not, the one with its suffix."""
    first = archive.with_name(archive.name.replace(IMAGES, LABELS))
    other = first.with_suffix("") if first.suffix == ".gz" else first.with_name(f"{first.name}.gz")
    return other if other.exists() and not first.exists() else first


def read_idx(path: Path, ndim: int, where: str) -> np.ndarray:
    """Return the array of an IDX file of uint8 with `ndim` dimensions, gzipped if its name ends in .gz.

    Raises:
      InputError: If the file is anything else, or damaged.
    """
    try:
        if not path.is_file():
            raise OSError("not a plain file")
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as stream:
            head = np.frombuffer(_idx_bytes(stream, 4 + 4 * ndim), ">u4")
            if head[0] != 0x0800 + ndim:
                raise ValueError(f"magic number {head[0]:#x} instead of {0x0800 + ndim:#x}")
            shape = tuple(int(d) for d in head[1:])
            if math.prod(shape) > GIB:
                raise ValueError(f"it declares the shape {list(shape)}")
            data = _idx_bytes(stream, math.prod(shape))
            if stream.read(1):
                raise ValueError("it has extra bytes")
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise InputError(
            f"{where} has a file {path.name} that is not the official archive ({one_line(error)}); download it again"
        ) from None
    return np.frombuffer(data, np.uint8).reshape(shape)


def _idx_bytes(stream: IO[bytes] | gzip.GzipFile, num_bytes: int) -> bytes:
    data = stream.read(num_bytes)
    if len(data) != num_bytes:
        raise ValueError("it ends early")
    return data


def read_idx_pair(images: Path, labels: Path, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Return images, uint8 [N, H, W], and labels, uint8 [N], of two IDX archives.

    Raises:
      InputError: If one of them is not such an archive, or their numbers of examples differ.
    """
    x, y = read_idx(images, 3, where), read_idx(labels, 1, where)
    if len(x) != len(y):
        raise InputError(
            f"{where} has {len(x)} images in {images.name}, but {len(y)} labels in {labels.name}; "
            "download the official archives again"
        )
    return x, y
