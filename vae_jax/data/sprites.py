"""Binary images of sprites rendered from known factors, in NumPy: each combination of the factors is one image.

The factors are those of dSprites (Matthey et al., 2017), on a smaller grid and with shapes of formulas: a square, an
ellipse and a heart. The unit of length is half of the image's shorter side; x points right, y up.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

SAMPLES = 4  # per pixel in each direction
CHUNK = 16  # sprites rendered at once: as many as fit in the processor's cache
RADII = (0.21, 0.42)  # of the circle around the smallest and the largest sprite
REACH = 0.55  # the centres are from -REACH to REACH


class Sprites(NamedTuple):
    """The factors of N sprites, integers [N] each.

    Attributes:
      shape: 0 square, 1 ellipse, 2 heart.
      scale: the size, from the smallest to the largest.
      rotation: the angle, counterclockwise: 20 steps of a full turn.
      x: the horizontal position of the centre, from left to right.
      y: the vertical position of the centre, from bottom to top.
    """

    shape: np.ndarray
    scale: np.ndarray
    rotation: np.ndarray
    x: np.ndarray
    y: np.ndarray


SIZES = (3, 6, 20, 16, 16)  # the number of values of each factor
NUM_SPRITES = math.prod(SIZES)


def sprite_factors(numbers: np.ndarray) -> Sprites:
    """Return the factors of the sprites with these numbers; y varies fastest, and the shape slowest.

    Args:
      numbers: integers from 0 to `NUM_SPRITES` - 1, [N]; the index of an example of the data set `sprites`, which
        `vae-jax encode` writes.

    Raises:
      ValueError: a number is out of range.
    """
    return Sprites(*np.unravel_index(numbers, SIZES))


def render_sprites(sprites: Sprites, shape: tuple[int, int] = (32, 32)) -> np.ndarray:
    """Render white sprites on black.

    A pixel is white if at least half of its `SAMPLES`² points are inside the sprite.

    Args:
      sprites: the factors of N sprites.
      shape: height and width of the images in pixels, (H, W).

    Returns:
      The images, 0 and 255, uint8 [N, H, W, 1].
    """
    images = np.empty((len(sprites.shape), *shape, 1), np.uint8)
    for number, contains in enumerate((_in_square, _in_ellipse, _in_heart)):
        (chosen,) = np.nonzero(sprites.shape == number)
        for start in range(0, len(chosen), CHUNK):
            rows = chosen[start : start + CHUNK]
            part = Sprites(*(column[rows, None, None] for column in sprites))
            images[rows, ..., 0] = np.where(_white(part, contains, shape), 255, 0)
    return images


def _white(
    sprites: Sprites, contains: Callable[[np.ndarray, np.ndarray], np.ndarray], shape: tuple[int, int]
) -> np.ndarray:
    """Return which pixels are white, [N, H, W], for factors [N, 1, 1] of sprites of one shape."""
    height, width = shape
    unit = min(shape) / 2 * SAMPLES  # samples per unit of length
    across = (np.arange(width * SAMPLES) + 0.5 - width * SAMPLES / 2) / unit  # [W S]
    up = (height * SAMPLES / 2 - np.arange(height * SAMPLES) - 0.5) / unit  # [H S]
    of_scale, of_x, of_y = (np.linspace(*ends, size) for ends, size in (
        (RADII, SIZES[1]), ((-REACH, REACH), SIZES[3]), ((-REACH, REACH), SIZES[4])))  # fmt: skip
    radius, angle = of_scale[sprites.scale], 2 * math.pi / SIZES[2] * sprites.rotation
    dx, dy = (across - of_x[sprites.x]) / radius, (up[:, None] - of_y[sprites.y]) / radius  # [N, 1, W S], [N, H S, 1]
    cos, sin, dx, dy = (array.astype(np.float32) for array in (np.cos(angle), np.sin(angle), dx, dy))
    inside = contains(dx * cos + dy * sin, dy * cos - dx * sin)  # [N, H S, W S], of points along the axes of the sprite
    samples = inside.view(np.uint8).reshape(-1, height, SAMPLES, width, SAMPLES)
    return samples.sum(axis=(2, 4), dtype=np.uint8) >= SAMPLES**2 / 2


def _in_square(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(u), np.abs(v)) <= math.sqrt(0.5)


def _in_ellipse(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return u * u + 4 * v * v <= 1


def _in_heart(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    u, v = 1.35 * u, 1.35 * v + 0.1  # (u² + v² - 1)³ = u² v³ fits in the unit circle
    squared = u * u
    outside = squared + v * v - 1
    return outside * outside * outside <= squared * v * v * v
