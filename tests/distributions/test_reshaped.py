"""A density of vectors as one of feature maps: the same numbers in row-major order, and refused shapes."""

import jax
import numpy as np
import pytest
from flow_cases import flow, numbers

from vae_jax.distributions import Normal
from vae_jax.distributions.reshaped import Reshaped

EVENT = (2, 3, 2)


@pytest.mark.parametrize("batch", [(), (5,)])
def test_values_and_densities_are_those_of_the_vectors(batch):
    base = flow("affine", 12, batch)
    density, key = Reshaped(base, EVENT), jax.random.key(0)

    @jax.jit
    def evaluate(density):
        value, log_density = density.sample_and_log_prob(key, (4,))
        cold = density.tempered(0.5).sample(key, (4,))
        return (
            value,
            density.sample(key, (4,)),
            cold,
            density.mean(),
            density.stddev(),
            log_density,
            density.log_prob(value),
        )

    *arrays, log_density, by_inversion = evaluate(density)
    *vectors, expected, _ = evaluate(base)
    for array, vector in zip(arrays, vectors, strict=True):
        assert array.shape == (*vector.shape[:-1], *EVENT)
        np.testing.assert_allclose(array.reshape(vector.shape), vector, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(log_density, expected, rtol=1e-5)
    np.testing.assert_allclose(by_inversion, expected, rtol=1e-4)
    assert (density.batch_shape, density.event_ndims) == (batch, 3)


@pytest.mark.fault
def test_values_of_another_shape_are_refused():
    density = Reshaped(Normal(numbers(0, 12), numbers(1, 12)), EVENT)
    for shape in ((3, 2, 2), (4, 12), (4, 3, 2, 2)):
        with pytest.raises(AssertionError, match="shape"):
            density.log_prob(numbers(2, *shape))
