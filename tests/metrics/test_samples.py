"""vae_jax/metrics/samples.py: each metric in cases with a known value, and against loops over pairs."""

import numpy as np
import pytest

from vae_jax.metrics import (
    density_coverage,
    frechet_distance,
    kernel_distance,
    neighbors,
    precision_recall,
    sample_metrics,
)


def points_with(mean, covariance, count=200):
    """Points whose sample mean and covariance are exactly these."""
    x = np.random.default_rng(len(mean)).normal(size=(count, len(mean)))
    x -= x.mean(axis=0)
    x = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x, rowvar=False))).T
    return x @ np.linalg.cholesky(covariance).T + mean


def test_frechet_distance_of_axis_parallel_gaussians():
    a, b = np.array([1.0, 2.0, 0.5]), np.array([2.0, 0.1, 0.5])  # standard deviations
    found = frechet_distance(points_with(np.zeros(3), np.diag(a**2)), points_with(np.ones(3), np.diag(b**2)))
    assert found == pytest.approx(3 + ((a - b) ** 2).sum(), rel=1e-9)


def test_frechet_distance_with_covariances_that_do_not_commute():
    import scipy.linalg

    rng = np.random.default_rng(0)
    cov_a, cov_b = (m @ m.T + 0.1 * np.eye(4) for m in rng.normal(size=(2, 4, 4)))
    a, b = points_with(np.arange(4.0), cov_a), points_with(np.zeros(4), cov_b)
    expected = 14 + np.trace(cov_a + cov_b - 2 * scipy.linalg.sqrtm(cov_a @ cov_b).real)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)


def test_frechet_distance_with_a_feature_that_is_always_zero():
    a = points_with(np.zeros(2), np.eye(2))
    dead = np.zeros((len(a), 1))
    found = frechet_distance(np.hstack([a, dead]), np.hstack([2 * a, dead]))
    assert found == pytest.approx(2, rel=1e-6)


def test_frechet_distance_of_one_feature():
    x = np.linspace(0, 1, 9)[:, None]
    assert frechet_distance(x, 3 * x + 2) == pytest.approx((2 + 2 * x.mean()) ** 2 + 4 * x.var(ddof=1))


def mmd(a, b):
    """The unbiased estimate, by a loop over all pairs."""

    def mean(x, y, same):
        pairs = [(i, j) for i in range(len(x)) for j in range(len(y)) if not (same and i == j)]
        return sum((x[i] @ y[j] / x.shape[1] + 1) ** 3 for i, j in pairs) / len(pairs)

    return mean(a, a, True) + mean(b, b, True) - 2 * mean(a, b, False)


def test_kernel_distance_and_its_jackknife_error_are_those_of_loops_over_pairs(monkeypatch):
    monkeypatch.setattr(neighbors, "_MAX_ELEMENTS", 20)
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(6, 2)), rng.normal(0.7, 1, size=(9, 2))
    found = kernel_distance(a, b)
    assert found.value == pytest.approx(mmd(a, b), rel=1e-12)
    without_a = np.array([mmd(np.delete(a, i, axis=0), b) for i in range(6)])
    without_b = np.array([mmd(a, np.delete(b, i, axis=0)) for i in range(9)])
    variance = sum((len(u) - 1) / len(u) * ((u - u.mean()) ** 2).sum() for u in (without_a, without_b))
    assert found.error == pytest.approx(np.sqrt(variance), rel=1e-12)


def test_kernel_distance_is_unbiased_and_its_error_that_of_repetitions():
    """For 1 feature and N(0, 1) against N(m, 1), E k = E (ab + 1)³ is in closed form."""
    m, count = 0.5, 300
    rng = np.random.default_rng(1)
    found = [kernel_distance(rng.normal(size=(30, 1)), rng.normal(m, 1, size=(40, 1))) for _ in range(count)]
    values, errors = np.array(found).T

    def expected_kernel(*means):  # E (ab)^p is the product of the moments
        moments = [(1, u, u**2 + 1, u**3 + 3 * u) for u in means]
        return sum(c * moments[0][p] * moments[1][p] for p, c in enumerate((1, 3, 3, 1)))

    expected = expected_kernel(0, 0) + expected_kernel(m, m) - 2 * expected_kernel(0, m)
    assert abs(values.mean() - expected) < 4 * values.std() / np.sqrt(count)
    assert 0.8 < np.sqrt(np.mean(errors**2)) / values.std() < 1.5


