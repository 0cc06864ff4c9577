"""Marks of outlying gradients, against the same rule in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vae_jax.training.outliers import mark_outliers, outlier_of

QUANTILE, FACTOR, WINDOW = 0.7, 2.0, 5


def expected_marks(norms):
    """Return the mark of each norm, given those of the last updates that are neither marked nor infinite."""
    history, marks = [], []
    for norm in norms:
        limit = FACTOR * np.quantile(history[-WINDOW:], QUANTILE) if len(history) >= WINDOW else np.inf
        marks.append(bool(norm > limit))
        if np.isfinite(norm) and not marks[-1]:
            history.append(norm)
    return marks


def test_norms_above_a_multiple_of_the_running_quantile_are_marked():
    norms = np.random.default_rng(0).lognormal(size=40).astype(np.float32)
    norms[[2, 20, 21, 33]] = [1e3, 50, np.nan, 80]  # the first one is in the warm-up
    optimizer = mark_outliers(optax.sgd(1.0), quantile=QUANTILE, factor=FACTOR, window=WINDOW)

    def step(state, norm):
        updates, state = optimizer.update({"a": norm * jnp.array([0.6, 0.0]), "b": norm * 0.8}, state)
        return state, (outlier_of(state), updates["b"])

    _, (marks, updates) = jax.jit(lambda: jax.lax.scan(step, optimizer.init({"a": jnp.zeros(2), "b": 0.0}), norms))()
    np.testing.assert_allclose(updates, -0.8 * norms, rtol=1e-6)  # marks change no update
    expected = expected_marks(norms)
    assert marks.tolist() == expected
    assert expected[2] is False
    assert expected[20] is expected[33] is True
    assert 3 < sum(expected) < 20


def test_other_optimizers_mark_nothing():
    assert outlier_of(optax.adam(1e-3).init({"a": jnp.zeros(2)})) is None
