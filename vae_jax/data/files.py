"""Images from files: .npy and .npz arrays, folders of image files, IDX archives.

A header is checked before memory is allocated, and no function here can unpickle.
"""

import gzip
import math
import os
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

import numpy as np

from vae_jax.errors import InputError, StorageError, VaeJaxError
from vae_jax.runtime import host

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
CHUNK = 1 << 22  # elements converted at once
GIB = 1 << 30

# In this module `where` is the start of an error message, the setting and its value: data.name='x.npz' (images.npy).


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
            "free memory, or use fewer or smaller images"
        )


def check_images(shape: tuple[int, ...], where: str) -> tuple[int, int, int, int]:
    """Return `shape` as [N, H, W, C].

    Raises:
      InputError: If it is neither [N, H, W] nor [N, H, W, 1 or 3], or if one of its sizes is 0.
    """
    full = (*shape, 1) if len(shape) == 3 else shape
    if len(full) != 4 or full[3] not in (1, 3) or min(full[1:]) < 1:
        raise InputError(f"{where} has shape {list(shape)}; use [N, H, W] or [N, H, W, 1 or 3]")
    if full[0] < 1:
        raise InputError(f"{where} is empty; use at least one image")
    return full


def load_array(path: Path) -> np.ndarray:
    """Return the images of a .npy or .npz file as uint8 [N, H, W, C].

    Raises:
      InputError: If the contents cannot be images.
      StorageError: If the file is damaged.
    """
    with _open_array(path, "images") as (stream, size, where):
        header = _read_header(stream, size, where)
        shape = check_images(header.shape, where)
        if header.dtype not in (np.uint8, bool) and header.dtype.kind != "f":
            raise InputError(f"{where} has dtype {header.dtype}; use uint8, bool, or floats in [0, 1]")
        images = _read_pixels(stream, header, where)
    if header.dtype == np.uint8 and images.max() == 1:
        raise InputError(f"{where} has uint8 values of only 0 and 1, but white is 255; multiply them by 255")
    return images.reshape(shape)


def load_array_labels(path: Path) -> np.ndarray:
    """Return the array `labels` of a .npz file as int32 [N].

    Raises:
      InputError: If there are no labels, or they do not match the images; else as `load_array`.
      StorageError: If the file is damaged.
    """
    if path.suffix.lower() != ".npz":
        raise InputError(f"data.name={str(path)!r} has no labels; use a .npz file with an array 'labels'")
    with _open_array(path, "images") as (stream, size, where):
        num_images = check_images(_read_header(stream, size, where).shape, where)[0]
    with _open_array(path, "labels") as (stream, size, where):
        header = _read_header(stream, size, where)
        if header.shape != (num_images,) or header.dtype.kind not in "iu":
            raise InputError(
                f"{where} has shape {list(header.shape)} and dtype {header.dtype}; use one integer for each of the "
                f"{num_images} images"
            )
        data = _read_exactly(stream, num_images * header.dtype.itemsize, where)
        _expect_end(stream, where)
    labels = np.frombuffer(data, header.dtype)
    if not -(2**31) <= labels.min() <= labels.max() < 2**31:
        raise InputError(f"{where} has values from {labels.min()} to {labels.max()}; use labels that fit in int32")
    return labels.astype(np.int32)


