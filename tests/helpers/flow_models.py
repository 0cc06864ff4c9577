"""VAEs with learned priors and flow posteriors, with parameters away from the initial ones."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jitted import init

from vae_jax.config import Config, override
from vae_jax.models.build import build_model

SHAPE, B, D = (4, 4, 1), 8, 2
PAIRS = {  # prior -> posterior: every choice is in one model
    "mixture": "planar",
    "vamp": "gaussian",
    "coupling": "iaf",
    "spline": "coupling",
    "autoregressive": "gaussian",
}
SETTINGS = {
    "prior": {
        "mixture": {"components": 5}, "vamp": {"components": 40},
        "coupling": {"layers": 2, "hidden": (6,), "actnorm": True},
        "spline": {"layers": 2, "hidden": (6,), "bins": 4, "actnorm": True},
        "autoregressive": {"layers": 2, "hidden": (6,)},
    },
    "posterior": {
        "planar": {"layers": 2}, "iaf": {"layers": 2, "hidden": (6,), "actnorm": True},
        "coupling": {"layers": 2, "hidden": (6,)},
    },
}  # fmt: skip


def pair_config(prior, posterior, **changes):
    """Return a validated config of a small model; arguments as for `override`."""
    chosen = {"prior": prior, "posterior": posterior, "network__hidden": (8,), "model__latent_dim": D}
    for section, name in (("prior", prior), ("posterior", posterior)):
        chosen |= {f"{section}__{field}": value for field, value in SETTINGS[section].get(name, {}).items()}
    return override(Config(), **chosen | changes)


@functools.cache
def pair_model(prior, posterior, **changes):
    """Return (model, initial parameters, the same with noise) of a prior and a posterior for images of `SHAPE`."""
    model = build_model(pair_config(prior, posterior, **changes), SHAPE)
    first = init(model, jax.random.key(0), jnp.zeros((1, *SHAPE)))["params"]
    leaves, tree = jax.tree.flatten(first)
    rng = np.random.default_rng(0)
    moved = [leaf + 0.3 * rng.normal(size=leaf.shape).astype(np.float32) for leaf in leaves]
    return model, first, jax.tree.unflatten(tree, moved)


def binary_batch(count=B):
    """Return a batch of random binary images."""
    return {"x": jnp.asarray(np.random.default_rng(0).integers(0, 2, (count, *SHAPE)), jnp.float32)}
