"""The parts of a block: the scale of σ, and the scale of its output."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax.models.ladder_blocks import add, log_scale, scaled_init


@pytest.mark.parametrize("head", ["softplus", "log-scale"])
def test_the_logarithm_of_the_scale_and_its_gradient_are_finite_and_exact(head):
    s = np.array([-1e4, -60, -25, -21.7, -21.5, -5, 0, 3, 60, 1e4], np.float32)
    value, gradient = jax.jit(jax.vmap(jax.value_and_grad(lambda s: log_scale(s, head))))(s)
    s = s.astype(np.float64)
    if head == "log-scale":
        expected, slope = s, np.ones_like(s)
    else:
        t = s * np.log(2)
        softplus = np.logaddexp(0, np.maximum(t, -700))  # log σ = log log2(1 + 2^s), linear below
        expected = np.log(softplus) + np.minimum(t + 700, 0) - np.log(np.log(2))
        slope = np.where(t < -700, np.log(2), np.log(2) / (1 + np.exp(-np.maximum(t, -700))) / softplus)
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(gradient, slope, rtol=1e-5)


def test_the_last_kernels_of_all_blocks_together_have_the_scale_of_one():
    kernels = [scaled_init(depth)(jax.random.key(0), (64, 64)) for depth in (1, 9)]
    np.testing.assert_allclose(kernels[1], kernels[0] / 3, rtol=1e-5)
    np.testing.assert_allclose(np.std(kernels[0]), 1 / 8, rtol=0.1)


def test_a_sum_has_the_leading_axes_of_both_and_the_dtype_of_the_first():
    a, b = jnp.ones((3,)), jnp.full((2, 3), 2, jnp.bfloat16)
    assert add(a, b).shape == add(b, a).shape == (2, 3)
    assert (add(a, b).dtype, add(b, a).dtype) == (jnp.float32, jnp.bfloat16)
