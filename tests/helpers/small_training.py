"""A small model with optimizer and loss, and programs that train it on the `data` of tests/training/conftest.py."""

import functools

import chex
import jax
import jax.numpy as jnp

from vae_jax.config import Config, apply_overrides
from vae_jax.data.preprocess import DynamicBinarizationConfig
from vae_jax.inference import elbo
from vae_jax.models.build import build_model
from vae_jax.training.loss import make_loss
from vae_jax.training.many_steps import train_steps
from vae_jax.training.optimizers import make_optimizer
from vae_jax.training.state import init_state
from vae_jax.training.step import make_train_step

SHAPE = (6, 6, 1)
BATCH, STEPS = 16, 12
CONFIG = apply_overrides(
    Config(),
    {
        "network.hidden": (16,),
        "model.latent_dim": 4,
        "optimizer.learning_rate": 1e-2,
        "schedule": "constant",
        "train.steps": STEPS,
    },
)
MODEL = build_model(CONFIG, SHAPE)
OPTIMIZER = make_optimizer(CONFIG)
LOSS = make_loss(MODEL, lambda step: elbo, preprocess=DynamicBinarizationConfig())
INPUTS = {"x": jnp.zeros((1, *SHAPE))}


@functools.partial(jax.jit, static_argnames=("model", "optimizer", "ema", "initialize"))
def initial_state(seed=0, *, model=MODEL, batch=INPUTS, optimizer=OPTIMIZER, **settings):
    return init_state(jax.random.key(seed), model=model, batch=batch, optimizer=optimizer, **settings)


@functools.cache
def program(step=None, max_steps=STEPS, **settings):
    """Return the jitted `train_steps` of a step, by default that of `LOSS` and `OPTIMIZER`."""
    step = step or make_train_step(LOSS, OPTIMIZER)
    return jax.jit(functools.partial(train_steps, step=step, batch_size=BATCH, max_steps=max_steps, **settings))


def rows(batch, index):
    """Return some examples of a batch."""
    return {name: array[index] for name, array in batch.items()}


def divided(batch, microbatches):
    """Return a batch of arrays [M, B/M, ...]."""
    return {name: array.reshape(microbatches, -1, *array.shape[1:]) for name, array in batch.items()}


def assert_states_equal(a, b):
    """Raise AssertionError unless two states have the same bits, keys included."""
    raw = lambda t: jax.tree.map(  # noqa: E731
        lambda leaf: jax.random.key_data(leaf) if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf, t
    )
    chex.assert_trees_all_equal(raw(a), raw(b))
