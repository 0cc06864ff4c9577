"""Moons drawn from their true parameters, at any size: a pure function of the parameters, in NumPy.

A length is a share of half the image's shorter side, so a moon looks the same at every size; x points right, y up.
"""

import math
from typing import NamedTuple

import numpy as np

from vae_jax.data.splits import splitmix64

SAMPLES = 4  # in each direction within a pixel
CHUNK = 8  # moons drawn at once: as many as a cache holds


class Moons(NamedTuple):
    """The parameters of N moons, each an array [N]."""

    lit_fraction: np.ndarray  # of the disc's area: 0 new, 0.5 half, 1 full
    tilt: np.ndarray  # where the light comes from, in radians counterclockwise from the right
    radius: np.ndarray
    x: np.ndarray  # the centre
    y: np.ndarray
    shading: np.ndarray  # how much darker the disc is at its rim than in its middle, 0 to 1


RANGES = Moons(  # thinner crescents than 0.1 would be lost between the pixels
    lit_fraction=(0.1, 1.0),
    tilt=(-math.pi / 4, math.pi / 4),
    radius=(0.5, 0.75),
    x=(-0.15, 0.15),
    y=(-0.15, 0.15),
    shading=(0.0, 0.6),
)
GAP = (0.65, 0.85)  # the lit fractions that `phases="gap"` leaves out, three quarters in the middle


def moon_parameters(numbers: np.ndarray, *, phases: str = "all") -> Moons:
    """The parameters of the moons of these numbers [N], uniform and independent over `RANGES`: the same everywhere.

    `phases`: "all"; "gap", none with a lit fraction in `GAP`; "full-and-half", only 0.5 and 1, each with chance 1/2.
    Raises ValueError for others.
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
    raise ValueError(f"phases={phases!r}: must be all, gap or full-and-half")


def render_moons(moons: Moons, shape: tuple[int, int] = (32, 32)) -> np.ndarray:
    """The moons as uint8 [N, H, W, 1] for `shape` = (H, W): an orthographic sphere, lit from afar, the rest black.

    In the unit disc with u towards the light, the points with u > -cos α sqrt(1 - v²) are lit: the terminator is
    half an ellipse, and the lit share of the area is f = (1 + cos α) / 2, where α is the phase angle. A point at the
    distance r from the centre shines with 1 - shading (1 - sqrt(1 - r²)), the linear law of limb darkening. A pixel
    is the mean of `SAMPLES`² points, each with an edge as soft as the points are apart: an image changes smoothly
    with every parameter.
    """
    columns = [np.asarray(column, np.float32) for column in moons]
    parts = [
        _brightness(Moons(*(column[start : start + CHUNK, None, None] for column in columns)), shape)
        for start in range(0, len(columns[0]), CHUNK)
    ]
    return np.rint(255 * np.concatenate(parts)).astype(np.uint8)[..., None]


def _brightness(moons: Moons, shape: tuple[int, int]) -> np.ndarray:
    """[N, H, W] in [0, 1] for parameters [N, 1, 1]."""
    height, width = shape
    unit = min(shape) / 2 * SAMPLES  # samples in a length of one
    across = (np.arange(width * SAMPLES, dtype=np.float32) + 0.5 - width * SAMPLES / 2) / unit  # [W S]
    down = (np.arange(height * SAMPLES, dtype=np.float32) + 0.5 - height * SAMPLES / 2) / unit  # [H S]
    dx, dy = across - moons.x, -down[:, None] - moons.y  # [N, 1, W S], [N, H S, 1]
    cos, sin = np.cos(moons.tilt) / moons.radius, np.sin(moons.tilt) / moons.radius
    u, v = dx * cos + dy * sin, dy * cos - dx * sin  # [N, H S, W S]
    squared = u * u + v * v
    inside = 1 - np.sqrt(squared)  # how far from the rim
    axis, chord = 2 * moons.lit_fraction - 1, np.maximum(1 - v * v, 0)  # cos α, and 1 - v²
    # How far from the terminator: u + axis sqrt(1 - v²) over the length of its gradient, so that a full moon is round.
    lit = (u * np.sqrt(chord) + axis * chord) / np.sqrt(chord + (axis * v) ** 2 + 1e-12)
    disc, sunny = (np.clip(d * (moons.radius * unit) + 0.5, 0, 1) for d in (inside, lit))
    # Where two soft edges meet: they face each other in a crescent, and lie one upon the other in a full moon.
    edge = np.where(axis > 0, np.minimum(disc, sunny), np.maximum(disc + sunny - 1, 0))
    light = edge * (1 - moons.shading * (1 - np.sqrt(np.maximum(1 - squared, 0))))
    return light.reshape(-1, height, SAMPLES, width, SAMPLES).mean(axis=(2, 4))
