"""Examples from files: .npy and .npz arrays, folders of image files, IDX archives.

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

from vae_jax.data import kinds
from vae_jax.data.dataset import ArrayDataset
from vae_jax.data.splits import SPLITS
from vae_jax.errors import InputError, StorageError, VaeJaxError
from vae_jax.runtime import host

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
KEYS = {"x": ("x", "images"), "y": ("y", "labels"), "mask": ("mask",)}  # keys in a .npz file, the first has precedence
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


def load_file(path: Path, kind: str = "auto") -> ArrayDataset:
    """Return the arrays of a .npy or .npz file.

    Args:
      path: The file. The array of a .npy file is x. Those of a .npz file are x (key `x` or `images`, or the only array
        except the others), y (key `y` or `labels`) and mask (key `mask`), as for `from_arrays`.
      kind: images, vectors or counts; auto infers it as `infer_kind`.

    Returns:
      All examples, as they are stored.

    Raises:
      InputError: If the contents cannot be examples of the kind.
      StorageError: If the file is damaged.
    """
    where = f"data.name={str(path)!r}"
    with _opened(path, where) as file:
        num_bytes = os.fstat(file.fileno()).st_size
        if path.suffix.lower() != ".npz":
            x, kind = _read_examples(file, num_bytes, kind, where)
            return ArrayDataset({"x": x}, kind)
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


def _load_archive(archive: zipfile.ZipFile, num_bytes: int, kind: str, where: str) -> ArrayDataset:
    """Return the arrays of a .npz file of so many bytes."""
    members = {m.filename.removesuffix(".npy"): m for m in archive.infolist() if m.filename.endswith(".npy")}
    keys = _choose_keys(sorted(members), where)
    arrays = {}
    for name, key in keys.items():
        member = members[key]
        where_member = f"{where} ({member.filename})"
        _check_member(member, num_bytes, where_member)
        with archive.open(member) as stream:
            if name == "x":
                arrays[name], kind = _read_examples(stream, member.file_size, kind, where_member)
                continue
            array = _read_array(stream, member.file_size, where_member)
        if name == "y":
            arrays[name] = kinds.check_labels(array, len(arrays["x"]), where_member)
        else:
            arrays[name] = kinds.check_mask(array, arrays["x"].shape, where_member)
    return ArrayDataset(arrays, kind)


def _choose_keys(found: Sequence[str], where: str) -> dict[str, str]:
    """Return {name of an array of the data set: its key in a .npz file}, x first."""
    keys = {name: key for name, options in KEYS.items() for key in reversed(options) if key in found}
    others = [key for key in found if key not in keys.values()]
    if "x" not in keys and len(others) == 1:
        keys["x"] = others[0]
    if "x" not in keys:
        raise InputError(f"{where} has no array 'x' or 'images' among its arrays {found}; save it under that key")
    return {name: keys[name] for name in KEYS if name in keys}


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
    kind = kinds.infer_kind(header.dtype, header.shape) if kind == "auto" else kind
    shape = kinds.check_shape(header.shape, kind, where)
    kinds.check_dtype(header.dtype, kind, where)
    numbers = math.prod(shape)
    stored = kinds.convert(_chunks(stream, header.dtype, numbers, where), header.dtype, numbers, kind, where)
    return np.ascontiguousarray(_in_c_order(stored, header)).reshape(shape), kind


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


def load_folder(path: Path) -> ArrayDataset:
    """Return the images of a folder in the order of their file names.

    If the folder has no images but folders of images, these are the classes: label i is the i-th of their sorted names.

    Args:
      path: The folder. Files of other types and hidden files are ignored.

    Returns:
      x, uint8 [N, H, W, C], and y, int32 [N], if there are classes. C is 1 if all images are grey, else 3. A palette
      becomes colour; transparency is dropped.

    Raises:
      InputError: If the folder contains no images, images of different sizes, or both images and folders of images.
      StorageError: If an image cannot be read.
    """
    where = f"data.name={str(path)!r}"
    names, labels = _folder_names(path, where)
    shape = _folder_shape(path, names, where)
    check_memory(math.prod(shape), where)
    images = np.empty(shape, np.uint8)
    for image, name in zip(images, names, strict=True):
        with _open_image(path / name, where) as opened:
            image[:] = np.asarray(opened.convert("L" if shape[3] == 1 else "RGB")).reshape(shape[1:])
    return ArrayDataset({"x": images} if labels is None else {"x": images, "y": labels}, "images")


def _folder_names(path: Path, where: str) -> tuple[list[str], np.ndarray | None]:
    """Return the images of a folder, as paths relative to it, and their labels, if they are in folders of classes."""
    try:
        names = _image_names(path)
        folders = sorted(p.name for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
        classes = {folder: images for folder in folders if (images := _image_names(path / folder))}
    except OSError as error:
        raise StorageError(f"{where} cannot be listed ({one_line(error)}); check its permissions") from None
    if not names and (path / "dataset_info.json").exists():
        raise InputError(
            f"{where} is a dataset prepared by TFDS; use its name, and the folder of all prepared datasets as "
            "data.data_dir"
        )
    if names and classes:
        raise InputError(
            f"{where} contains both images and folders of images ({', '.join(classes)}); keep the images, or a folder "
            "for each class"
        )
    if not names and not classes:
        raise InputError(
            f"{where} contains no images, neither directly nor in a folder for each class; add files of the types "
            f"{', '.join(IMAGE_SUFFIXES)}"
        )
    if names:
        return names, None
    if classes.keys() <= set(SPLITS):
        raise InputError(
            f"{where} has folders named like splits, {', '.join(classes)}, not like classes; use one of these folders"
        )
    labels = np.repeat(np.arange(len(classes), dtype=np.int32), [len(images) for images in classes.values()])
    return [f"{folder}/{name}" for folder, images in classes.items() for name in images], labels


def _image_names(path: Path) -> list[str]:
    """Return the sorted names of the images directly in a folder."""
    names = (p.name for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith("."))
    return sorted(names)


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
