"""Metrics of an evaluation: means with standard errors, peak signal-to-noise ratio, and bits per dimension."""

import math

import chex
import numpy as np


def mean_and_error(name: str, values: np.ndarray) -> dict[str, float | None]:
    """Return the mean of values [N] and its standard error `{name}_se` in double precision; None for one value."""
    chex.assert_rank(values, 1)
    values = values.astype(np.float64)
    error = values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else None
    return {name: float(values.mean()), f"{name}_se": None if error is None else float(error)}


def peak_signal_to_noise(squared_error: float, image_shape: tuple[int, ...]) -> float | None:
    """Return 10 log10(1 / mean squared error), the peak signal-to-noise ratio of pixels in [0, 1].

    Args:
      squared_error: summed over the pixels and channels of an image.
      image_shape: (H, W, C).

    Returns:
      The ratio in decibels. None for an error of 0, where it is infinite: JSON can represent None.
    """
    return 10 * math.log10(math.prod(image_shape) / squared_error) if squared_error else None


def bits_per_dim(nats: float, image_shape: tuple[int, ...]) -> float:
    """Return nats / (H·W·C · ln 2), the bits for each pixel and channel.

    Args:
      nats: for each image.
      image_shape: (H, W, C).

    Returns:
      Bits per dimension.
    """
    return nats / (math.prod(image_shape) * math.log(2))
