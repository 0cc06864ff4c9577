"""Models of every network with their initial parameters, and random images."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jitted import init

from vae_jax.config.schema import ModelConfig
from vae_jax.models.build import build_model

BASE = ModelConfig(hidden=(8, 6), latent_dim=3, activation="gelu")
NETWORKS = ["mlp", "conv", "residual"]


@functools.cache
def built(network, shape, **changes):
    """Return (model, params) for images of a shape [H, W, C]."""
    model = build_model(dataclasses.replace(BASE, network=network, **dict(changes)), shape)
    return model, init(model, jax.random.key(0), jnp.zeros((1, *shape)))["params"]


def random_images(shape, count=2):
    return jax.random.uniform(jax.random.key(1), (count, *shape))
