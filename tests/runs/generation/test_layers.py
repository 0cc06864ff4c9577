"""Layers from the top: their order and numbers, and images decoded from the top ones against a single walk."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ladders import MLP, LoopLadder, layered_experiment, loop_parameters

from vae_jax import random
from vae_jax.distributions import Latent, from_means, from_prior
from vae_jax.errors import InputError
from vae_jax.runs.generation import layers

LAYERED = {"model": "layered", "model__latent_dim": 2, "model__latent_layers": (3,), "model__layer_hidden": (4,),
           "network__hidden": (5,)}  # fmt: skip


class KeepFirst:
    """A drawer of posterior means for the first layers that it is asked for, and of the prior for the others."""

    posterior_first = False

    def __init__(self, keys, count):
        self.keep, self.rest, self.left = from_means(), from_prior(keys, keys.shape[0]), count

    def __call__(self, *arguments, **options):
        self.left -= 1
        latent = (self.keep if self.left >= 0 else self.rest)(*arguments, **options)
        return Latent(latent.name, latent.z)  # blocks of one level are stacked


def test_the_top_layers_have_their_posterior_means_and_the_others_are_drawn(one_device):
    """The walk of the test reads the posterior and the prior at once, in a ladder without `nn.scan`."""
    experiment, params = layered_experiment(**MLP)
    model, key = experiment.model, jax.random.key(3)
    loop = LoopLadder(**{name: getattr(model, name) for name in ("levels", "style", "likelihood", "shape")})
    variables, arrays = {"params": loop_parameters(params)}, experiment.dataset("test").arrays
    batch = {"x": jnp.asarray(arrays["x"] / 255, jnp.float32)}
    number = jnp.uint32((1 << 31) + 1)  # of the second draw
    keys = random.fold_in(random.example_keys(key, len(arrays["x"])), number)

    def walk(count):
        evidence = loop.apply(variables, batch, method="encode")
        return loop.apply(variables, KeepFirst(keys, count), evidence, method="decode")[0].mean()

    expected = jax.jit(lambda: [walk(count) for count in range(4)])()
    for count in range(4):
        found = layers.decode_top_layers(experiment, params, key, arrays, count, one_device, num_draws=2)
        assert found["decoded"].shape == (len(arrays["x"]), 2, 4, 3, 1)
        np.testing.assert_allclose(found["decoded"][:, -1], expected[count], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found["seen"], batch["x"], rtol=1e-6)
    assert np.abs(np.diff(expected, axis=0)).max(axis=(1, 2, 3, 4)).min() > 1e-3  # each layer has an effect


def test_the_order_is_that_of_the_prior_for_a_posterior_from_the_data_upwards(one_device):
    experiment, params = layered_experiment(**LAYERED)
    assert list(layers.layers_from_top(experiment, params)) == ["z2", "z1"]
    evaluation = {"kl_1": 3.0, "kl_2": 0.5, "active_units_by_layer": [2, 1]}
    rows = layers.layer_numbers(experiment, params, evaluation)
    assert rows == [("z2", 0.5, 1, 2), ("z1", 3.0, 2, 3)]
    assert layers.layer_numbers(experiment, params, {"kl": 3.5}) == []
    arrays, key = experiment.dataset("test").arrays, jax.random.key(3)
    other = {"x": 255 - arrays["x"]}
    for count, same in ((0, True), (1, False)):
        pair = [layers.decode_top_layers(experiment, params, key, x, count, one_device) for x in (arrays, other)]
        assert np.allclose(pair[0]["decoded"], pair[1]["decoded"]) is same


def test_blocks_have_their_numbers_from_the_top():
    experiment, params = layered_experiment(**MLP)
    evaluation = {"kl_1": 1.0, "kl_2": 2.0, "kl_3": 3.0, "active_units_by_layer": [1, 2, 3]}
    assert layers.layer_numbers(experiment, params, evaluation) == [
        ("top", 1.0, 1, 2), ("level1, 1", 2.0, 2, 3), ("level1, 2", 3.0, 3, 3),
    ]  # fmt: skip


@pytest.mark.fault
def test_more_layers_than_the_model_has_are_refused(one_device):
    experiment, params = layered_experiment(**MLP)
    arrays = experiment.dataset("test").arrays
    for count in (-1, 4):
        with pytest.raises(InputError, match=f"^keep_layers={count} must be from 0 to 3, the number of stochastic lay"):
            layers.decode_top_layers(experiment, params, jax.random.key(0), arrays, count, one_device)
