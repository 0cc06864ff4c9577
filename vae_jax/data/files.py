"""Images from files: .npy and .npz arrays, folders of pictures, IDX archives.

A header is judged before memory is taken, and nothing here could unpickle.
"""

import gzip
import math
import os
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from vae_jax.errors import InputError, StorageError, VaeJaxError
from vae_jax.runtime import host

PICTURES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
CHUNK = 1 << 22  # elements converted at once
GIB = 1 << 30


class Header(NamedTuple):
    """What a .npy header declares."""

    dtype: np.dtype
    shape: tuple[int, ...]
    fortran: bool


def one_line(error: BaseException) -> str:
    """An exception as one short line."""
    return (" ".join(str(error).split()) or type(error).__name__)[:200]


def check_memory(num_bytes: int, where: str) -> None:
    """Raises InputError for an array that would not fit."""
    if (free := host.available_memory()) is not None and num_bytes > free:
        raise InputError(f"{where}: needs {num_bytes / GIB:.1f} GiB of memory, {free / GIB:.1f} GiB are free")


def check_images(shape: tuple[int, ...], where: str) -> tuple[int, ...]:
    """`shape` as [N, H, W, C]; InputError unless it is [N, H, W] or [N, H, W, 1 or 3], none of them 0."""
    full = (*shape, 1) if len(shape) == 3 else shape
    if len(full) != 4 or full[3] not in (1, 3) or min(full[1:]) < 1:
        raise InputError(f"{where}: shape {list(shape)} given; allowed are [N, H, W] and [N, H, W, 1 or 3]")
    if full[0] < 1:
        raise InputError(f"{where}: the data set is empty; at least one image is needed")
    return full


def load_array(path: Path) -> np.ndarray:
    """The images of a .npy or .npz file as uint8 [N, H, W, C].

    Raises InputError for contents that cannot be images, StorageError for a damaged file.
    """
    with _open_member(path, "images") as (stream, size, where):
        header = _read_header(stream, size, where)
        shape = check_images(header.shape, where)
        if header.dtype not in (np.uint8, bool) and header.dtype.kind != "f":
            raise InputError(f"{where}: dtype {header.dtype} given; allowed are uint8, bool, or floats in [0, 1]")
        images = _read_pixels(stream, header, where)
    if header.dtype == np.uint8 and images.max() == 1:
        raise InputError(f"{where}: values of 0 and 1 given as uint8, whose white is 255; multiply them by 255")
    return images.reshape(shape)


def load_array_labels(path: Path) -> np.ndarray:
    """The array `labels` of a .npz file as int32 [N]; InputError if there is none, else as `load_array`."""
    if path.suffix.lower() != ".npz":
        raise InputError(f"data.name={str(path)!r}: has no labels; a .npz file may, under the key 'labels'")
    with _open_member(path, "images") as (stream, size, where):
        num_images = check_images(_read_header(stream, size, where).shape, where)[0]
    with _open_member(path, "labels") as (stream, size, where):
        header = _read_header(stream, size, where)
        if header.shape != (num_images,) or header.dtype.kind not in "iu":
            raise InputError(
                f"{where}: {header.dtype} {list(header.shape)} given; {num_images} whole numbers are needed"
            )
        data = _read_exactly(stream, num_images * header.dtype.itemsize, where)
        _expect_end(stream, where)
    labels = np.frombuffer(data, header.dtype)
    if not -(2**31) <= labels.min() <= labels.max() < 2**31:
        raise InputError(f"{where}: values from {labels.min()} to {labels.max()}; labels must fit 32 bits")
    return labels.astype(np.int32)