def loops(real, generated, k):
    """Precision, recall, density and coverage by loops over all pairs."""

    def distance(x, y):
        return np.sqrt(sum((u - v) ** 2 for u, v in zip(x, y, strict=True)))

    def radii(points):
        return [sorted(distance(p, q) for q in points)[k] for p in points]

    def within(points, centers):
        found = [[distance(p, c) <= r for c, r in zip(centers, radii(centers), strict=True)] for p in points]
        return np.array(found)

    in_real, in_generated = within(generated, real), within(real, generated)
    return (
        in_real.any(axis=1).mean(), in_generated.any(axis=1).mean(),
        in_real.sum() / (k * len(generated)), in_real.any(axis=0).mean(),
    )  # fmt: skip


@pytest.mark.parametrize("k", [1, 3])
def test_neighborhood_metrics_are_those_of_loops_over_pairs(k, monkeypatch):
    monkeypatch.setattr(neighbors, "_MAX_ELEMENTS", 100)
    rng = np.random.default_rng(0)
    real, generated = rng.normal(size=(40, 2)), rng.normal(0.8, 0.6, size=(31, 2))
    found = (*precision_recall(real, generated, k=k), *density_coverage(real, generated, k=k))
    expected = loops(real, generated, k)
    assert found == pytest.approx(expected, abs=1e-12)
    assert len({round(value, 6) for value in found}) == 4
    assert all(value > 0 for value in found)


def test_a_missing_mode_lowers_recall_and_coverage_and_wrong_samples_precision_and_density():
    cluster = np.random.default_rng(0).normal(size=(20, 2))
    real = np.concatenate([cluster, cluster + 100])
    inside = cluster + 1e-3
    assert precision_recall(real, inside) == (1.0, 0.5)
    assert precision_recall(inside, real) == (0.5, 1.0)
    assert precision_recall(real, real - 1000) == (0.0, 0.0)
    missing, more = density_coverage(real, inside), density_coverage(real, np.concatenate([inside, inside - 1000]))
    assert missing[1] == 0.5
    assert more == (missing[0] / 2, 0.5)


def test_samples_of_one_distribution_have_density_1_and_coverage_by_the_number_of_neighbors():
    rng = np.random.default_rng(0)
    density, coverage = density_coverage(rng.normal(size=(2000, 3)), rng.normal(size=(2000, 3)), k=4)
    assert density == pytest.approx(1, abs=0.05)
    assert coverage == pytest.approx(1 - 2**-4, abs=0.02)


def test_all_metrics_of_one_set_with_itself_and_with_another():
    rng = np.random.default_rng(0)
    real, generated = rng.normal(size=(30, 2)), rng.normal(1, 1, size=(25, 2))
    equal = sample_metrics(real, real)
    assert (equal["precision"], equal["recall"], equal["coverage"]) == (1, 1, 1)
    assert equal["frechet_distance"] == pytest.approx(0, abs=1e-9)
    found = sample_metrics(real, generated)
    assert list(found) == list(equal)
    assert found["frechet_distance"] == frechet_distance(real, generated)
    assert (found["kernel_distance"], found["kernel_distance_se"]) == kernel_distance(real, generated)
    assert (found["precision"], found["recall"]) == precision_recall(real, generated, k=3)
    assert (found["density"], found["coverage"]) == density_coverage(real, generated, k=5)


@pytest.mark.parametrize("shape", [(5,), (5, 3), (1, 2)])
def test_features_of_another_shape_are_refused(shape):
    for metric in (frechet_distance, kernel_distance, precision_recall, density_coverage):
        with pytest.raises(AssertionError):
            metric(np.zeros((5, 2)), np.zeros(shape))