@contextmanager
def _open_array(path: Path, key: str) -> Iterator[tuple[IO[bytes], int, str]]:
    """Open a .npy file, or the array `key` of a .npz file: (stream, bytes in it, `where`)."""
    where = f"data.name={str(path)!r}"
    try:
        if path.exists() and not path.is_file():  # opening a pipe would block for ever
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
        raise InputError(f"{where} does not exist; use the path of a .npy or .npz file") from None
    except VaeJaxError:
        raise
    except (OSError, EOFError, RuntimeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise StorageError(f"{where} is damaged or unreadable ({one_line(error)}); write it again") from None


def _choose_member(archive: zipfile.ZipFile, key: str, where: str) -> zipfile.ZipInfo:
    arrays = {m.filename.removesuffix(".npy"): m for m in archive.infolist() if m.filename.endswith(".npy")}
    others = [name for name in arrays if name != "labels"]
    if key in arrays:
        return arrays[key]
    if key == "images" and len(others) == 1:
        return arrays[others[0]]
    raise InputError(f"{where} has no array {key!r} among its arrays {sorted(arrays)}; save it under that key")


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
        raise InputError(f"{where} has dtype {dtype}, pickled Python objects, which are never loaded; save it as uint8")
    num_bytes, available = math.prod(shape) * dtype.itemsize, size - stream.tell()
    if any(d < 0 for d in shape) or num_bytes > available:
        raise StorageError(
            f"{where} declares {dtype} {list(shape)} in its header, but {available} bytes follow; write it again"
        )
    check_memory(num_bytes, where)
    return Header(dtype, shape, fortran)


def _read_pixels(stream: IO[bytes], header: Header, where: str) -> np.ndarray:
    """Return the array as uint8 of the declared shape; floats are rounded in chunks, to save memory."""
    dtype, size = header.dtype, math.prod(header.shape)
    pixels, low, high = np.empty(size, np.uint8), math.inf, -math.inf
    for start in range(0, size, CHUNK):
        stop = min(start + CHUNK, size)
        chunk = np.frombuffer(_read_exactly(stream, (stop - start) * dtype.itemsize, where), dtype)
        if dtype.kind == "f":
            with np.errstate(invalid="ignore"):  # a NaN propagates and is refused below
                low, high = np.minimum(low, chunk.min()), np.maximum(high, chunk.max())
            inside = low >= 0 and high <= 1
            chunk = np.rint(chunk.astype(np.float64) * 255) if inside else np.zeros((), np.uint8)
        elif dtype.kind == "b":
            chunk = np.uint8(255) * (chunk.view(np.uint8) != 0)
        pixels[start:stop] = chunk
    _expect_end(stream, where)
    if dtype.kind == "f" and not (low >= 0 and high <= 1):
        raise InputError(f"{where} has float values from {low:g} to {high:g}; scale them to [0, 1]")
    if header.fortran:
        return np.ascontiguousarray(pixels.reshape(header.shape[::-1]).T)
    return pixels.reshape(header.shape)


def _read_exactly(stream: IO[bytes], num_bytes: int, where: str) -> bytes:
    data = stream.read(num_bytes)
    if len(data) != num_bytes:
        raise StorageError(f"{where} ends {num_bytes - len(data)} bytes early; write it again")
    return data


def _expect_end(stream: IO[bytes], where: str) -> None:
    if stream.read(1):  # zipfile compares the checksum only when the end is reached
        raise StorageError(f"{where} has extra bytes after the array; write it again")


def load_folder(path: Path) -> np.ndarray:
    """Return the images of a folder in the order of their file names, uint8 [N, H, W, C].

    C is 1 if all images are grey, else 3. A palette becomes colour; transparency is dropped.

    Raises:
      InputError: If the folder contains no images, or images of different sizes.
      StorageError: If an image cannot be read.
    """
    where = f"data.name={str(path)!r}"
    try:
        names = [p.name for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith(".")]
    except OSError as error:
        raise StorageError(f"{where} cannot be listed ({one_line(error)}); check its permissions") from None
    if not names and (path / "dataset_info.json").exists():
        raise InputError(
            f"{where} is a dataset prepared by TFDS; use its name, and the folder of all prepared datasets as "
            "data.data_dir"
        )
    if not names:
        raise InputError(
            f"{where} contains no images (subfolders are ignored); add files of the types {', '.join(IMAGE_SUFFIXES)}"
        )
    names.sort()
    shape = _folder_shape(path, names, where)
    check_memory(math.prod(shape), where)
    images = np.empty(shape, np.uint8)
    for image, name in zip(images, names, strict=True):
        with _open_image(path / name, where) as opened:
            image[:] = np.asarray(opened.convert("L" if shape[3] == 1 else "RGB")).reshape(shape[1:])
    return images


def _folder_shape(path: Path, names: Sequence[str], where: str) -> tuple[int, int, int, int]:
    """Return [N, H, W, C] from the headers alone, before any pixel is decoded."""
    sizes, grey = [], True
    for name in names:
        with _open_image(path / name, where) as opened:
            sizes.append(opened.size)
            if sizes[-1] != sizes[0]:
                raise InputError(
                    f"{where} has images of different sizes ({name} is {_size(sizes[-1])}, "
                    f"{names[0]} is {_size(sizes[0])}); resize them to one size"
                )
            if opened.mode.startswith(("I", "F")):
                raise InputError(
                    f"{where} has the image {name} of mode {opened.mode}; convert it to 8 bits per channel"
                )
            grey &= opened.mode in ("1", "L", "LA", "La")
    width, height = sizes[0]
    return len(names), height, width, 1 if grey else 3


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


@contextmanager
def _open_image(path: Path, where: str) -> Iterator["Image"]:
    from PIL import Image

    try:
        if not path.is_file():
            raise OSError("not a plain file")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as opened:
                yield opened
    except VaeJaxError:
        raise
    except Exception as error:  # each of Pillow's decoders raises different errors
        raise StorageError(
            f"{where} has the unreadable image {path.name!r} ({one_line(error)}); repair or remove it"
        ) from None


def read_idx(path: Path, ndim: int, where: str) -> np.ndarray:
    """Return the array of a gzipped IDX file of uint8 with `ndim` dimensions.

    Raises:
      InputError: If the file is anything else, or damaged.
    """
    try:
        with gzip.open(path) as stream:
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


def _idx_bytes(stream: gzip.GzipFile, num_bytes: int) -> bytes:
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
