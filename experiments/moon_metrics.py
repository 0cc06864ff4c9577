"""Metrics of images on the path from a half moon to a full moon; images are floats in [0, 1].

They are defined in the docstring of moon_phases.py.
"""

import numpy as np

from vae_jax.data import Moons, moon_parameters, render_moons

FRAMES = 11
MIDDLE = FRAMES // 2
PHASES = np.linspace(0, 1, 101)  # the lit fractions, and the weights of blends, that an image is compared with
UNSEEN = 12_000  # moons with this number and above are in no data set
CLAIMED, TOLERANCE = 0.75, 0.05


def squared_error(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Compute Σ (x - y)² over the pixels of images [..., H, W, C] and [..., H, W, C]: [...]."""
    return np.sum((x - y) ** 2, axis=(-3, -2, -1))


def match(images: np.ndarray, family: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the nearest member of a family of images for each of the images [..., P, H, W, C].

    Image p is compared with family[:, p]. |x - m|² = |x|² - 2 x·m + |m|² is computed by matrix products.

    Args:
      images: [..., P, H, W, C].
      family: [F, P, H, W, C]; member f of the family of pair p.

    Returns:
      (index of the nearest member, squared error to it), each [..., P].
    """
    count, pairs, lead = family.shape[0], family.shape[1], images.shape[:-4]
    x = images.reshape(-1, pairs, family[0, 0].size).swapaxes(0, 1)  # [P, M, pixels]
    m = family.reshape(count, pairs, -1).transpose(1, 2, 0)  # [P, pixels, F]
    errors = np.sum(x**2, axis=2)[..., None] - 2 * x @ m + np.sum(m**2, axis=1)[:, None]  # [P, M, F]
    nearest = errors.argmin(axis=2)
    least = np.take_along_axis(errors, nearest[..., None], axis=2)[..., 0]
    return nearest.T.reshape(*lead, pairs), np.maximum(least, 0).T.reshape(*lead, pairs)


def sharpness(images: np.ndarray, truth: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Divide the squared differences of neighboring pixels in images by those in the truth.

    Both are summed over the pixels of `inside`.

    Args:
      images: [..., P, H, W, 1].
      truth: [P, H, W, 1].
      inside: bool [P, H, W].

    Returns:
      [..., P].
    """

    def energy(x: np.ndarray) -> np.ndarray:
        x = x[..., 0]
        squares = np.diff(x, axis=-1)[..., :-1, :] ** 2 + np.diff(x, axis=-2)[..., :-1] ** 2
        return np.sum(squares * inside[:, :-1, :-1], axis=(-2, -1))

    return energy(images) / energy(truth)


def within_disc(moons: Moons, shape: tuple[int, int], share: float = 0.85) -> np.ndarray:
    """Select the pixels within `share` of the radius of each of N moons, bool [N, H, W]."""
    full = moons._replace(lit_fraction=np.ones_like(moons.radius), radius=share * moons.radius)
    return render_moons(full._replace(shading=np.zeros_like(moons.radius)), shape)[..., 0] == 255


def gaussian_of(codes: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Sample [S, n, D] from N(mean, covariance) of codes [S, N, D], with standard normal `noise` [n, N].

    A sample is mean + Σ_i noise_i (z_i - mean) / sqrt(N). No factor of the covariance is needed, which is singular if
    a latent is unused.
    """
    mean = codes.mean(axis=1, keepdims=True)
    return mean + noise @ (codes - mean) / np.sqrt(np.float32(codes.shape[1]))


class MoonMetrics:
    """The metrics of decoded images, and the true moons that they are compared with.

    Attributes:
      family: for each pair, its moons of all `PHASES`, [F, P, H, W, 1].
      truth: the true moons on the path of each pair, [T, P, H, W, 1].
      half: the half moon of each pair, [P, H, W, 1].
      full: the full moon of each pair, [P, H, W, 1].
      blends: for each pair, the blends of its half and full moon with the weights `PHASES`, [F, P, H, W, 1].
      inside: the pixels inside the disc of each pair, bool [P, H, W].
      library: moons of random phase, tilt, size, position and shading, [N, H, W, 1].
      threshold: an image with a squared error to the library below this counts as a moon.
    """

    def __init__(self, shape: tuple[int, int], *, pairs: int, library: int, calibration: int):
        """Render the moons.

        Args:
          shape: height and width of the images.
          pairs: number of pairs of a half and a full moon.
          library: number of moons in the library.
          calibration: number of other moons, whose distances to the library determine the threshold.
        """

        def render(moons: Moons) -> np.ndarray:
            return render_moons(moons, shape) / np.float32(255)

        moons = moon_parameters(np.arange(UNSEEN, UNSEEN + pairs))
        phases = [render(moons._replace(lit_fraction=np.full(pairs, f))) for f in PHASES]
        self.family = np.stack(phases)  # [F, P, H, W, 1]
        self.truth = self.family[[round(100 * (0.5 + 0.5 * t)) for t in np.linspace(0, 1, FRAMES)]]  # [T, P, ...]
        self.half, self.full = self.truth[0], self.truth[-1]
        self.blends = self.blend(PHASES)
        self.inside = within_disc(moons, shape)
        first = UNSEEN + pairs
        self.library = render(moon_parameters(np.arange(first, first + library)))  # [N, H, W, 1]
        others = render(moon_parameters(np.arange(first + library, first + library + calibration)))
        self.threshold = float(np.quantile(self.nearest_moon(others)[1], 0.95))

    def blend(self, weights: np.ndarray) -> np.ndarray:
        """Compute the blends (1 - w) half + w full for weights [F]: [F, P, H, W, 1]."""
        w = weights.astype(np.float32)[:, None, None, None, None]
        return (1 - w) * self.half + w * self.full

    def nearest_moon(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (index in the library of the nearest moon, squared error to it), each [...], for [..., H, W, 1]."""
        index, error = match(images[..., None, :, :, :], self.library[:, None])
        return index[..., 0], error[..., 0]

    def are_moons(self, images: np.ndarray) -> np.ndarray:
        """Return whether images [..., H, W, 1] count as moons: bool [...]."""
        index, error = self.nearest_moon(images)
        light = np.sum(self.library**2, axis=(1, 2, 3))  # [N]
        return (error < self.threshold) & (error < 0.5 * light[index])

    def measure(self, paths: np.ndarray) -> dict[str, np.ndarray]:
        """Return the metrics of decoded paths [S, T, P, H, W, 1]: means over the pairs, [S, T] or [S]."""
        nearest, off_moon = match(paths, self.family)  # [S, T, P]
        lit, middle = PHASES[nearest], paths[:, MIDDLE]
        true_lit = np.linspace(0.5, 1, FRAMES)[:, None]
        claim = self.are_moons(middle) & (np.abs(lit[:, MIDDLE] - CLAIMED) < TOLERANCE + 1e-9)
        measured = {
            "error": squared_error(paths, self.truth),
            "lit": lit,
            "lit_error": np.abs(lit - true_lit).mean(axis=1),
            "off_moon": off_moon,
            "off_blend": match(paths, self.blends)[1],
            "sharpness": sharpness(middle, self.truth[MIDDLE], self.inside),
            "claim": claim.astype(float),
        }
        return {name: values.mean(axis=-1) for name, values in measured.items()}
