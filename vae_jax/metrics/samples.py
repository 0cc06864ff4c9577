"""Metrics of samples: how the features of generated examples differ from those of real ones, in double precision.

The features are the user's: any function from examples to vectors [N, F], such as a layer of a classifier. The values
depend on it and on the numbers of examples, so that only those with the same features and numbers can be compared.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import chex
import numpy as np

from vae_jax.metrics.neighbors import chunks_of_rows, squared_distances, squared_radii

NEIGHBORS = 5  # of density and coverage, as in the paper; 3 of precision and recall


def sample_metrics(real: np.ndarray, generated: np.ndarray) -> dict[str, float]:
    """Return all metrics of this module with the numbers of neighbors of the papers.

    Args:
      real: features of real examples, [N, F].
      generated: features of generated examples, [M, F].

    Returns:
      `frechet_distance`; `kernel_distance` and its standard error `kernel_distance_se`; `precision`, `recall`,
      `density` and `coverage`.
    """
    kernel = kernel_distance(real, generated)
    precision, recall = precision_recall(real, generated)
    density, coverage = density_coverage(real, generated)
    return {
        "frechet_distance": frechet_distance(real, generated),
        "kernel_distance": kernel.value, "kernel_distance_se": kernel.error,
        "precision": precision, "recall": recall, "density": density, "coverage": coverage,
    }  # fmt: skip


def _as_features(real: np.ndarray, generated: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return both as float64; raise AssertionError unless they are vectors of one length, and 2 or more each."""
    chex.assert_rank([real, generated], 2)
    chex.assert_equal_shape_suffix([real, generated], 1)
    chex.assert_axis_dimension_gteq(real, 0, 2)
    chex.assert_axis_dimension_gteq(generated, 0, 2)
    return np.asarray(real, np.float64), np.asarray(generated, np.float64)


def frechet_distance(real: np.ndarray, generated: np.ndarray) -> float:
    """Compute |m_a - m_b|² + tr(C_a + C_b - 2 (C_a C_b)^½) of the means and covariances of two sets of features.

    It is the squared 2-Wasserstein distance of the Gaussians with these moments. The trace of the matrix root is the
    sum of the square roots of the eigenvalues of C_a^½ C_b C_a^½, which is symmetric (Heusel et al., arXiv 1706.08500,
    there with the features of an Inception network).

    Args:
      real: [N, F].
      generated: [M, F].

    Returns:
      The distance, 0 for equal moments. Its expectation for two samples of one distribution is above 0.
    """
    a, b = _as_features(real, generated)
    cov_a, cov_b = (np.cov(x, rowvar=False).reshape(x.shape[1], x.shape[1]) for x in (a, b))
    values, vectors = np.linalg.eigh(cov_a)
    root_a = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    product = np.linalg.eigvalsh(root_a @ cov_b @ root_a)
    trace = np.trace(cov_a) + np.trace(cov_b) - 2 * np.sqrt(np.maximum(product, 0)).sum()
    return float(((a.mean(axis=0) - b.mean(axis=0)) ** 2).sum() + trace)


class KernelDistance(NamedTuple):
    """An estimate of MMD² with its standard error."""

    value: float
    error: float


