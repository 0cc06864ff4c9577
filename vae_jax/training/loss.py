"""The loss of a run: preprocessing, posterior samples and the objective as one function."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vae_jax import random
from vae_jax.distributions import Batch, Variables, label_mask
from vae_jax.errors import InputError
from vae_jax.inference import (
    Estimator,
    Metrics,
    Objective,
    Pair,
    Params,
    Statistics,
    batch_size,
    loss_and_statistics,
    pathwise,
)

Preprocess = Callable[[Array, Batch], Batch]  # (keys [B], stored examples) -> inputs of the model

# (params, statistics, keys [B], stored examples, step) -> (loss, (metrics, new statistics))
Loss = Callable[[Params, Statistics, Array, Batch, Array], tuple[Array, tuple[Metrics, Statistics]]]


def unprocessed(key: Array, batch: Batch) -> Batch:
    """Return a batch unchanged: the preprocessing of examples that are stored as the model reads them."""
    del key
    return batch


def hide_labels(key: Array, batch: Batch, probability: float) -> Batch:
    """Return a batch in which the condition of each example is hidden with a probability: its mask is False.

    Args:
      key: a typed key, or keys [B] of the examples.
      batch: {"x": [B, ...]} with labels "y" [B] or conditions "c" [B, C], and their mask, bool [B], if there is one.
      probability: at least 0 and less than 1.

    Returns:
      The batch with the mask, bool [B].

    Raises:
      InputError: the batch has no labels or conditions, or a mask of the numbers of x.
    """
    known = label_mask(batch)
    has_conditions = "y" in batch or "c" in batch
    if not has_conditions or (known is None and "mask" in batch):
        missing = "a mask of the numbers of x" if has_conditions else "no labels y"
        raise InputError(f"train.label_dropout={probability} must be 0 for examples with {missing}")
    size = batch_size(batch)
    shown = random.bits(random.example_keys(key, size), (size,)) >= np.uint32(probability * 2**32)
    return {**batch, "mask": shown if known is None else jnp.logical_and(known, shown)}


def make_loss(
    model: Any,
    objective_at: Callable[[Array], Objective | Pair],
    *,
    num_samples: int = 1,
    estimator: Estimator = pathwise,
    preprocess: Preprocess = unprocessed,
    label_dropout: float = 0.0,
) -> Loss:
    """Return the loss of a run, loss(params, statistics, keys, batch, step) -> (loss, (metrics, statistics)).

    The batch contains stored examples, {"x": [B, ...], ...}. The key is one, or a key for each example, [B]; folded
    with 0 it is that of the preprocessing, with 1 that of the posterior's samples, with 2 that of the hidden labels.
    The statistics are the variables of the model without a gradient, {} if there are none.

    Args:
      model: a `VAE`, or any Linen module with its methods `encode` and `decode`.
      objective_at: step [] -> a function of `Terms` that returns a bound for each example, or a `Pair`; for example
        `lambda step: elbo`.
      num_samples: K, the posterior samples of each example.
      estimator: the rule for the gradient, such as `pathwise`.
      preprocess: (keys [B], stored examples) -> inputs of the model.
      label_dropout: the probability that the label of an example is hidden, see `hide_labels`.

    Returns:
      A pure function that returns `loss_and_statistics`.
    """

    def loss(
        params: Params, statistics: Statistics, key: Array, batch: Batch, step: Array
    ) -> tuple[Array, tuple[Metrics, Statistics]]:
        keys = random.example_keys(key, batch_size(batch))
        with jax.named_scope("preprocess"):
            inputs = preprocess(random.fold_in(keys, 0), batch)
            if label_dropout:
                inputs = hide_labels(random.fold_in(keys, 2), inputs, label_dropout)
        value, metrics, statistics = loss_and_statistics(
            Variables(params, statistics) if statistics else params,
            random.fold_in(keys, 1),
            inputs,
            model=model,
            objective=objective_at(step),
            num_samples=num_samples,
            estimator=estimator,
        )
        return value, (metrics, statistics)

    return loss
