"""Examples from .npy and .npz files.

A header is checked before memory is allocated, and no function here can unpickle.
"""

import math
import os
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from vae_jax.data import kinds
from vae_jax.data.dataset import ArrayDataset, LoadedParts
from vae_jax.errors import InputError, StorageError, VaeJaxError
from vae_jax.runtime import host

# Words in the keys of a .npz file, such as x, x_train or train_images, in any case; the first has precedence.
WORDS = {
    "x": ("x", "images", "imgs", "image", "data"),
    "y": ("y", "labels", "label"),
    "mask": ("mask",),
    "c": ("conditions", "condition", "covariates"),
}
SPLIT_WORDS = {"train": ("", "train"), "validation": ("validation", "val", "valid"), "test": ("test",)}
GIB = 1 << 30


class Header(NamedTuple):
    """What a .npy header declares."""

    dtype: np.dtype
    shape: tuple[int, ...]
    fortran: bool


def one_line(error: BaseException) -> str:
    """Return the message of an exception as one line of at most 200 characters."""
    return (" ".join(str(error).split()) or type(error).__name__)[:200]


def check_memory(num_bytes: int, where: str) -> None:
    """Raise InputError if an array of so many bytes does not fit in the available memory."""
    if (free := host.available_memory()) is not None and num_bytes > free:
        raise InputError(
            f"{where} needs {num_bytes / GIB:.1f} GiB of memory, but {free / GIB:.1f} GiB are free; "
            "free memory, or use fewer or smaller examples"
        )


def load_file(path: Path, kind: str = "auto") -> LoadedParts:
    """Return the arrays of a .npy or .npz file.

    Args:
      path: The file. The array of a .npy file is x. Those of a .npz file are x (key `x`, `images`, `imgs`, `image` or
        `data`, or the only array except the others), y (key `y`, `labels` or `label`), mask (key `mask`) and c (key
        `conditions`, `condition` or `covariates`), as for `from_arrays`. The keys of splits have their name before or
        after it: `x_train`, `test_images`.
      kind: images, vectors or counts; auto infers it as `infer_kind`.

    Returns:
      The splits, as they are stored; only train, if the file has no splits. The notes list the arrays that are left
      out.

    Raises:
      InputError: If the contents cannot be examples of the kind.
      StorageError: If the file is damaged.
    """
    where = f"data.name={str(path)!r}"
    with _opened(path, where) as file:
        num_bytes = os.fstat(file.fileno()).st_size
        if path.suffix.lower() != ".npz":
            x, kind = _read_examples(file, num_bytes, kind, where)
            return LoadedParts({"train": ArrayDataset({"x": x}, kind)}, ())
        with zipfile.ZipFile(file) as archive:
            return _load_archive(archive, num_bytes, kind, where)


