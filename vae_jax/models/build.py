"""The model that a config describes, and the initial variables of any model."""

from typing import Any

import flax.linen as nn
import jax
from jax import Array

from vae_jax.config import Config
from vae_jax.distributions import Batch, Shape, from_posterior


def build_model(config: Config, shape: Shape, *, training: bool = False) -> nn.Module:
    """Return the model that a config describes.

    Parameters and densities are those of float32 layers.

    Args:
      config: a config; its sections model, network, posterior, prior and likelihood are used.
      shape: shape of one example x: (H, W, C) for images, (D,) for vectors and counts.
      training: whether the model is for training. Its layers then compute in `network.compute_dtype`, and with
        `network.remat` the interior of a block is computed again for its gradient instead of being stored.

    Returns:
      The model, without parameters.

    Raises:
      InputError: the network does not support the shape.
    """
    return config.model.build(config, tuple(shape), training=training)


def init_params(model: nn.Module, key: Array, batch: Batch) -> dict[str, Any]:
    """Return the initial variables of a model: those that a walk through `encode` and `decode` uses.

    Args:
      model: a `VAE`, or any Linen module with its methods `encode` and `decode`.
      key: a typed key.
      batch: inputs {"x": [B, ...], ...} of any number of examples; their values are not used.

    Returns:
      {"params": parameters}, and the other collections of the model by name.
    """
    draw = from_posterior(jax.random.key(0), batch["x"].shape[0])  # variables do not depend on the values of layers

    def walk(module: Any, batch: Batch) -> Any:
        return module.decode(draw, module.encode(batch), batch)

    return dict(model.init(key, batch, method=walk))
