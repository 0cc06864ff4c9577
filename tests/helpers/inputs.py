"""Images that tests make up, and how bad input is refused."""

from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SHARED = Path(__file__).parents[2] / ".." / "shared" / "data"


@contextmanager
def refused(kind, *words):
    """Expects an error of this kind, on one line, that says these words."""
    with pytest.raises(kind) as caught:
        yield
    message = str(caught.value)
    assert type(caught.value) is kind
    assert "\n" not in message
    assert all(word in message for word in words), message


def images_like(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save(path, array, **kwargs):
    np.save(path, array, **kwargs)
    return path


def picture(path, array, mode=None):
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path)
