"""Models of every network with their initial parameters, and random data."""

import functools

import jax
import jax.numpy as jnp
from jitted import init

from vae_jax.config import Config, replace_settings
from vae_jax.models.build import build_model

BASE = {"network__hidden": (8, 6), "model__latent_dim": 3, "network__activation": "gelu"}
NETWORKS = ["mlp", "conv", "residual"]


def model_config(**changes):
    """Return a config of a small model that is not validated; arguments as for `override`."""
    given = BASE | changes
    return replace_settings(Config(), {path.replace("__", "."): value for path, value in given.items()})


@functools.cache
def built(network, shape, **changes):
    """Return (model, params) for examples of a shape."""
    model = build_model(model_config(network=network, **changes), shape)
    return model, init(model, jax.random.key(0), jnp.zeros((1, *shape)))["params"]


def random_images(shape, count=2):
    return jax.random.uniform(jax.random.key(1), (count, *shape))
