"""Image files: decoded by the listed decoders only, upright, without transparency, and resized on request."""

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vae_jax.data.files import one_line
from vae_jax.errors import InputError, StorageError, VaeJaxError

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # Pillow runs Ghostscript to decode some of the others
RECORD_FORMATS = ("JPEG", "PNG")  # those in which TFDS encodes images
BACKGROUND = "white"  # below transparent pixels
GREY_MODES = ("1", "L", "LA", "La")
ORIENTATION = 0x0112  # the EXIF tag
SIDEWAYS = (5, 6, 7, 8)  # values of the tag that exchange width and height
NEXT_PNM = re.compile(rb"\s*P[1-7fF]\s")  # the start of the next picture of a PNM file, after binary pixels
NEXT_PLAIN_PNM = re.compile(rb"(?:^|[\r\n])[^#\r\n]*P[1-7fF]\s")  # the same among numbers and comments in ASCII


@contextmanager
def open_image(path: Path, where: str) -> Iterator["Image"]:
    """Open an image file of one of the `FORMATS`, whatever its name; convert the errors of reading it.

    Args:
      path: The file.
      where: The start of an error message.

    Raises:
      StorageError: If the file cannot be read or decoded.
    """
    from PIL import Image

    try:
        if not path.is_file():
            raise OSError("not a plain file")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as opened:
                yield opened
    except VaeJaxError:
        raise
    except Exception as error:  # each of Pillow's decoders raises different errors
        raise StorageError(
            f"{where} has the unreadable image {path.name!r} ({one_line(error)}); repair or remove it"
        ) from None


def check_image(image: "Image", name: str, where: str) -> None:
    """Raise InputError if an opened image has several frames, or more than 8 bits per channel; no pixel is decoded."""
    tiles: Any = getattr(image, "tile", ())
    deep = any(";16" in str(tile.args) or _pnm_maximum(tile) > 255 for tile in tiles)
    if image.mode.startswith(("I", "F")) or deep:
        mode = image.mode if image.mode.startswith(("I", "F")) else f"{image.mode} with 16 bits per channel"
        raise InputError(f"{where} has the image {name!r} of mode {mode}; convert it to 8 bits per channel")
    if _has_frames(image):
        raise InputError(
            f"{where} has the image {name!r} with {getattr(image, 'n_frames', 'several')} frames; save each frame as a "
            "file, or remove it"
        )


def _pnm_maximum(tile: Any) -> int:
    """Return the number that is white in a PNM file if Pillow scales it; 0 for another file."""
    return tile.args[1] if tile.codec_name in ("ppm", "ppm_plain") and isinstance(tile.args, tuple) else 0


def _has_frames(image: "Image") -> bool:
    """Return whether an opened image of 8 bits per channel has several frames. An MPO is a photograph with previews."""
    if image.format != "PPM":
        return image.format != "MPO" and getattr(image, "is_animated", False)
    opened: Any = image  # with the attributes of an image file
    file, (tile,) = opened.fp, opened.tile  # Pillow reads only the first picture of a PNM file
    if tile.codec_name == "ppm_plain":
        file.seek(tile.offset)
        return NEXT_PLAIN_PNM.search(file.read()) is not None
    row_bits = image.width * len(image.getbands()) * (1 if image.mode == "1" else 8)
    file.seek(tile.offset + image.height * -(-row_bits // 8))
    return NEXT_PNM.match(file.read(64)) is not None


def upright_size(image: "Image") -> tuple[int, int]:
    """Return width and height of an opened image after its EXIF orientation is applied; no pixel is decoded."""
    from PIL import Image

    width, height = image.size
    # The method of the base class: that of PNG decodes the image. Pillow applies the tag of a TIFF itself.
    sideways = image.format != "TIFF" and Image.Image.getexif(image).get(ORIENTATION) in SIDEWAYS
    return (height, width) if sideways else (width, height)


def to_pixels(image: "Image", channels: int, resize: int | None = None) -> np.ndarray:
    """Return the pixels of an opened image.

    Args:
      image: The image. Its EXIF orientation is applied, and transparency is composed on the `BACKGROUND`.
      channels: 1 for grey, 3 for colour.
      resize: The shorter side is scaled to so many pixels by Pillow's antialiased bicubic filter, and the centre is
        cropped to a square. None keeps the size.

    Returns:
      uint8 [H, W, channels].
    """
    from PIL import Image, ImageOps

    ImageOps.exif_transpose(image, in_place=True)
    if image.has_transparency_data:
        opaque = Image.new("RGBA", image.size, BACKGROUND)
        opaque.alpha_composite(image.convert("RGBA"))
        image = opaque
    image = image.convert("L" if channels == 1 else "RGB")
    if resize is not None:
        image = _fit(image, resize)
    return np.asarray(image).reshape(image.height, image.width, channels)


def resize_pixels(pixels: np.ndarray, size: int) -> np.ndarray:
    """Return decoded pixels, scaled and cropped as by `to_pixels`.

    Args:
      pixels: uint8 [H, W, C].
      size: Height and width of the result.

    Returns:
      uint8 [size, size, C].
    """
    from PIL import Image

    channels = [_fit(Image.fromarray(pixels[..., c]), size) for c in range(pixels.shape[-1])]
    return np.stack([np.asarray(channel) for channel in channels], axis=-1)


def _fit(image: "Image", size: int) -> "Image":
    """Scale the shorter side to `size` pixels, and crop the centre to a square."""
    from PIL import Image, ImageOps

    return ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)


def decode_record(encoded: bytes) -> np.ndarray:
    """Return the pixels of an image in a record of TFDS, as TFDS decodes it: uint8 [H, W, C].

    Raises:
      Exception: If it is not in one of the `RECORD_FORMATS`, or damaged; Pillow raises many kinds of errors.
    """
    from PIL import Image

    with Image.open(io.BytesIO(encoded), formats=RECORD_FORMATS) as image:
        pixels = np.asarray(image, np.uint8)
    return pixels if pixels.ndim == 3 else pixels[..., np.newaxis]
