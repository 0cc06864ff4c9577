"""The loss of a run: preprocessing, posterior samples and the configured objective as one function."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from vae_jax import random
from vae_jax.config import OBJECTIVE_SETTINGS, DataConfig, ObjectiveConfig, check_choices
from vae_jax.data import read_images
from vae_jax.inference import ESTIMATORS, OBJECTIVES, Metrics, Objective, Params, bind, negative_bound

Loss = Callable[[Params, random.Key, Array, Array], tuple[Array, Metrics]]


def objective_at(config: ObjectiveConfig, step: Array, num_examples: int | None = None) -> Objective:
    """Return the configured objective with its settings at a step.

    During the warm-up the weight beta, or for `capacity` the capacity, rises linearly.

    Args:
      config: name and settings of the objective.
      step: [], the index of the step.
      num_examples: the number of training images, which `beta-tc` needs.

    Returns:
      A function of `Terms`.

    Raises:
      ValueError: the objective is `beta-tc` and `num_examples` is None.
    """
    settings = {name: getattr(config, name) for name in OBJECTIVE_SETTINGS[config.name]}
    rising = "capacity" if config.name == "capacity" else "beta"
    if rising in settings:
        settings[rising] *= jnp.minimum(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    if config.name == "beta-tc":
        if num_examples is None:
            raise ValueError("objective.name=beta-tc needs num_examples; pass the number of training images")
        settings["num_examples"] = num_examples
    return bind(OBJECTIVES[config.name], **settings)


def make_loss(model: Any, objective: ObjectiveConfig, data: DataConfig, num_examples: int | None = None) -> Loss:
    """Return the loss of a run, loss(params, key, images, step) -> (loss, metrics).

    The images are uint8 [B, H, W, C]. The key is split once: for the binarization, and for the posterior's noise.

    Args:
      model: a `VAE`, or any Linen module with its methods `encode`, `prior` and `decode`.
      objective: objective, estimator and number of samples.
      data: binarization.
      num_examples: the number of training images, see `objective_at`.

    Returns:
      A pure function that returns `negative_bound`.

    Raises:
      InputError: an unknown name of an objective, an estimator or a binarization.
    """
    check_choices("objective", name=objective.name, estimator=objective.estimator)
    check_choices("data", binarization=data.binarization)

    def loss(params: Params, key: random.Key, images: Array, step: Array) -> tuple[Array, Metrics]:
        read_key, noise_key = random.split(key)
        with jax.named_scope("read_images"):
            x = read_images(read_key, images, binarization=data.binarization)
        return negative_bound(
            params,
            noise_key,
            x,
            model=model,
            objective=objective_at(objective, step, num_examples),
            num_samples=objective.num_samples,
            estimator=ESTIMATORS[objective.estimator],
        )

    return loss
