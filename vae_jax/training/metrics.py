"""training.metrics."""

import math

import numpy as np


def mean_and_error(name: str, values: np.ndarray) -> dict[str, float]:
    """The mean over images and its standard error, summed in double precision; no error for a single image."""
    values = values.astype(np.float64)
    error = values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else None
    return {name: float(values.mean()), f"{name}_se": None if error is None else float(error)}


def peak_signal_to_noise(squared_error: float, image_shape: tuple[int, ...]) -> float | None:
    """10 log10(1 / mean squared error) in decibels, for a squared error summed over the pixels of an image.

    None, which JSON can hold, where nothing is missed: the ratio has no bound then.
    """
    return 10 * math.log10(math.prod(image_shape) / squared_error) if squared_error else None


def bits_per_dim(nats: float, image_shape: tuple[int, ...]) -> float:
    """Nats per image as bits per pixel and channel: nats / (H·W·C · ln 2)."""
    return nats / (math.prod(image_shape) * math.log(2))
