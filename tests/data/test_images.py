"""Image files: which are decoded, and that what is seen is what is read."""

import io
import itertools
import os
import stat

import numpy as np
import pytest
from inputs import random_images, refused
from PIL import Image
from prepared_datasets import write_dataset

from vae_jax.data import images
from vae_jax.data.loading import load
from vae_jax.errors import InputError, StorageError

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"
UNDO = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_90", 7: "TRANSVERSE",
        8: "ROTATE_270"}  # fmt: skip


@pytest.mark.fault
def test_a_program_is_never_started_for_an_image(tmp_path, monkeypatch):
    """A file that contains PostScript under another name, or a record that does: Pillow would run Ghostscript."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "gs"
    program.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo 10.0 && exit 0\ntouch {tmp_path}/RAN\nexit 1\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    (tmp_path / "x").mkdir()
    for suffix in images.SUFFIXES:
        path = tmp_path / "x" / f"9{suffix}"
        path.write_bytes(EPS)
        with refused(StorageError, f"unreadable image '9{suffix}'"):
            load(tmp_path / "x", "train")
        path.unlink()
    write_dataset(tmp_path, "postscript", lambda tfds: {"image": tfds.features.Image(shape=(8, 8, 3))},
                  lambda i: {"image": io.BytesIO(EPS)})  # fmt: skip
    with refused(StorageError, "data.name='postscript'"):
        load("postscript", "train", data_dir=tmp_path)
    assert not (tmp_path / "RAN").exists()


@pytest.mark.fault
def test_images_on_their_side_are_read_upright(tmp_path):
    y, x = np.mgrid[:24, :16]
    upright = Image.fromarray(np.stack([x * 15, y * 10, (x + y) * 6], -1).astype(np.uint8))
    for (orientation, undo), suffix in itertools.product(UNDO.items(), ("jpg", "png", "webp", "tif")):
        folder = tmp_path / f"{orientation}{suffix}"
        folder.mkdir()
        exif = Image.Exif()
        exif[images.ORIENTATION] = orientation
        turned = upright.transpose(getattr(Image.Transpose, undo))
        turned.save(folder / f"a.{suffix}", exif=exif, quality=95)
        upright.save(folder / "b.png")  # of the same size only after a is turned
        found = load(folder, "train", holdout=0)
        assert found.shape == (2, 24, 16, 3)
        assert np.abs(found[0].astype(int) - found[1]).mean() < 12, (orientation, suffix)


@pytest.mark.fault
def test_colour_below_transparency_is_not_read(tmp_path):
    colour, alpha = random_images(6, 5, 3), np.zeros((6, 5), np.uint8)
    alpha[:3], alpha[3] = 255, 128
    expected = np.where(alpha[..., None] == 255, colour, 255)
    expected[3] = np.rint((128 * colour[3].astype(float) + 127 * 255) / 255)
    grey = colour[..., 0]
    palette = Image.fromarray(np.zeros((6, 5), np.uint8), "P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    cases = {
        "rgba.png": (Image.fromarray(np.dstack([colour, alpha])), expected),
        "rgba.webp": (Image.fromarray(np.dstack([colour, alpha])), expected),
        "rgba.tif": (Image.fromarray(np.dstack([colour, alpha])), expected),
        "la.png": (Image.fromarray(np.stack([grey, alpha], -1)), expected[..., :1]),
        "palette.png": (palette, np.full((6, 5, 3), 255)),
    }
    for name, (image, pixels) in cases.items():
        folder = tmp_path / name
        folder.mkdir()
        image.save(folder / name, lossless=True, **({"transparency": 0} if name == "palette.png" else {}))
        with pytest.warns(UserWarning, match="too few"):
            found = load(folder, "train")
        assert np.abs(found[0].astype(int) - pixels).max() <= 1, name
    Image.fromarray(np.where(alpha == 255, grey, 7)).save(tmp_path / "la.png" / "la.png", transparency=7)
    with pytest.warns(UserWarning, match="too few"):
        assert (load(tmp_path / "la.png", "train")[0, 3:] == 255).all()


@pytest.mark.fault
@pytest.mark.parametrize("suffix", ["tif", "gif", "webp", "png"])
def test_an_image_of_several_frames_is_refused(tmp_path, suffix):
    frames = [Image.fromarray(random_images(9, 11, 3, seed=i)) for i in range(3)]
    frames[0].save(tmp_path / f"0.{suffix}")
    frames[0].save(tmp_path / f"1.{suffix}", save_all=True, append_images=frames[1:])
    with refused(InputError, f"has the image '1.{suffix}' with 3 frames; save each frame as a file"):
        load(tmp_path, "train")


@pytest.mark.fault
def test_a_pnm_file_of_several_pictures_is_refused(tmp_path):
    """Binary pixels can contain what looks like the start of a picture, and so can comments between numbers."""
    grey, colour = random_images(2, 9), random_images(2, 9, 3)
    grey[1, :3] = list(b"P5\n")
    plain = b" ".join(b"%d" % value for value in colour.reshape(-1))
    pictures = {
        "bits.pgm": b"P4\n9 2\n" + np.packbits(grey >> 7, axis=-1).tobytes(),
        "grey.pgm": b"P5\n9 2\n255\n" + grey.tobytes(),
        "few.pgm": b"P5\n9 2\n254\n" + np.minimum(grey, 254).tobytes(),
        "colour.ppm": b"P6\n# one\n9 2\n255\n" + colour.tobytes(),
        "plain_bits.pgm": b"P1\n9 2\n" + b"010101010\n" * 2,
        "plain.ppm": b"P3\n9 2\n255\n# the first P3 \n" + plain,
    }
    for name, content in pictures.items():
        path = tmp_path / name / name
        path.parent.mkdir()
        for one in (content, content + b"\n", content + b" \n\n"):
            path.write_bytes(one)
            with pytest.warns(UserWarning, match="too few"):
                assert load(path.parent, "train").shape[1:3] == (2, 9), name
        for several in (content + b"\n" + content, content * 3 if "plain" not in name else content + b"\n\n" + content):
            path.write_bytes(several)
            with refused(InputError, f"has the image '{name}' with several frames; save each frame as a file"):
                load(path.parent, "train")


def test_more_than_eight_bits_are_refused_and_other_modes_are_converted(tmp_path):
    deep = Image.fromarray(random_images(6, 5).astype(np.uint16) * 257)
    for suffix in ("png", "tif"):
        deep.save(tmp_path / f"a.{suffix}")
        with refused(InputError, f"a.{suffix}", "I;16", "8 bits"):
            load(tmp_path, "train")
        (tmp_path / f"a.{suffix}").unlink()
    (tmp_path / "a.png").write_bytes(deep_colour_png())
    with refused(InputError, "a.png", "RGB with 16 bits per channel", "8 bits"):
        load(tmp_path, "train")
    (tmp_path / "a.png").unlink()
    for name, content in (("a.ppm", b"P6\n1 1\n65535\n" + bytes(6)), ("a.ppm", b"P3\n1 1\n256\n0 1 256\n")):
        (tmp_path / name).write_bytes(content)
        with refused(InputError, name, "RGB with 16 bits per channel", "8 bits"):
            load(tmp_path, "train")
        (tmp_path / name).unlink()
    red = Image.new("RGB", (5, 6), (255, 0, 0))
    red.convert("CMYK").save(tmp_path / "a.tif")
    red.convert("P").save(tmp_path / "b.png")
    red.convert("P").save(tmp_path / "c.gif")
    np.testing.assert_array_equal(load(tmp_path, "train", holdout=0), np.full((3, 6, 5, 3), [255, 0, 0]))


def deep_colour_png():
    """Return a PNG file of one pixel with three channels of 16 bits."""
    import struct
    import zlib

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(7))) + chunk(b"IEND", b"")


def test_the_first_picture_of_a_photograph_with_previews_is_read_and_this_is_noted(tmp_path):
    frames = [Image.fromarray(random_images(16, 8, 3, seed=i)) for i in range(2)]
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        frames[0].save(tmp_path / name, format="MPO", save_all=True, append_images=frames[1:])
    with pytest.warns(UserWarning, match=r"of 3 file\(s\) with several pictures \(MPO\) the first one is read"):
        assert load(tmp_path, "train", holdout=0).shape == (3, 16, 8, 3)


def test_the_shorter_side_is_scaled_and_the_centre_is_cropped():
    y, x = np.mgrid[:40, :80]
    image = Image.fromarray((x + y).astype(np.uint8))
    pixels = images.to_pixels(image, 1, resize=10)[..., 0].astype(int)
    centres = 4 * np.arange(10) + 1.5
    expected = centres[:, None] + (centres[None] + 20)
    assert np.abs(pixels - expected)[1:-1, 1:-1].max() <= 1
