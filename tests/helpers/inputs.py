"""Random images, files of images, and a check of the message of a refused input."""

from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SHARED = Path(__file__).parents[2] / ".." / "shared" / "data"


@contextmanager
def refused(kind, *words):
    """Expect an error of exactly this class whose message is one line and contains these words."""
    with pytest.raises(kind) as caught:
        yield
    message = str(caught.value)
    assert type(caught.value) is kind
    assert "\n" not in message
    assert all(word in message for word in words), message


def random_images(*shape, seed=0):
    """Return uniform uint8 pixels of this shape."""
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save_array(path, array, **kwargs):
    """Save an array as .npy and return the path."""
    np.save(path, array, **kwargs)
    return path


def save_image(path, array, mode=None):
    """Save an array as an image file, converted to another Pillow mode if one is given."""
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path)
