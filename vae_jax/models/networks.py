"""The settings that the networks of this folder share: widths, activation function and precision."""

import dataclasses
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from flax.typing import Dtype
from jax import Array

from vae_jax.config import setting
from vae_jax.models.choices import NetworkConfig

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "gelu": jax.nn.gelu,
    "silu": jax.nn.silu,
    "elu": jax.nn.elu,
    "softplus": jax.nn.softplus,
    "sigmoid": jax.nn.sigmoid,
    "identity": lambda x: x,
}


@dataclasses.dataclass(frozen=True)
class LayersConfig(NetworkConfig):
    """The base of networks that are a sequence of layers."""

    hidden: tuple[int, ...] = setting(
        (200, 200),
        "Widths of the encoder's layers, from the data to the code; the decoder has the same in reverse order.",
        above=0,
    )
    activation: Literal["tanh", "relu", "gelu", "silu", "elu", "softplus", "sigmoid", "identity"] = setting(
        "tanh", "Activation function between layers; with identity an mlp is linear."
    )
    compute_dtype: Literal["float32", "bfloat16"] = setting(
        "float32",
        "Precision of the encoder's and decoder's layers in training. Parameters, densities and evaluation are "
        "float32.",
    )

    @property
    def activation_function(self) -> Callable[[Array], Array]:
        """The function that `activation` names."""
        return ACTIVATIONS[self.activation]

    def dtype(self, *, training: bool) -> Dtype | None:
        """Return the dtype of the layers' computation; None for that of their input."""
        return jnp.bfloat16 if training and self.compute_dtype == "bfloat16" else None