def kernel_distance(real: np.ndarray, generated: np.ndarray) -> KernelDistance:
    """Estimate MMD² = E k(a, a') + E k(b, b') - 2 E k(a, b) with the kernel k(a, b) = (a·b / F + 1)³, without bias.

    It is the kernel inception distance (Bińkowski et al., arXiv 1801.01401) from all pairs instead of random subsets:
    the mean of the kernel over all pairs of different examples of one set, and over all pairs of two sets. Its expected
    value does not depend on the numbers of examples, unlike that of the Fréchet distance.

    Args:
      real: [N, F], with N of 3 or more.
      generated: [M, F], with M of 3 or more.

    Returns:
      The estimate, which can be below 0, and its standard error by the jackknife over the examples of both sets. The
      error is too large by up to √2 where the two distributions are equal.
    """
    a, b = _as_features(real, generated)
    chex.assert_axis_dimension_gteq(a, 0, 3)
    chex.assert_axis_dimension_gteq(b, 0, 3)
    n, m = len(a), len(b)
    of_a, of_b = _sums_of_others(a), _sums_of_others(b)  # [N], [M]
    a_to_b, b_to_a = _cross_sums(a, b)  # [N], [M]
    total_a, total_b, cross = of_a.sum(), of_b.sum(), a_to_b.sum()

    def statistic(sum_a: np.ndarray, sum_b: np.ndarray, sum_cross: np.ndarray, sizes: tuple[int, int]) -> np.ndarray:
        n, m = sizes
        return sum_a / (n * (n - 1)) + sum_b / (m * (m - 1)) - 2 * sum_cross / (n * m)

    value = float(statistic(total_a, total_b, cross, (n, m)))
    without_a = statistic(total_a - 2 * of_a, total_b, cross - a_to_b, (n - 1, m))  # [N]
    without_b = statistic(total_a, total_b - 2 * of_b, cross - b_to_a, (n, m - 1))  # [M]
    variance = (n - 1) * without_a.var() + (m - 1) * without_b.var()
    return KernelDistance(value, math.sqrt(variance))


def _kernel_rows(a: np.ndarray, b: np.ndarray) -> Iterator[np.ndarray]:
    """Yield (a_i·b_j / F + 1)³ for some rows i at a time, [n, M]."""
    for rows in chunks_of_rows(len(a), len(b)):
        yield (a[rows] @ b.T / a.shape[1] + 1) ** 3


def _sums_of_others(x: np.ndarray) -> np.ndarray:
    """Return Σ_{j ≠ i} k(x_i, x_j), [N]."""
    sums = np.concatenate([part.sum(axis=1) for part in _kernel_rows(x, x)])
    return sums - (np.sum(x * x, axis=1) / x.shape[1] + 1) ** 3


def _cross_sums(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return Σ_j k(a_i, b_j), [N], and Σ_i k(a_i, b_j), [M]."""
    of_a, of_b = [], np.zeros(len(b))
    for part in _kernel_rows(a, b):
        of_a.append(part.sum(axis=1))
        of_b += part.sum(axis=0)
    return np.concatenate(of_a), of_b


def precision_recall(real: np.ndarray, generated: np.ndarray, *, k: int = 3) -> tuple[float, float]:
    """Return the fraction of generated examples within the real set, and that of real ones within the generated set.

    A point is within a set if it lies in one of the balls around the points of the set. The radius of a ball is the
    distance to the k-th nearest neighbor in the set (Kynkäänniemi et al., arXiv 1904.06991).

    Args:
      real: [N, F].
      generated: [M, F].
      k: the neighbor, less than N and M.

    Raises:
      ValueError: there are not k other points.
    """
    real, generated = _as_features(real, generated)
    return _fraction_within(generated, real, k), _fraction_within(real, generated, k)


def _fraction_within(points: np.ndarray, centers: np.ndarray, k: int) -> float:
    radii = squared_radii(centers, k)
    inside = [(d <= radii).any(axis=1) for d in squared_distances(points, centers)]
    return float(np.concatenate(inside).mean())


def density_coverage(real: np.ndarray, generated: np.ndarray, *, k: int = NEIGHBORS) -> tuple[float, float]:
    """Return density 1/(k M) Σ_j Σ_i 1[b_j ∈ B_i] and coverage 1/N Σ_i 1[∃ j: b_j ∈ B_i] of generated examples b_j.

    B_i is the ball around the real example a_i whose radius is the distance to its k-th nearest neighbor among the real
    examples. An outlier among the real examples, whose ball is large, adds less to the density than to the precision.
    The expected density of two samples of one distribution is about 1, and it is not bounded by 1; the expected
    coverage is then about 1 - 2^-k (Naeem et al., arXiv 2002.09797).

    Args:
      real: [N, F].
      generated: [M, F].
      k: the neighbor, less than N.

    Raises:
      ValueError: there are not k other points.
    """
    real, generated = _as_features(real, generated)
    radii = squared_radii(real, k)
    count, covered = 0, np.zeros(len(real), bool)
    for distances in squared_distances(generated, real):
        inside = distances <= radii
        count += int(inside.sum())
        covered |= inside.any(axis=0)
    return count / (k * len(generated)), float(covered.mean())
