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

Loss = Callable[[Params, Array, Array, Array], tuple[Array, Metrics]]


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

    The images are uint8 [B, H, W, C]. The key is one, or a key for each example, [B]; folded with 0 it is that of the
    binarization, with 1 that of the posterior's samples.

    Args:
      model: a `VAE`, or any Linen module with its methods `encode` and `decode`.
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

    def loss(params: Params, key: Array, images: Array, step: Array) -> tuple[Array, Metrics]:
        keys = random.example_keys(key, images.shape[0])
        with jax.named_scope("read_images"):
            x = read_images(random.fold_in(keys, 0), images, binarization=data.binarization)
        return negative_bound(
            params,
            random.fold_in(keys, 1),
            {"x": x},
            model=model,
            objective=objective_at(objective, step, num_examples),
            num_samples=objective.num_samples,
            estimator=ESTIMATORS[objective.estimator],
        )

    return loss
