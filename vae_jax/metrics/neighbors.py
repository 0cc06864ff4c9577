"""Distances between points, in bounded memory, and the nearest neighbors that follow from them."""

from collections.abc import Iterator

import chex
import numpy as np

_MAX_ELEMENTS = 1 << 23  # of one array of distances: 64 MiB


def chunks_of_rows(num_rows: int, num_columns: int) -> Iterator[slice]:
    """Yield slices of the rows of a matrix, so that a part of float64 fills at most 64 MiB (one row at least).

    Args:
      num_rows: N.
      num_columns: M.
    """
    size = max(1, _MAX_ELEMENTS // max(num_columns, 1))
    for start in range(0, num_rows, size):
        yield slice(start, start + size)


def squared_distances(a: np.ndarray, b: np.ndarray) -> Iterator[np.ndarray]:
    """Yield |a_i - b_j|² in double precision for some rows i at a time, [n, M]; all rows in order.

    Args:
      a: points, [N, F].
      b: points, [M, F].
    """
    chex.assert_rank([a, b], 2)
    chex.assert_equal_shape_suffix([a, b], 1)
    center = np.mean(b, axis=0, dtype=np.float64)  # fewer digits are lost where the points are far from 0
    a, b = np.asarray(a, np.float64) - center, np.asarray(b, np.float64) - center
    squares = np.sum(b * b, axis=1)
    for rows in chunks_of_rows(len(a), len(b)):
        part = a[rows]
        yield np.maximum(np.sum(part * part, axis=1)[:, None] + squares[None] - 2 * part @ b.T, 0)


def squared_radii(points: np.ndarray, k: int) -> np.ndarray:
    """Return the squared distance of each point to its k-th nearest neighbor among the others, [N].

    Args:
      points: [N, F].
      k: from 1 to N - 1.

    Raises:
      ValueError: there are not k other points.
    """
    if not 1 <= k < len(points):
        raise ValueError(f"k={k} must be from 1 to {len(points) - 1}, the number of other points")
    # The nearest point of the set is the point itself at index 0, so that the k-th neighbor has index k.
    return np.concatenate([np.partition(d, k, axis=1)[:, k] for d in squared_distances(points, points)])


def neighbor_accuracy(
    train_codes: np.ndarray, train_labels: np.ndarray, test_codes: np.ndarray, test_labels: np.ndarray, *, k: int = 5
) -> float:
    """Return the accuracy of classification by the most frequent label of the k nearest training codes.

    Of labels that are equally frequent, the smallest one is chosen, as scikit-learn does.

    Args:
      train_codes: [N, D].
      train_labels: integers [N], at least 0.
      test_codes: [M, D].
      test_labels: integers [M].
      k: the number of neighbors, from 1 to N.

    Returns:
      The fraction of correct labels.

    Raises:
      ValueError: there are not k training codes.
    """
    chex.assert_shape(train_labels, (len(train_codes),))
    chex.assert_shape(test_labels, (len(test_codes),))
    if not 1 <= k <= len(train_codes):
        raise ValueError(f"k={k} must be from 1 to {len(train_codes)}, the number of training codes")
    classes, indices = np.unique(train_labels, return_inverse=True)
    found = []
    for distances in squared_distances(test_codes, train_codes):
        nearest = indices[np.argpartition(distances, k - 1, axis=1)[:, :k]]  # [n, k]
        votes = np.sum(nearest[..., None] == np.arange(len(classes)), axis=1)  # [n, C]
        found.append(classes[np.argmax(votes, axis=1)])
    return float(np.mean(np.concatenate(found) == test_labels))
