"""The training state: everything that changes from step to step."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from vae_jax import random
from vae_jax.inference import Params
from vae_jax.models import VAE, with_output_bias


class TrainState(NamedTuple):
    """The state of a run. It contains arrays only, so it can be donated, sharded, vmapped and saved.

    Attributes:
      step: int32 [], the number of updates so far, which is the index of the next step.
      params: pytree of the parameters.
      opt_state: state of the optimizer.
      ema_params: exponential moving average of `params`, or () if there is none.
      key: typed key of the run. It never changes; steps fold their index into it.
      skipped: int32 [], the number of consecutive steps that were not finite.
    """

    step: Array
    params: Params
    opt_state: optax.OptState
    ema_params: Params
    key: Array
    skipped: Array


def init_state(
    key: Array,
    *,
    model: VAE,
    optimizer: optax.GradientTransformation,
    ema: bool = False,
    mean_image: Array | None = None,
) -> TrainState:
    """Return the state before the first step.

    Args:
      key: typed key of the run; the parameters are drawn from fold_in(key, INIT_STREAM).
      model: a `VAE`, or any Linen module with an `image_shape`, and with a `likelihood` if there is a `mean_image`.
      optimizer: initializes its state from the parameters.
      ema: whether the state contains a moving average of the parameters.
      mean_image: [H, W, C], the initial output bias (see `with_output_bias`); None for the bias of the model.

    Returns:
      The state of step 0.
    """
    blank = jnp.zeros((1, *model.image_shape), jnp.float32)
    params = model.init(jax.random.fold_in(key, random.INIT_STREAM), {"x": blank})["params"]
    if mean_image is not None:
        params = with_output_bias(params, mean_image, likelihood=model.likelihood)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(params),
        ema_params=jax.tree.map(jnp.copy, params) if ema else (),  # a separate buffer, because both are donated
        key=key,
        skipped=jnp.zeros((), jnp.int32),
    )
