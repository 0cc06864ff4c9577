"""The model that a config describes, and the initial variables of any model."""

import dataclasses
import functools
import sys
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
from jax import Array

from vae_jax.config import Config
from vae_jax.distributions import Batch, Shape, from_posterior, refuse_flax_errors
from vae_jax.errors import InputError
from vae_jax.models.vae import check_linen


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

    The initialization is compiled as one program, because a program for each of its operations takes seconds.

    Args:
      model: a `VAE`, or any Linen module with its methods `encode` and `decode`.
      key: a typed key.
      batch: inputs {"x": [B, ...], ...} of any number of examples; their values are not used.

    Returns:
      {"params": parameters}, and the other collections of the model by name.

    Raises:
      InputError: the model is no Linen module with both methods, a part of it is a module of another kind, or the model
        changes variables outside of training.
    """
    check_linen("model", model)
    _check_fields("model", model)
    for method in ("encode", "decode"):
        if not callable(getattr(model, method, None)):
            raise InputError(f"model {type(model).__name__} has no method {method}; add it, or use `VAE`")
    draw = from_posterior(jax.random.key(0), batch["x"].shape[0])  # variables do not depend on the values of layers

    def walk(module: Any, batch: Batch) -> Any:
        return module.decode(draw, module.encode(batch), batch)

    with refuse_flax_errors():
        variables = dict(jax.jit(functools.partial(model.init, method=walk))(key, batch))
        if len(variables) > 1:  # an evaluation must not change statistics: found here, before the training
            evaluate = functools.partial(model.apply, method=walk, rngs={"params": key})
            jax.eval_shape(evaluate, variables, batch)
    return variables


def _check_fields(name: str, module: nn.Module) -> None:
    """Raise InputError if a field of a module contains a module of another kind than Linen."""
    for field in dataclasses.fields(module):
        if field.name not in ("parent", "name"):
            _check_field(f"{name}.{field.name}", getattr(module, field.name, None))


def _check_field(name: str, value: Any) -> None:
    """Raise InputError if a value, or a value inside of it, is a module of another kind than Linen."""
    nnx = sys.modules.get("flax.nnx")  # imported by those who have such a module
    if nnx is not None and isinstance(value, nnx.Module):
        check_linen(name, value)
    elif isinstance(value, nn.Module):
        _check_fields(name, value)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            _check_field(f"{name}[{key!r}]", item)
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            _check_field(f"{name}[{i}]", item)
