"""Posterior means of layers and of stacks of blocks, from samples of the layers above."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax.distributions import Latent, Normal
from vae_jax.inference import Terms
from vae_jax.training.latent_means import MEAN_SAMPLES, ActiveUnits, latent_means

B, L = 4, 3


def terms(first_sample=0):
    """Return terms of one sample i, in which the mean of block l of example b is b + 10 l + (-1)^i (b + 1)."""
    example, block = jnp.arange(B) * 1.0, jnp.arange(L) * 10.0
    sign = 1 - 2.0 * (first_sample % 2)
    means = block[:, None, None] + (example + sign * (example + 1))[None, None]  # [L, 1, B]
    loc = jnp.stack([means, -means], axis=-1)
    top = jnp.stack([example] * 3, axis=-1)
    layers = (
        Latent("top", top[None], log_p=jnp.zeros((1, B)), posterior=Normal(top, top)),
        Latent("blocks", loc, log_p=jnp.zeros((L, 1, B)), posterior=Normal(loc, loc)),
    )
    return Terms(jnp.zeros((1, B)), layers)


def test_the_mean_of_each_block_and_the_variance_of_its_estimate():
    found = jax.jit(lambda: latent_means(terms, terms(1)))()
    assert {name: value.shape for name, value in found.items()} == {
        "mean/000": (B, 3), "mean/001": (B, L, 2), "mean_variance/001": (B, L, 2)
    }  # fmt: skip
    np.testing.assert_array_equal(found["mean/000"][:, 0], np.arange(B))
    expected = np.arange(B)[:, None] + 10 * np.arange(L)
    np.testing.assert_allclose(found["mean/001"], np.stack([expected, -expected], axis=-1), rtol=1e-5, atol=1e-5)
    variance = (np.arange(B) + 1.0) ** 2 / (MEAN_SAMPLES - 1)
    np.testing.assert_allclose(found["mean_variance/001"], np.tile(variance[:, None, None], (1, L, 2)), rtol=1e-4)


def test_blocks_whose_posterior_reads_the_data_alone_have_no_sample_axis():
    loc = jnp.arange(L * B * 2.0).reshape(L, B, 2)
    latent = Latent("blocks", loc[:, None], log_p=jnp.zeros((L, 1, B)), posterior=Normal(loc, loc))
    found = latent_means(terms, Terms(jnp.zeros((1, B)), (latent,)))
    assert list(found) == ["mean/000"]
    np.testing.assert_array_equal(found["mean/000"], np.moveaxis(loc, 0, 1))


def test_units_are_counted_in_the_order_of_the_layers_and_not_of_their_names():
    units = ActiveUnits()
    units.take(jax.device_get(jax.jit(lambda: latent_means(terms, terms(1)))()))
    assert units.counts() == [3, 2, 2, 2]  # "top" before "blocks"


@pytest.mark.parametrize(("estimated", "counts"), [(False, [2, 1, 2, 0]), (True, [2, 0, 1, 0])])
def test_units_are_counted_for_each_layer_and_block(estimated, counts):
    """The variances of the means, of which that of their estimates is subtracted, are 0.99 % to 5 % around 1000."""
    scales = np.sqrt(np.array([[0.0099, 0.0101], [0.0101, 0.05], [0.0, 0.0]]))
    mean = 1000 + np.array([1, -1, 1, -1])[:, None, None] * scales
    values = {"mean/001": mean, "mean/000": mean[:, 1], "kl": np.arange(4.0)}
    values |= {"mean_variance/001": np.full((4, 3, 2), 0.02)} if estimated else {}
    units, others = ActiveUnits(), []
    for start in (0, 3):  # batches of three and of one
        others.append(units.take({name: value[start : start + 3] for name, value in values.items()}))
    assert units.counts() == counts
    assert [other["kl"].tolist() for other in others] == [[0, 1, 2], [3]]
    assert [list(other) for other in others] == [["kl"], ["kl"]]
