"""Latent: a pytree with a static name, its prior that becomes known later, and stacks of layers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from densities import B, D, log_prob, normals

from vae_jax.distributions import Normal, from_means, from_posterior, from_prior, from_values, standard_normal
from vae_jax.distributions.latent import Latent, Observed, Variables, as_variables

K = 3


def latent():
    """Return a layer of K samples whose prior is not known yet."""
    q = Normal(normals(0, B, D), normals(1, B, D))
    z = normals(2, K, B, D)
    return Latent("z", z, log_q=q.log_prob(z), penalty=jnp.ones((K, B)), posterior=q)


def test_a_prior_that_becomes_known_later_adds_its_log_density():
    layer, prior = latent(), Normal(normals(3, K, B, D), normals(4, K, B, D))
    scored = layer.with_prior(prior)
    np.testing.assert_allclose(scored.log_p, log_prob(prior, layer.z), rtol=1e-5)
    assert scored.prior is prior
    for field in ("name", "z", "log_q", "kl", "penalty", "posterior"):
        assert getattr(scored, field) is getattr(layer, field)
    assert layer.log_p is None  # the layer itself is not changed
    assert layer.prior is None


def test_the_log_density_under_a_later_prior_has_a_gradient_to_the_value_and_to_the_prior():
    prior = Normal(normals(3, B, D), normals(4, B, D))

    def total(z, prior):
        return Latent("z", z).with_prior(prior).log_p.sum()

    for_z, for_prior = jax.grad(total, argnums=(0, 1))(normals(2, K, B, D), prior)
    assert all(np.all(leaf != 0) for leaf in jax.tree.leaves((for_z, for_prior)))


def test_a_prior_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="leading axes"):
        latent().with_prior(standard_normal((D + 1,)))


def test_a_layer_is_a_pytree_whose_name_is_static():
    layer = latent()
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(layer))
    traces = []

    @jax.jit
    def double(layer):
        traces.append(layer.name)
        return jax.tree.map(lambda a: 2 * a, layer)

    for _ in range(2):
        doubled = double(layer)
    assert traces == ["z"]
    assert doubled.name == "z"
    assert doubled.log_p is doubled.kl is None
    np.testing.assert_array_equal(doubled.posterior.loc, 2 * layer.posterior.loc)
    double(dataclasses.replace(layer, name="y"))
    assert traces == ["z", "y"]


def test_a_layer_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        latent().z = jnp.zeros(())


def test_known_values_are_a_pytree_of_a_batch():
    observed = Observed(value=normals(0, B, D), mask=jnp.arange(B) < 3)
    part = jax.tree.map(lambda a: a[2:4], observed)
    assert isinstance(part, Observed)
    np.testing.assert_array_equal(part.mask, [True, False])


def test_blocks_of_a_scan_are_one_layer_with_a_leading_axis():
    blocks, keys = 4, jax.random.split(jax.random.key(0), B)
    draw = from_posterior(keys, B, K)
    scales = jnp.linspace(0.5, 2.0, blocks)

    def block(z, scale, index):
        q = Normal(jnp.sin(z), jnp.full(z.shape, -1.0))
        return draw("z", Normal(z, jnp.full(z.shape, jnp.log(scale))), lambda: q, index=index)

    def step(z, inputs):
        layer = block(z, *inputs)
        return layer.z, layer

    start = jnp.zeros((K, B, D))
    _, stacked = jax.lax.scan(step, start, (scales, jnp.arange(blocks)))
    assert stacked.z.shape == (blocks, K, B, D)
    assert stacked.log_p.shape == stacked.log_q.shape == stacked.kl.shape == (blocks, K, B)
    z = start
    for i in range(blocks):
        layer = block(z, scales[i], jnp.asarray(i))
        for field in ("z", "log_p", "log_q", "kl"):
            np.testing.assert_allclose(getattr(stacked, field)[i], getattr(layer, field), rtol=1e-4, atol=1e-4)
        z = layer.z
    first, second = (draw("z", None, lambda: Normal(start, start), index=jnp.asarray(i)).z for i in (0, 1))
    assert np.all(first != second)  # blocks share a name and not their noise


@pytest.mark.parametrize(
    ("draw", "expected"),
    [
        (from_posterior(jax.random.key(0), B), True),
        (from_prior(jax.random.key(0), B), False),
        (from_means(), True),
        (from_values({}), False),
        (from_values({}, with_posterior=True), True),
    ],
    ids=["posterior", "prior", "means", "values", "values and their posterior"],
)
def test_a_drawer_states_whether_its_values_come_from_the_posterior(draw, expected):
    assert draw.posterior_first is expected


def test_parameters_and_variables_are_arguments_of_apply():
    params, averages = {"w": jnp.ones(2)}, {"mean": jnp.zeros(2)}
    assert as_variables(params) == {"params": params}
    variables = Variables(params, {"batch_stats": averages})
    assert as_variables(variables) == {"params": params, "batch_stats": averages}
    doubled = jax.tree.map(lambda leaf: 2 * leaf, variables)
    assert isinstance(doubled, Variables)  # a pytree
    np.testing.assert_array_equal(as_variables(doubled)["params"]["w"], [2, 2])
