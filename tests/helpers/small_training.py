"""A small model with optimizer and loss, and programs that train it on the `images` of tests/training/conftest.py."""

import functools

import chex
import jax

from vae_jax.config.schema import DataConfig, ModelConfig, ObjectiveConfig, OptimizerConfig
from vae_jax.models.build import build_model
from vae_jax.training.loss import make_loss
from vae_jax.training.many_steps import train_steps
from vae_jax.training.optimizers import make_optimizer
from vae_jax.training.state import init_state
from vae_jax.training.step import make_train_step

SHAPE = (6, 6, 1)
BATCH, STEPS = 16, 12
MODEL = build_model(ModelConfig(hidden=(16,), latent_dim=4), SHAPE)
OPTIMIZER = make_optimizer(OptimizerConfig(learning_rate=1e-2, schedule="constant"), STEPS)
LOSS = make_loss(MODEL, ObjectiveConfig(), DataConfig())


def initial_state(seed=0, **settings):
    return init_state(jax.random.key(seed), model=MODEL, optimizer=OPTIMIZER, **settings)


def program(step=None, max_steps=STEPS):
    """Return the jitted `train_steps` of a step, by default that of `LOSS` and `OPTIMIZER`."""
    step = step or make_train_step(LOSS, OPTIMIZER)
    return jax.jit(functools.partial(train_steps, step=step, batch_size=BATCH, max_steps=max_steps))


def assert_states_equal(a, b):
    """Raise AssertionError unless two states have the same bits, keys included."""
    raw = lambda t: jax.tree.map(  # noqa: E731
        lambda leaf: jax.random.key_data(leaf) if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf, t
    )
    chex.assert_trees_all_equal(raw(a), raw(b))
