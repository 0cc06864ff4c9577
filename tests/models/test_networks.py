"""The settings that networks share: activation functions and the precision of the layers."""

import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax.config import Config, override
from vae_jax.errors import InputError
from vae_jax.models.networks import ACTIVATIONS, LayersConfig


def test_activations_are_the_functions_of_their_names():
    x = jnp.linspace(-3, 3, 7)
    for name, function in ACTIVATIONS.items():
        expected = {"identity": lambda v: v, "tanh": jnp.tanh}.get(name) or getattr(jax.nn, name)
        np.testing.assert_allclose(function(x), expected(x), rtol=1e-6)
        assert LayersConfig(activation=name).activation_function is function


def test_every_activation_can_be_chosen():
    assert typing.get_args(typing.get_type_hints(LayersConfig)["activation"]) == tuple(ACTIVATIONS)


def test_only_training_has_another_precision():
    half = LayersConfig(compute_dtype="bfloat16")
    assert half.dtype(training=True) == jnp.bfloat16
    assert half.dtype(training=False) is None
    assert LayersConfig().dtype(training=True) is None


@pytest.mark.fault
@pytest.mark.parametrize("network", ["mlp", "conv", "residual"])
def test_values_that_no_network_has_are_refused(network):
    for setting, value in {"activation": "tan", "compute_dtype": "float16", "hidden": (8, 0)}.items():
        with pytest.raises(InputError, match=rf"^network\.{setting}=.* must be "):
            override(Config(), **{"network": network, "network__hidden": (8,), f"network__{setting}": value})