@contextmanager
def _opened(path: Path, where: str) -> Iterator[IO[bytes]]:
    """Open a file; convert the errors of reading it."""
    try:
        if path.exists() and not path.is_file():  # opening a pipe would block for ever
            raise OSError("not a plain file")
        with open(path, "rb") as file:
            yield file
    except FileNotFoundError:
        raise InputError(f"{where} does not exist; use the path of a .npy or .npz file") from None
    except VaeJaxError:
        raise
    except (OSError, EOFError, RuntimeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise StorageError(f"{where} is damaged or unreadable ({one_line(error)}); write it again") from None


def _load_archive(archive: zipfile.ZipFile, num_bytes: int, kind: str, where: str) -> LoadedParts:
    """Return the arrays of a .npz file of so many bytes."""
    members = {m.filename.removesuffix(".npy"): m for m in archive.infolist() if m.filename.endswith(".npy")}
    keys = _choose_keys(sorted(members), where)
    parts: dict[str, ArrayDataset] = {}
    for split, chosen in keys.items():
        arrays = {}
        for name, key in chosen.items():
            member = members[key]
            where_member = f"{where} ({member.filename})"
            _check_member(member, num_bytes, where_member)
            with archive.open(member) as stream:
                if name == "x":
                    arrays[name], kind = _read_examples(stream, member.file_size, kind, where_member)
                    continue
                array = _read_array(stream, member.file_size, where_member)
            if name == "y":
                array = array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array
                arrays[name] = kinds.check_labels(array, len(arrays["x"]), where_member)
            elif name == "c":
                arrays[name] = kinds.check_conditions(array, len(arrays["x"]), where_member)
            else:
                arrays[name] = kinds.check_mask(array, arrays["x"].shape, where_member)
        parts[split] = ArrayDataset(arrays, kind)
    used = {key for chosen in keys.values() for key in chosen.values()}
    unused = sorted(info.filename for info in archive.infolist() if info.filename.removesuffix(".npy") not in used)
    notes = (f"{where}: {len(unused)} other array(s) left out: {', '.join(unused)}",) if unused else ()
    return LoadedParts(parts, notes)


def _choose_keys(found: Sequence[str], where: str) -> dict[str, dict[str, str]]:
    """Return {split: {name of an array of the data set: its key in a .npz file}}, train first and x first."""
    lower = {key.lower(): key for key in reversed(found)}
    keys: dict[str, dict[str, str]] = {}
    for split, words in SPLIT_WORDS.items():
        for name, options in WORDS.items():
            possible = [key for option in options for word in words for key in _joined(option, word)]
            if known := [lower[key] for key in possible if key in lower]:
                keys.setdefault(split, {})[name] = known[0]
    train = keys.get("train", {})
    others = [key for key in found if key not in train.values()]
    if "x" not in train and len(others) == 1 and keys.keys() <= {"train"}:
        train = keys["train"] = {"x": others[0], **train}
    if "x" not in train:
        raise InputError(
            f"{where} has no array 'x' or 'images' or 'x_train' among its arrays {list(found)}; save it under that key"
        )
    return {split: keys[split] for split in SPLIT_WORDS if "x" in keys.get(split, {})}


def _joined(option: str, word: str) -> tuple[str, ...]:
    """Return the keys of an array and a split, such as x_train and train_x."""
    return (f"{option}_{word}", f"{word}_{option}") if word else (option,)


def _check_member(member: zipfile.ZipInfo, num_bytes: int, where: str) -> None:
    if member.compress_size > num_bytes:
        raise StorageError(
            f"{where} declares {member.compress_size} bytes in a file of {num_bytes} bytes; write it again"
        )
    if member.file_size > GIB and member.file_size > 1000 * member.compress_size:
        raise InputError(
            f"{where} unpacks {member.compress_size} bytes to {member.file_size}, as a zip bomb does; "
            "write it without compression, with numpy.savez"
        )
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise InputError(f"{where} has an unknown compression; write it with numpy.savez or numpy.savez_compressed")


def _read_header(stream: IO[bytes], size: int, where: str) -> Header:
    """Read and check a .npy header: the data it declares must exist, fit in memory, and be plain numbers."""
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # headers written by Python 2 are valid
            shape, fortran, dtype = readers[np.lib.format.read_magic(stream)](stream)
    except (zipfile.BadZipFile, zlib.error, OSError):
        raise
    except Exception:  # a hostile header reaches the parser of Python literals, which can raise nearly any error
        raise InputError(f"{where} is not in the .npy format; write it with numpy.save") from None
    if dtype.hasobject:
        raise InputError(
            f"{where} has dtype {dtype}, pickled Python objects, which are never loaded; save it as numbers"
        )
    num_bytes, available = math.prod(shape) * dtype.itemsize, size - stream.tell()
    if any(d < 0 for d in shape) or num_bytes > available:
        raise StorageError(
            f"{where} declares {dtype} {list(shape)} in its header, but {available} bytes follow; write it again"
        )
    check_memory(num_bytes, where)
    return Header(dtype, shape, fortran)


def _read_examples(stream: IO[bytes], size: int, kind: str, where: str) -> tuple[np.ndarray, str]:
    """Return the examples of a .npy stream of so many bytes as they are stored, and their kind."""
    header = _read_header(stream, size, where)
    is_inferred = kind == "auto"
    kind = kinds.infer_kind(header.dtype, header.shape) if is_inferred else kind
    shape = kinds.check_shape(header.shape, kind, where)
    kinds.check_dtype(header.dtype, kind, where)
    numbers = math.prod(shape)
    check_memory(numbers * kinds.KINDS[kind].dtype.itemsize, where)
    stored = kinds.convert(_chunks(stream, header.dtype, numbers, where), header.dtype, numbers, kind, where)
    examples = np.ascontiguousarray(_in_c_order(stored, header)).reshape(shape)
    if is_inferred:
        kinds.check_inferred(examples, header.dtype, where)
    return examples, kind


def _read_array(stream: IO[bytes], size: int, where: str) -> np.ndarray:
    """Return the array of a .npy stream of so many bytes."""
    header = _read_header(stream, size, where)
    chunks = list(_chunks(stream, header.dtype, math.prod(header.shape), where))
    return _in_c_order(np.concatenate([np.empty(0, header.dtype), *chunks]), header)


def _in_c_order(flat: np.ndarray, header: Header) -> np.ndarray:
    return flat.reshape(header.shape[::-1]).T if header.fortran else flat.reshape(header.shape)


def _chunks(stream: IO[bytes], dtype: np.dtype, numbers: int, where: str) -> Iterator[np.ndarray]:
    """Yield the numbers that follow a header, which are the rest of the stream."""
    for start in range(0, numbers, kinds.CHUNK):
        length = min(kinds.CHUNK, numbers - start)
        yield np.frombuffer(_read_exactly(stream, length * dtype.itemsize, where), dtype)
    if stream.read(1):  # zipfile compares the checksum only when the end is reached
        raise StorageError(f"{where} has extra bytes after the array; write it again")


def _read_exactly(stream: IO[bytes], num_bytes: int, where: str) -> bytes:
    data = stream.read(num_bytes)
    if len(data) != num_bytes:
        raise StorageError(f"{where} ends {num_bytes - len(data)} bytes early; write it again")
    return data
