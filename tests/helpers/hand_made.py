"""An experiment that is made by hand: a Linen module with `encode` and `decode`, an objective, and labelled arrays."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from vae_jax.config import TrainConfig
from vae_jax.data import from_arrays
from vae_jax.distributions import Normal, standard_normal
from vae_jax.runs import Experiment

NUM_EXAMPLES, SIZE, LATENT, CLASSES = 60, 6, 2, 3


def arrays(seed=0):
    """Return float32 x [60, 6], three clusters, and int labels y [60]."""
    rng = np.random.default_rng(seed)
    y = np.arange(NUM_EXAMPLES) % CLASSES
    centers = 2 * np.eye(CLASSES, SIZE)[y]
    return (centers + 0.3 * rng.normal(size=(NUM_EXAMPLES, SIZE))).astype(np.float32), y


def source(seed=0, **settings):
    x, y = arrays(seed)
    return from_arrays(x, y, **settings)


class Conditional(nn.Module):
    """A model of vectors x given their label y; it has no `__call__`, no config and no shape."""

    width: int = 8

    def setup(self):
        self.hidden, self.code, self.output = nn.Dense(self.width), nn.Dense(2 * LATENT), nn.Dense(SIZE)

    def encode(self, batch):
        labels = jax.nn.one_hot(batch["y"], CLASSES)
        h = jnp.tanh(self.hidden(jnp.concatenate([batch["x"], labels], axis=-1)))
        return Normal(*jnp.split(self.code(h), 2, axis=-1))

    def decode(self, draw, evidence=None, batch=None):
        latent = draw("z", standard_normal((LATENT,)), None if evidence is None else lambda: evidence)
        labels = jnp.broadcast_to(jax.nn.one_hot(batch["y"], CLASSES), (*latent.z.shape[:-1], CLASSES))
        loc = self.output(jnp.concatenate([latent.z, labels], axis=-1))
        return Normal(loc, jnp.zeros_like(loc), event_ndims=1), (latent,)


def half_kl(terms):
    """Return E log p(x|z) - KL/2, [B]: an objective of a user."""
    return jnp.mean(terms.log_px_z, axis=0) - 0.5 * jnp.sum(terms.kl, axis=0)


TRAINING = TrainConfig(steps=20, batch_size=16, log_every=5, evaluate_every=10, save_every=10)


def hand_made(seed=0, learning_rate=1e-2, *, training=TRAINING, data=None, **parts):
    """Return the experiment; `parts` replace fields of `Experiment`."""
    given = {
        "model": Conditional(), "source": source() if data is None else data, "objective": half_kl,
        "optimizer": optax.adam(learning_rate), "num_samples": 2, "training": training, "seed": seed,
        "settings": {"learning_rate": learning_rate},
    }  # fmt: skip
    return Experiment(**given | parts)
