"""The networks of flows: dense layers, context and bounded scales."""

import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax.distributions.conditioners import LOG_SCALE_BOUND, Conditioner, shift_and_log_scale

RNG = np.random.default_rng(0)
KERNELS = tuple(RNG.normal(size=shape).astype(np.float32) for shape in ((2, 4), (4, 3)))
BIASES = tuple(RNG.normal(size=size).astype(np.float32) for size in (4, 3))


def test_the_layers_their_masks_and_the_context_of_each_example():
    x, context = RNG.normal(size=(5, 3, 2)).astype(np.float32), RNG.normal(size=(3, 4)).astype(np.float32)
    masks = ((RNG.random((2, 4)) < 0.5).astype(np.float32), np.ones((4, 3), np.float32))
    found = Conditioner(KERNELS, BIASES, jnp.asarray(context))(jnp.asarray(x), masks)
    hidden = np.maximum(x @ (KERNELS[0] * masks[0]) + BIASES[0] + context[None], 0)
    np.testing.assert_allclose(found, hidden @ KERNELS[1] + BIASES[1], rtol=1e-5, atol=1e-5)


def test_log_scales_are_bounded_and_have_a_slope_of_one_at_zero():
    shift, log_scale = shift_and_log_scale(jnp.array([3.0, -1e9, 0.01, 1e9]))
    np.testing.assert_array_equal(shift, np.array([3.0, -1e9], np.float32))
    np.testing.assert_allclose(log_scale, [0.01, LOG_SCALE_BOUND], rtol=1e-4)


@pytest.mark.fault
def test_unequal_numbers_of_kernels_and_biases_and_integers_are_refused():
    with pytest.raises(AssertionError):
        Conditioner(KERNELS, BIASES[:1])(jnp.zeros((1, 2)))
    with pytest.raises(AssertionError):
        Conditioner(KERNELS, BIASES)(jnp.zeros((1, 2), jnp.int32))
