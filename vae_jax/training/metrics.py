"""Metrics of an evaluation: means with standard errors, errors of a reconstruction, and bits per dimension."""

import math
from collections.abc import Mapping

import chex
import jax.numpy as jnp
import numpy as np
from jax import Array


def mean_and_error(name: str, values: np.ndarray) -> dict[str, float | None]:
    """Return the mean of values [N] and its standard error `{name}_se` in double precision; None for one value."""
    chex.assert_rank(values, 1)
    values = values.astype(np.float64)
    error = values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else None
    return {name: float(values.mean()), f"{name}_se": None if error is None else float(error)}


def reconstruction_errors(x: Array, mean: Array, *, kind: str) -> dict[str, Array]:
    """Return the errors of each example from which `summarize_errors` computes the metrics of a kind of data.

    Args:
      x: [B, ...], inputs of the model.
      mean: [B, ...], the mean of p(x|z) for the reconstruction.
      kind: images, vectors or counts.

    Returns:
      `squared_error` [B], |x - mean|²; for counts `log_squared_error` [B], |log(1 + x) - log(1 + max(mean, 0))|²; for
      vectors the inputs `x` [B, D].
    """
    errors = {"squared_error": _sum_squares(x - mean)}
    if kind == "counts":
        errors["log_squared_error"] = _sum_squares(jnp.log1p(x) - jnp.log1p(jnp.maximum(mean, 0)))
    if kind == "vectors":
        errors["x"] = x.reshape(x.shape[0], -1)
    return errors


def _sum_squares(difference: Array) -> Array:
    return jnp.sum(jnp.square(difference), axis=tuple(range(1, difference.ndim)))


def summarize_errors(values: Mapping[str, np.ndarray], *, kind: str, shape: tuple[int, ...]) -> dict[str, float | None]:
    """Return the metrics of the reconstructions of a data set.

    Args:
      values: the result of `reconstruction_errors` for all examples, [N, ...] each.
      kind: images, vectors or counts.
      shape: of one example.

    Returns:
      The means of `squared_error` and, for counts, of `log_squared_error`; for images `psnr` in decibels; for vectors
      `explained_variance`, 1 - squared_error / variance of x, both summed over the numbers of an example. None where
      there is no finite value.
    """
    names = [name for name in ("squared_error", "log_squared_error") if name in values]
    result: dict[str, float | None] = {name: float(values[name].mean(dtype=np.float64)) for name in names}
    squared_error = float(values["squared_error"].mean(dtype=np.float64))
    if kind == "images":
        result["psnr"] = peak_signal_to_noise(squared_error, shape)
    if kind == "vectors":
        variance = float(values["x"].var(axis=0, dtype=np.float64).sum())
        result["explained_variance"] = 1 - squared_error / variance if variance else None
    return result


def peak_signal_to_noise(squared_error: float, shape: tuple[int, ...]) -> float | None:
    """Return 10 log10(1 / mean squared error), the peak signal-to-noise ratio of pixels in [0, 1].

    Args:
      squared_error: summed over the pixels and channels of an image.
      shape: (H, W, C).

    Returns:
      The ratio in decibels. None for an error of 0, where it is infinite: JSON can represent None.
    """
    return 10 * math.log10(math.prod(shape) / squared_error) if squared_error else None


def bits_per_dim(nats: float, shape: tuple[int, ...]) -> float:
    """Return nats / (D · ln 2), the bits for each of the D numbers of an example.

    Args:
      nats: for each example.
      shape: of one example, such as (H, W, C).

    Returns:
      Bits per dimension.
    """
    return nats / (math.prod(shape) * math.log(2))
