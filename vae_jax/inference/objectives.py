"""The settings of objectives: the base class of the choices that each objective declares next to its function."""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from jax import Array

from vae_jax.config import Choice, setting
from vae_jax.inference.terms import Objective, Pair


@dataclasses.dataclass(frozen=True)
class ObjectiveConfig(Choice):
    """Settings of an objective, and what the rest of a run must know of it.

    Attributes:
      num_samples: K, the posterior samples of each example.
      estimators: the names of the gradient estimators that the objective supports.
      compares_examples: whether the value or the gradient of an example depends on the codes of other examples of the
        batch, so that a batch cannot be divided.
      needs_single_layer: whether the model must have a single stochastic layer.
      needs_density: whether the posterior must have a density.
      needs_normal_prior: whether the prior must be a normal distribution.
      needs_independent_latents: whether the dimensions of the posterior must be independent.
      is_pair: whether `at` returns a `Pair`.
      validation_metric: the metric of `Evaluator.bound` that validation maximizes.
    """

    estimators: ClassVar[tuple[str, ...]] = ("pathwise",)
    compares_examples: ClassVar[bool] = False
    needs_single_layer: ClassVar[bool] = False
    needs_density: ClassVar[bool] = True
    needs_normal_prior: ClassVar[bool] = False
    needs_independent_latents: ClassVar[bool] = False
    is_pair: ClassVar[bool] = False
    validation_metric: ClassVar[str] = "elbo"

    num_samples: int = setting(1, "Number K of posterior samples for each example.", above=0)

    def at(self, step: Array, num_examples: int) -> Objective | Pair:
        """Return the objective with its settings at a step.

        Args:
          step: [], the index of the step.
          num_examples: the number of training examples.

        Returns:
          A function of `Terms`, or a `Pair` of such functions.
        """
        raise NotImplementedError(f"{type(self).__name__} has no method `at`; return a function of `Terms`")


@dataclasses.dataclass(frozen=True)
class WeightedConfig(ObjectiveConfig):
    """Settings of an objective with a weight beta that increases during a warm-up."""

    beta: float = setting(1.0, "Weight of the KL.", minimum=0, batchable=True)
    warmup_steps: int = setting(
        0,
        "Number of steps over which beta increases linearly: in each of them it is multiplied by (step + 1) / "
        "warmup_steps.",
        minimum=0,
    )

    def weight(self, step: Array) -> float | Array:
        """Return beta at a step, [] int32."""
        return self.beta * warm_up(step, self.warmup_steps)


def warm_up(step: Array, warmup_steps: int) -> float | Array:
    """Return min(1, (step + 1) / warmup_steps), the factor of a weight during a warm-up; 1 without a warm-up."""
    return jnp.minimum(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
