"""Masked autoregressive transforms: which output depends on which input, and against numpyro."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from flow_cases import autoregressive, numbers
from numpyro.distributions.flows import InverseAutoregressiveTransform

from vae_jax.distributions.autoregressive import autoregressive_masks
from vae_jax.distributions.conditioners import shift_and_log_scale


@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_number_depends_on_those_before_it_alone(size):
    hidden = (7, 6)
    paths = np.linalg.multi_dot(autoregressive_masks(size, hidden))  # [D, 2 D], the number of paths
    expected = np.triu(np.ones((size, size), bool), 1)
    np.testing.assert_array_equal(paths > 0, np.concatenate([expected, expected], axis=1))
    transform = autoregressive(size, 1, ())
    derivative = jax.jit(jax.jacfwd(lambda e: transform.forward(e)[0]))(numbers(3, size))
    np.testing.assert_array_equal(np.triu(derivative, 1), 0)
    assert (np.diag(derivative) > 0).all()


def test_the_flow_equals_that_of_numpyro():
    size = 4
    transform = autoregressive(size, 1, ())
    masks = autoregressive_masks(size, (6, 6))

    @jax.jit
    @jax.vmap
    def compare(e):
        theirs = InverseAutoregressiveTransform(lambda x: shift_and_log_scale(transform.conditioner(x, masks)))
        base = dist.Normal(jnp.zeros(size), 1).to_event(1)
        z = theirs(e)
        log_prob = dist.TransformedDistribution(base, theirs).log_prob(z)
        found, log_det = transform.forward(e)
        again, inverse_log_det = transform.inverse(z)
        ours = (found, base.log_prob(e) - log_det, again, base.log_prob(again) + inverse_log_det)
        return ours, (z, log_prob, theirs._inverse(z), log_prob)

    for ours, theirs in zip(*compare(numbers(5, 7, size)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("hidden", [(3,), (5, 4)])
def test_a_narrow_network_reads_numbers_of_all_positions(hidden):
    size = 20
    paths = np.linalg.multi_dot(autoregressive_masks(size, hidden))[:, :size]
    assert (np.tril(paths) == 0).all()
    assert (paths[:-1, -1] > 0).mean() > 0.6  # the last number depends on most others
    assert (paths[0, 1:] > 0).all()  # the first one has an effect on all others
