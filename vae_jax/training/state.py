"""training.state."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from vae_jax import random
from vae_jax.inference import Params
from vae_jax.models import VAE, with_output_bias


class TrainState(NamedTuple):
    """Everything that a run carries from step to step: arrays only, so it can be donated, sharded, vmapped, saved."""

    step: Array  # int32 []: updates done, and the number of the next
    params: Params
    opt_state: optax.OptState
    ema_params: Params  # the moving average of the weights; () where none is kept
    key: Array  # the run's typed key: never advanced, only folded
    skipped: Array  # int32 []: steps in a row that were not finite


def init_state(
    key: Array,
    *,
    model: VAE,
    optimizer: optax.GradientTransformation,
    ema: bool = False,
    mean_image: Array | None = None,
) -> TrainState:
    """The state before the first step: parameters drawn from `key`, moments at zero.

    With a `mean_image` [H, W, C] the output's bias starts at it (`with_output_bias`). Of the model `image_shape` is
    read, and then `likelihood`.
    """
    blank = jnp.zeros((1, *model.image_shape), jnp.float32)
    params = model.init(jax.random.fold_in(key, random.INIT_STREAM), blank)["params"]
    if mean_image is not None:
        params = with_output_bias(params, mean_image, likelihood=model.likelihood)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(params),
        ema_params=jax.tree.map(jnp.copy, params) if ema else (),  # a buffer of its own: both are donated
        key=key,
        skipped=jnp.zeros((), jnp.int32),
    )
