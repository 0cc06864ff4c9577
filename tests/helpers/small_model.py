"""A small model of binary images, away from its initial parameters."""

import jax
import jax.numpy as jnp
from jitted import init

from vae_jax.config import Config, replace_settings
from vae_jax.models.build import build_model


def small_model(**changes):
    """Return (model, params) for images [4, 4, 1]; arguments as for `override`, for example network__tied=True."""
    given = {"network__hidden": (8,), "model__latent_dim": 3} | changes
    config = replace_settings(Config(), {path.replace("__", "."): value for path, value in given.items()})
    model = build_model(config, (4, 4, 1))
    params = init(model, jax.random.key(0), jnp.zeros((1, 4, 4, 1)))["params"]
    return model, _moved(params)


@jax.jit
def _moved(params):
    """Move parameters from the initial point, where the log variance of the posterior is zero everywhere."""
    return jax.tree.map(lambda p: p + 0.1 * jax.random.normal(jax.random.key(p.size), p.shape), params)


def binary_images(count=5, seed=0):
    return jax.random.bernoulli(jax.random.key(seed), 0.4, (count, 4, 4, 1)).astype(jnp.float32)
