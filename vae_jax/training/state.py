"""The training state: everything that changes from step to step."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from vae_jax import random
from vae_jax.distributions import Batch
from vae_jax.inference import Params, Statistics
from vae_jax.models import init_params


class TrainState(NamedTuple):
    """The state of a run. It contains arrays only, so it can be donated, sharded, vmapped and saved.

    Attributes:
      step: int32 [], the number of updates so far, which is the index of the next step.
      params: pytree of the parameters.
      statistics: {name of a Flax collection: pytree}, the variables of the model without a gradient, such as the
        averages of a normalization; {} if there are none.
      opt_state: state of the optimizer.
      ema_params: exponential moving average of `params`, or () if there is none.
      key: typed key of the run. It never changes; steps fold their index into it.
      skipped: int32 [], the number of consecutive steps that were not finite.
    """

    step: Array
    params: Params
    statistics: Statistics
    opt_state: optax.OptState
    ema_params: Params
    key: Array
    skipped: Array


def init_state(
    key: Array,
    *,
    model: Any,
    batch: Batch,
    optimizer: optax.GradientTransformation,
    ema: bool = False,
    initialize: Callable[[Params], Params] | None = None,
) -> TrainState:
    """Return the state before the first step.

    Args:
      key: typed key of the run; the parameters are drawn from fold_in(key, INIT_STREAM).
      model: a `VAE`, or any Linen module with its methods `encode` and `decode`.
      batch: inputs of the model for one example, {"x": [1, ...], ...}; the values can be zeros.
      optimizer: initializes its state from the parameters.
      ema: whether the state contains a moving average of the parameters.
      initialize: parameters -> changed parameters, for example a `with_output_bias`; None keeps those of the model.

    Returns:
      The state of step 0.
    """
    variables = dict(init_params(model, jax.random.fold_in(key, random.INIT_STREAM), batch))
    params = variables.pop("params")
    if initialize is not None:
        params = initialize(params)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        statistics=variables,
        opt_state=optimizer.init(params),
        ema_params=jax.tree.map(jnp.copy, params) if ema else (),  # a separate buffer, because both are donated
        key=key,
        skipped=jnp.zeros((), jnp.int32),
    )
