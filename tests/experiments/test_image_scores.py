"""experiments/image_scores.py: each score in cases with a known value."""

import numpy as np
import pytest
from scripts import load


@pytest.fixture(scope="module")
def script():
    return load("image_scores")


def points_with(mean, covariance, count=200):
    """Points whose sample mean and covariance are exactly these."""
    x = np.random.default_rng(len(mean)).normal(size=(count, len(mean)))
    x -= x.mean(axis=0)
    x = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x, rowvar=False))).T
    return x @ np.linalg.cholesky(covariance).T + mean


def test_frechet_distance_of_axis_parallel_gaussians(script):
    a, b = np.array([1.0, 2.0, 0.5]), np.array([2.0, 0.1, 0.5])  # standard deviations
    found = script.frechet_distance(points_with(np.zeros(3), np.diag(a**2)), points_with(np.ones(3), np.diag(b**2)))
    assert found == pytest.approx(3 + ((a - b) ** 2).sum(), rel=1e-9)


def test_frechet_distance_with_covariances_that_do_not_commute(script):
    import scipy.linalg

    rng = np.random.default_rng(0)
    cov_a, cov_b = (m @ m.T + 0.1 * np.eye(4) for m in rng.normal(size=(2, 4, 4)))
    a, b = points_with(np.arange(4.0), cov_a), points_with(np.zeros(4), cov_b)
    expected = 14 + np.trace(cov_a + cov_b - 2 * scipy.linalg.sqrtm(cov_a @ cov_b).real)
    assert script.frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)
    assert script.frechet_distance(b, a) == pytest.approx(expected, rel=1e-6)
    assert script.frechet_distance(a, a) == pytest.approx(0, abs=1e-9)


def test_frechet_distance_with_a_feature_that_is_always_zero(script):
    a = points_with(np.zeros(2), np.eye(2))
    dead = np.zeros((len(a), 1))
    found = script.frechet_distance(np.hstack([a, dead]), np.hstack([2 * a, dead]))
    assert found == pytest.approx(2, rel=1e-6)


def test_precision_is_the_share_of_fake_points_and_recall_that_of_real_ones(script):
    cluster = np.random.default_rng(0).normal(size=(3, 20, 2))
    real = np.concatenate([cluster[0], cluster[0] + 100])
    inside = cluster[0] + 1e-3
    assert script.precision_recall(real, inside) == (1.0, 0.5)  # a mode is missed
    assert script.precision_recall(inside, real) == (0.5, 1.0)
    three = np.concatenate([real, cluster[0] - 100, cluster[0] + [0, 300]]) + 1e-3
    assert script.precision_recall(real, three) == (0.5, 1.0)  # two of four clusters are not in the real set
    assert script.precision_recall(real, real - 1000) == (0.0, 0.0)


def test_the_radius_of_a_ball_is_the_distance_to_the_kth_neighbor(script):
    real, fake = np.array([[0.0], [1], [3]]), np.array([[-2.5], [5.5], [1], [2]])
    assert script.precision_recall(real, fake, k=1)[0] == 0.5  # [-1, 1], [0, 2], [1, 5]
    assert script.precision_recall(real, fake, k=2)[0] == 1.0  # [-3, 3], [-1, 3], [0, 6]


def test_precision_and_recall_do_not_depend_on_chunks(script):
    rng = np.random.default_rng(0)
    real, fake = rng.normal(size=(1203, 2)), rng.normal(1, 0.5, size=(1101, 2))

    def inside(points, balls):
        among = np.linalg.norm(balls[:, None] - balls[None], axis=-1)
        radii = np.sort(among, axis=1)[:, 3]
        return (np.linalg.norm(points[:, None] - balls[None], axis=-1) <= radii).any(axis=1).mean()

    expected = inside(fake, real), inside(real, fake)
    assert 0.5 < expected[1] < expected[0] < 1
    assert script.precision_recall(real, fake) == pytest.approx(expected, abs=1e-12)


def test_recall_falls_with_a_missing_mode_and_precision_with_wrong_images(script):
    """Half of the test images are dark and half bright: images of one kind have precision 1 and recall 0.5."""

    class Pixels:
        @staticmethod
        def apply(variables, x):
            return x.reshape(len(x), -1), x.reshape(len(x), -1)

    rng = np.random.default_rng(0)
    dark, bright = (rng.integers(low, low + 40, (60, 3, 3, 1), np.uint8) for low in (108, 210))
    scorer = script.Scorer(Pixels, {}, np.concatenate([dark, bright]))
    one = scorer.scores(dark)["grey"]
    assert (one["precision"], one["recall"]) == (1.0, 0.5)
    more = scorer.scores(np.concatenate([dark, bright, np.zeros((120, 3, 3, 1), np.uint8)]))["grey"]
    assert (more["precision"], more["recall"]) == (0.5, 1.0)


def test_sharpness(script):
    x = np.zeros((2, 5, 5, 1))
    x[0, 2, 2] = 1  # Laplacian: -4 there, 1 at its four neighbors
    assert script.sharpness(x) == pytest.approx((20 / 25 + 0) / 2, rel=1e-6)
    assert script.sharpness(np.full((1, 5, 5, 1), 0.7)) == pytest.approx(0, abs=1e-12)
