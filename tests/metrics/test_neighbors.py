"""vae_jax/metrics/neighbors.py: distances and nearest neighbors against loops over pairs and scikit-learn."""

import numpy as np
import pytest

from vae_jax.metrics import neighbor_accuracy, neighbors


def test_squared_distances_are_those_of_all_pairs_in_any_chunk(monkeypatch):
    rng = np.random.default_rng(0)
    a, b = rng.normal(1e4, 1, size=(7, 3)), rng.normal(1e4, 1, size=(5, 3))  # far from 0: digits would be lost
    expected = [[sum((u - v) ** 2 for u, v in zip(x, y, strict=True)) for y in b] for x in a]
    for elements in (1, 10, 1000):  # one, two and all rows at a time
        monkeypatch.setattr(neighbors, "_MAX_ELEMENTS", elements)
        parts = list(neighbors.squared_distances(a, b))
        assert len(parts) == {1: 7, 10: 4, 1000: 1}[elements]
        np.testing.assert_allclose(np.concatenate(parts), expected, rtol=1e-9)


def test_the_radius_is_the_distance_to_the_kth_other_point():
    points = np.array([[0.0], [1], [3], [7]])
    np.testing.assert_allclose(neighbors.squared_radii(points, 1), [1, 1, 4, 16])
    np.testing.assert_allclose(neighbors.squared_radii(points, 2), [9, 4, 9, 36])
    for k in (0, 4):
        with pytest.raises(ValueError, match=f"k={k} must be from 1 to 3"):
            neighbors.squared_radii(points, k)


@pytest.mark.parametrize("k", [1, 4, 5])
def test_the_accuracy_of_neighbors_is_that_of_scikit_learn(k, monkeypatch):
    from sklearn.neighbors import KNeighborsClassifier

    rng = np.random.default_rng(k)
    labels = rng.integers(3, 9, size=400)
    codes = rng.normal(size=(400, 2)) + 0.8 * labels[:, None]
    monkeypatch.setattr(neighbors, "_MAX_ELEMENTS", 30 * 300)
    found = neighbor_accuracy(codes[:300], labels[:300], codes[300:], labels[300:], k=k)
    expected = KNeighborsClassifier(k).fit(codes[:300], labels[:300]).score(codes[300:], labels[300:])
    assert found == pytest.approx(expected, abs=1e-12)
    assert 0.3 < found < 0.9


def test_more_neighbors_than_codes_are_refused():
    codes, labels = np.zeros((3, 1)), np.zeros(3, int)
    with pytest.raises(ValueError, match="k=4 must be from 1 to 3"):
        neighbor_accuracy(codes, labels, codes, labels, k=4)
