"""Coupling transforms: what does not change, against numpyro, and the orders of the numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from flow_cases import affine, numbers, spline
from numpyro.distributions.flows import InverseAutoregressiveTransform

from vae_jax.distributions.conditioners import shift_and_log_scale
from vae_jax.distributions.coupling import coupling_order


@pytest.mark.parametrize("make", [affine, spline])
@pytest.mark.parametrize("layer", [0, 1])
def test_half_of_the_numbers_does_not_change_and_the_other_half_depends_on_it(make, layer):
    size = 5
    transform, e = make(size, layer, ()), numbers(3, size)
    derivative = jax.jit(jax.jacfwd(lambda e: transform.forward(e)[0]))(e)
    fixed, changed = np.split(np.asarray(transform.order), [size // 2])
    expected = np.zeros((size, size), bool)
    expected[np.ix_(changed, fixed)] = True
    np.fill_diagonal(expected, True)
    np.testing.assert_array_equal(np.abs(derivative) > 0, expected)
    np.testing.assert_array_equal(derivative[fixed], np.eye(size)[fixed])


def test_an_affine_coupling_is_a_flow_of_numpyro_whose_network_reads_half_of_the_numbers():
    size, half = 4, 2
    transform = affine(size, 0, ())
    order = np.asarray(transform.order)

    def network(x):  # of x in the order of the halves
        shift, log_scale = shift_and_log_scale(transform.conditioner(x[..., :half]))
        nothing = jnp.zeros((*x.shape[:-1], half))
        return tuple(jnp.concatenate([nothing, part], axis=-1) for part in (shift, log_scale))

    @jax.jit
    @jax.vmap
    def compare(e):
        theirs = InverseAutoregressiveTransform(network)
        base = dist.Normal(jnp.zeros(size), 1).to_event(1)
        z = theirs(e[..., order])
        log_prob = dist.TransformedDistribution(base, theirs).log_prob(z)
        found, log_det = transform.forward(e)
        return (found[..., order], base.log_prob(e) - log_det), (z, log_prob)

    for ours, theirs in zip(*compare(numbers(5, 7, size)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_every_number_changes_and_pairs_of_layers_exchange_the_halves():
    for size in range(1, 12):
        for layer in range(0, 8, 2):
            first, second = coupling_order(size, layer), coupling_order(size, layer + 1)
            assert sorted(first) == list(range(size))
            assert second == first[::-1]
            assert set(first[size // 2 :]) | set(second[size // 2 :]) == set(range(size))
    halves = {frozenset(coupling_order(8, layer)[:4]) for layer in range(6)}
    assert len(halves) == 6  # three binary digits and their complements
