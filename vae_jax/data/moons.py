"""Images of moons rendered from their true parameters at any size: a pure function of the parameters, in NumPy.

The unit of length is half of the image's shorter side, so a moon looks the same at every size; x points right, y up.
"""

import math
from typing import NamedTuple

import numpy as np

from vae_jax.data.splits import splitmix64

SAMPLES = 4  # per pixel in each direction
CHUNK = 8  # moons rendered at once: as many as fit in the processor's cache


class Moons(NamedTuple):
    """The parameters of N moons.

    Attributes:
      lit_fraction: The lit share of the disc's area, [N]: 0 new, 0.5 half, 1 full.
      tilt: The direction that the light comes from, [N], in radians counterclockwise from the right.
      radius: The radius of the disc, [N].
      x: The horizontal position of its centre, [N].
      y: The vertical position of its centre, [N].
      shading: How much darker the disc is at its rim than at its centre, [N], from 0 to 1.
    """

    lit_fraction: np.ndarray
    tilt: np.ndarray
    radius: np.ndarray
    x: np.ndarray
    y: np.ndarray
    shading: np.ndarray


RANGES = Moons(  # [lowest, highest]; crescents thinner than 0.1 would be too thin for the pixels
    lit_fraction=np.array([0.1, 1.0]),
    tilt=np.array([-math.pi / 4, math.pi / 4]),
    radius=np.array([0.5, 0.75]),
    x=np.array([-0.15, 0.15]),
    y=np.array([-0.15, 0.15]),
    shading=np.array([0.0, 0.6]),
)
GAP = (0.65, 0.85)  # the lit fractions that `phases="gap"` excludes, centred on three quarters


def moon_parameters(numbers: np.ndarray, *, phases: str = "all") -> Moons:
    """Return the parameters of the moons with these numbers, uniform and independent over `RANGES`.

    They are a pure function of the number, the same on every machine.

    Args:
      numbers: The numbers of the moons, non-negative integers [N].
      phases: Which phases occur: `all`; `gap`, no lit fraction inside `GAP`; `full-and-half`, only the lit fractions
        0.5 and 1, each with probability 1/2.

    Returns:
      The parameters, each float64 [N].

    Raises:
      ValueError: If `phases` is another name.
    """
    columns = np.arange(len(RANGES), dtype=np.uint64)
    counters = np.asarray(numbers, np.uint64)[:, None] * np.uint64(len(RANGES)) + columns
    uniform = (splitmix64(counters) >> np.uint64(11)) * 2.0**-53  # [N, 6]
    low, high = np.array(RANGES).T
    moons = Moons(*(low + (high - low) * uniform).T)
    if phases == "all":
        return moons
    if phases == "full-and-half":
        return moons._replace(lit_fraction=np.where(uniform[:, 0] < 0.5, 0.5, 1.0))
    if phases == "gap":
        low, high = RANGES.lit_fraction
        lit = low + (high - low - GAP[1] + GAP[0]) * uniform[:, 0]
        return moons._replace(lit_fraction=np.where(lit < GAP[0], lit, lit + GAP[1] - GAP[0]))
    raise ValueError(f"phases={phases!r} must be all, gap or full-and-half")


def render_moons(moons: Moons, shape: tuple[int, int] = (32, 32)) -> np.ndarray:
    """Render moons: spheres in orthographic projection, lit by a distant source, on black.

    In the unit disc with u towards the light, the points with u > -cos α sqrt(1 - v²) are lit, where α is the phase
    angle. The terminator is half an ellipse, and the lit share of the area is f = (1 + cos α) / 2. A point at distance
    r from the centre has the brightness 1 - shading (1 - sqrt(1 - r²)), the linear law of limb darkening. A pixel
    is the mean of `SAMPLES`² points. The edges at each point are as soft as the distance between points, so an image
    changes smoothly with every parameter.

    Args:
      moons: The parameters of N moons.
      shape: Height and width of the images in pixels, (H, W).

    Returns:
      The images, uint8 [N, H, W, 1].
    """
    columns = [np.asarray(column, np.float32) for column in moons]
    parts = [
        _brightness(Moons(*(column[start : start + CHUNK, None, None] for column in columns)), shape)
        for start in range(0, len(columns[0]), CHUNK)
    ]
    return np.rint(255 * np.concatenate(parts)).astype(np.uint8)[..., None]


def _brightness(moons: Moons, shape: tuple[int, int]) -> np.ndarray:
    """Return the brightness in [0, 1], [N, H, W], for parameters [N, 1, 1]."""
    height, width = shape
    unit = min(shape) / 2 * SAMPLES  # samples per unit of length
    across = (np.arange(width * SAMPLES, dtype=np.float32) + 0.5 - width * SAMPLES / 2) / unit  # [W S]
    down = (np.arange(height * SAMPLES, dtype=np.float32) + 0.5 - height * SAMPLES / 2) / unit  # [H S]
    dx, dy = across - moons.x, -down[:, None] - moons.y  # [N, 1, W S], [N, H S, 1]
    cos, sin = np.cos(moons.tilt) / moons.radius, np.sin(moons.tilt) / moons.radius
    u, v = dx * cos + dy * sin, dy * cos - dx * sin  # [N, H S, W S]
    squared = u * u + v * v
    inside = 1 - np.sqrt(squared)  # the distance from the rim
    axis, chord = 2 * moons.lit_fraction - 1, np.maximum(1 - v * v, 0)  # cos α, and 1 - v²
    # The distance from the terminator is u + axis sqrt(1 - v²) over the norm of its gradient: a full moon is round.
    lit = (u * np.sqrt(chord) + axis * chord) / np.sqrt(chord + (axis * v) ** 2 + 1e-12)
    disc, light_side = (np.clip(d * (moons.radius * unit) + 0.5, 0, 1) for d in (inside, lit))
    # Where two soft edges meet, they are opposite each other in a crescent, and coincide in a full moon.
    edge = np.where(axis > 0, np.minimum(disc, light_side), np.maximum(disc + light_side - 1, 0))
    light = edge * (1 - moons.shading * (1 - np.sqrt(np.maximum(1 - squared, 0))))
    return light.reshape(-1, height, SAMPLES, width, SAMPLES).mean(axis=(2, 4))
