"""vae_jax/metrics/probes.py: the linear probe against scikit-learn's logistic regression."""

import numpy as np
import pytest

from vae_jax.metrics import fit_linear_probe

rng = np.random.default_rng(0)
LABELS = rng.choice([2, 3, 7], size=300)
CODES = np.concatenate(
    [rng.normal(size=(300, 3)) + np.stack([LABELS == 3, LABELS, LABELS == 7], axis=1) * [2, 0.3, 1], np.ones((300, 1))],
    axis=1,
) * [1, 100, 1e-3, 5] + [0, 50, 1, 0]  # numbers of different sizes, the last one constant  # fmt: skip


def test_the_probe_is_logistic_regression_of_scaled_codes():
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    train, test = slice(0, 200), slice(200, 300)
    probe = fit_linear_probe(CODES[train], LABELS[train], l2=1e-2)
    scaler = StandardScaler().fit(CODES[train])
    # scikit-learn minimizes C Σ loss + |W|²/2.
    expected = LogisticRegression(C=1 / (200 * 1e-2), max_iter=1000, tol=1e-8).fit(
        scaler.transform(CODES[train]), LABELS[train]
    )
    logits = CODES @ probe.weights + probe.bias
    logits -= logits.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(logits, expected.decision_function(scaler.transform(CODES)), atol=2e-3)
    assert probe.classes.tolist() == [2, 3, 7]
    accuracy = expected.score(scaler.transform(CODES[test]), LABELS[test])
    assert probe.accuracy(CODES[test], LABELS[test]) == pytest.approx(accuracy, abs=1e-12)
    assert 0.5 < accuracy < 0.95


def test_one_label_is_refused():
    with pytest.raises(ValueError, match="labels are all 4"):
        fit_linear_probe(CODES[:5], np.full(5, 4))
