"""Fixtures for the tests of the training folder."""

import jax.numpy as jnp
import numpy as np
import pytest


@pytest.fixture(scope="session")
def data():
    """Return {"x": uint8 [100, 6, 6, 1]} with structure that a model can learn: entire columns are bright."""
    rng = np.random.default_rng(0)
    bright = rng.integers(0, 2, size=(100, 1, 6, 1)) * 200
    return {"x": jnp.asarray(bright + rng.integers(0, 55, size=(100, 6, 6, 1)), jnp.uint8)}