@contextmanager
def _open_member(path: Path, key: str) -> Iterator[tuple[IO[bytes], int, str]]:
    """Opens the .npy file, or the right member of the .npz: (stream, bytes in it, its name for messages)."""
    where = f"data.name={str(path)!r}"
    try:
        if path.exists() and not path.is_file():  # opening a pipe would wait for ever
            raise OSError("not a plain file")
        with open(path, "rb") as file:
            num_bytes = os.fstat(file.fileno()).st_size
            if path.suffix.lower() != ".npz":
                yield file, num_bytes, where
                return
            with zipfile.ZipFile(file) as archive:
                member = _choose_member(archive, key, where)
                _check_member(member, num_bytes, f"{where} ({member.filename})")
                with archive.open(member) as stream:
                    yield stream, member.file_size, f"{where} ({member.filename})"
    except FileNotFoundError:
        raise InputError(f"{where}: no such file") from None
    except VaeJaxError:
        raise
    except (OSError, EOFError, RuntimeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise StorageError(f"{where}: damaged or unreadable ({one_line(error)}); write it again") from None


def _choose_member(archive: zipfile.ZipFile, key: str, where: str) -> zipfile.ZipInfo:
    arrays = {m.filename.removesuffix(".npy"): m for m in archive.infolist() if m.filename.endswith(".npy")}
    others = [name for name in arrays if name != "labels"]
    if key in arrays:
        return arrays[key]
    if key == "images" and len(others) == 1:
        return arrays[others[0]]
    raise InputError(f"{where}: holds the arrays {sorted(arrays)}; one under the key {key!r} is needed")


def _check_member(member: zipfile.ZipInfo, num_bytes: int, where: str) -> None:
    if member.compress_size > num_bytes:
        raise StorageError(f"{where}: {member.compress_size} bytes in a file of {num_bytes}; write it again")
    if member.file_size > GIB and member.file_size > 1000 * member.compress_size:
        raise InputError(
            f"{where}: {member.compress_size} bytes that unpack to {member.file_size} are refused as a bomb"
        )
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise InputError(f"{where}: unknown compression; write it with numpy.savez or numpy.savez_compressed")


def _read_header(stream: IO[bytes], size: int, where: str) -> Header:
    """Reads and judges a .npy header: what it declares must be there, fit in memory, and be plain numbers."""
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # headers written by Python 2 are legal
            shape, fortran, dtype = readers[np.lib.format.read_magic(stream)](stream)
    except (zipfile.BadZipFile, zlib.error, OSError):
        raise
    except Exception:  # a hostile header reaches the parser of Python literals, which raises nearly anything
        raise InputError(f"{where}: not an array in the .npy format; write it with numpy.save") from None
    if dtype.hasobject:
        raise InputError(f"{where}: dtype {dtype} is pickled Python objects, never loaded; save it as uint8")
    num_bytes, there = math.prod(shape) * dtype.itemsize, size - stream.tell()
    if any(d < 0 for d in shape) or num_bytes > there:
        raise StorageError(
            f"{where}: the header declares {dtype} {list(shape)}, but {there} bytes follow; write it again"
        )
    check_memory(num_bytes, where)
    return Header(dtype, shape, fortran)


def _read_pixels(stream: IO[bytes], header: Header, where: str) -> np.ndarray:
    """The array as uint8, of the shape declared; floats are rounded chunk by chunk, never held as a whole."""
    dtype, size = header.dtype, math.prod(header.shape)
    pixels, low, high = np.empty(size, np.uint8), math.inf, -math.inf
    for start in range(0, size, CHUNK):
        stop = min(start + CHUNK, size)
        chunk = np.frombuffer(_read_exactly(stream, (stop - start) * dtype.itemsize, where), dtype)
        if dtype.kind == "f":
            with np.errstate(invalid="ignore"):  # a NaN is carried along and refused below
                low, high = np.minimum(low, chunk.min()), np.maximum(high, chunk.max())
            inside = low >= 0 and high <= 1
            chunk = np.rint(chunk.astype(np.float64) * 255) if inside else np.zeros((), np.uint8)
        elif dtype.kind == "b":
            chunk = np.uint8(255) * (chunk.view(np.uint8) != 0)
        pixels[start:stop] = chunk
    _expect_end(stream, where)
    if dtype.kind == "f" and not (low >= 0 and high <= 1):
        raise InputError(f"{where}: float values from {low:g} to {high:g}; floats must lie in [0, 1]")
    if header.fortran:
        return np.ascontiguousarray(pixels.reshape(header.shape[::-1]).T)
    return pixels.reshape(header.shape)


def _read_exactly(stream: IO[bytes], num_bytes: int, where: str) -> bytes:
    data = stream.read(num_bytes)
    if len(data) != num_bytes:
        raise StorageError(f"{where}: ends {num_bytes - len(data)} bytes early; write it again")
    return data


def _expect_end(stream: IO[bytes], where: str) -> None:
    if stream.read(1):  # reaching the end is also what makes zipfile compare the checksum
        raise StorageError(f"{where}: bytes are left over after the array; write it again")


def load_folder(path: Path) -> np.ndarray:
    """The pictures of a folder in the order of their names, uint8 [N, H, W, C]; C = 1 if all are grey, else 3.

    A palette becomes colour, transparency is dropped. Raises InputError for an empty folder or pictures of
    unequal size, StorageError for one that cannot be read.
    """
    where = f"data.name={str(path)!r}"
    try:
        names = [p.name for p in path.iterdir() if p.suffix.lower() in PICTURES and not p.name.startswith(".")]
    except OSError as error:
        raise StorageError(f"{where}: cannot be listed ({one_line(error)})") from None
    if not names and (path / "dataset_info.json").exists():
        raise InputError(f"{where}: prepared by TFDS; give its name, and as data.data_dir the folder of all of them")
    if not names:
        raise InputError(f"{where}: the folder holds no pictures ({', '.join(PICTURES)})")
    names.sort()
    size, grey = None, True
    for name in names:  # headers only: size and colour are settled before any pixel is decoded
        with _picture(path / name) as picture:
            size = size or picture.size
            if picture.size != size:
                raise InputError(
                    f"{where}: {name} is {_size(picture.size)}, {names[0]} is {_size(size)}; all must agree"
                )
            if picture.mode.startswith(("I", "F")):
                raise InputError(f"{where}: {name} has mode {picture.mode}; convert it to 8 bits a channel")
            grey &= picture.mode in ("1", "L", "LA", "La")
    shape = (len(names), size[1], size[0], 1 if grey else 3)
    check_memory(math.prod(shape), where)
    images = np.empty(shape, np.uint8)
    for image, name in zip(images, names, strict=True):
        with _picture(path / name) as picture:
            image[:] = np.asarray(picture.convert("L" if grey else "RGB")).reshape(shape[1:])
    return images


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


@contextmanager
def _picture(path: Path):
    from PIL import Image

    try:
        if not path.is_file():
            raise OSError("not a plain file")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as picture:
                yield picture
    except VaeJaxError:
        raise
    except Exception as error:  # each of Pillow's decoders raises kinds of its own
        raise StorageError(
            f"data.name: {str(path)!r} cannot be read as a picture ({one_line(error)}); mend or remove it"
        ) from None


def read_idx(path: Path, ndim: int) -> np.ndarray:
    """The gzipped IDX file of `ndim` dimensions as uint8. InputError for anything else, whole or not."""
    try:
        with gzip.open(path) as stream:
            head = np.frombuffer(_idx_bytes(stream, 4 + 4 * ndim), ">u4")
            if head[0] != 0x0800 + ndim:
                raise ValueError(f"magic number {head[0]:#x} instead of {0x0800 + ndim:#x}")
            shape = tuple(int(d) for d in head[1:])
            if math.prod(shape) > GIB:
                raise ValueError(f"declares the shape {list(shape)}")
            data = _idx_bytes(stream, math.prod(shape))
            if stream.read(1):
                raise ValueError("bytes are left over")
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise InputError(f"source={str(path)!r}: not the official archive ({one_line(error)}); get it again") from None
    return np.frombuffer(data, np.uint8).reshape(shape)


def _idx_bytes(stream: IO[bytes], num_bytes: int) -> bytes:
    data = stream.read(num_bytes)
    if len(data) != num_bytes:
        raise ValueError("ends early")
    return data


def read_idx_pair(images: Path, labels: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [N, H, W] and labels uint8 [N] of two IDX archives; InputError if they do not match."""
    x, y = read_idx(images, 3), read_idx(labels, 1)
    if len(x) != len(y):
        raise InputError(f"source={str(images)!r}: holds {len(x)} images, but {labels.name} holds {len(y)} labels")
    return x, y
