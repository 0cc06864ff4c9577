"""The bound of a model whose label is unknown for some examples: an exact sum over the classes.

Such a model has the attributes `num_classes` C and `classifier_weight` α, and the method
`classify(batch, values) -> q(y|x)`, a `Categorical` of C classes. Its walk is that of a model given labels, p(x|y) with
the label `batch["y"]`; p(y) is uniform.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from vae_jax.distributions import Batch, label_mask
from vae_jax.errors import InputError


class Bounds(NamedTuple):
    """Numbers of each example, in nats. Those given each of C classes have a leading axis [C].

    Attributes:
      bound: [B], the value of the objective.
      parts: {name: [B]}, see `bound_parts`.
      penalty: [B], the terms that are no probabilities; None if there are none.
    """

    bound: Array
    parts: dict[str, Array]
    penalty: Array | None


def known_labels(batch: Batch, size: int) -> Array:
    """Return which labels are known, bool [B]: those of the mask [B]; without one all, and without y none."""
    mask = label_mask(batch)
    return jnp.full(size, "y" in batch) if mask is None or "y" not in batch else mask


def require_labels(batch: Batch, model: Any) -> None:
    """Raise InputError if a model of this module would estimate a likelihood of examples without labels.

    Its walk is that of p(x|y). Without y it reads q(y|x) in place of a label, which is no density of x.
    """
    if hasattr(model, "classify") and "y" not in batch:
        raise InputError(
            "the batch has no labels y, and the likelihood of this model is p(x|y); pass labels, and for log p(x) the "
            "logarithm of the sum over the classes"
        )


def label_weights(log_q: Array, batch: Batch) -> tuple[Array, Array]:
    """Return the probability of each class given what is known of an example, and its divergence from p(y) = 1/C.

    A known label y has the probabilities 1[c = y] and the divergence log C. An unknown one has q(c|x) and
    KL(q(y|x) || p(y)) = Σ_c q(c|x) log(C q(c|x)).

    Args:
      log_q: log q(y|x), [B, C] in nats.
      batch: {"y": int32 [B], "mask": bool [B]}, see `known_labels`.

    Returns:
      Probabilities [C, B], which are NaN for a known label that is no class, and nats [B].

    Raises:
      InputError: labels have another shape, or are no integers.
    """
    size, classes = log_q.shape
    q, known = jnp.exp(log_q), known_labels(batch, size)
    unknown_kl = jnp.sum(q * log_q, axis=1) + math.log(classes)
    y = batch["y"] if "y" in batch else jnp.zeros(size, jnp.int32)
    if y.shape != (size,) or not jnp.issubdtype(y.dtype, jnp.integer):
        raise InputError(f"labels y have shape {list(y.shape)} and dtype {y.dtype}; pass integers [{size}]")
    is_class = jnp.logical_and(y >= 0, y < classes)
    given = jnp.where(is_class[:, None], jax.nn.one_hot(y, classes, dtype=q.dtype), jnp.nan)
    return jnp.where(known[:, None], given, q).T, jnp.where(known, math.log(classes), unknown_kl)


def sum_over_labels(given_class: Bounds, log_q: Array, batch: Batch, *, classifier_weight: float) -> Bounds:
    """Return the bounds of examples of which some have a label (Kingma et al., arXiv 1406.5298, eqs. 6 to 9).

    Known label y:  L(x, y) + log p(y), and the loss -α log q(y|x) of the classifier.
    Unknown label:  Σ_c q(c|x) (L(x, c) + log p(c) - log q(c|x)), a bound on log p(x).

    Args:
      given_class: numbers given each class, [C, B]; its bound is L(x, c), a bound on log p(x|c).
      log_q: log q(y|x), [B, C] in nats.
      batch: {"y": int32 [B], "mask": bool [B]}, see `known_labels`.
      classifier_weight: α.

    Returns:
      Numbers [B]. The parts are the means over the classes; `label_kl`, which is KL(q(y|x) || p(y)), or -log p(y) of a
      known label; and `classifier_loss`, which is 0 where the label is unknown.
    """
    weights, label_kl = label_weights(log_q, batch)  # [C, B], [B]
    bound, parts, penalty = jax.tree.map(lambda values: jnp.sum(weights * values, axis=0), given_class)
    cross_entropy = -jnp.sum(weights * log_q.T, axis=0)
    classifier_loss = classifier_weight * jnp.where(known_labels(batch, log_q.shape[0]), cross_entropy, 0)
    return Bounds(bound - label_kl, parts | {"label_kl": label_kl, "classifier_loss": classifier_loss}, penalty)


def with_label(batch: Batch, label: Array) -> Batch:
    """Return a batch in which all examples have one label, whatever label they had.

    Args:
      batch: {"x": [B, ...], ...}.
      label: int32 [].
    """
    rest = {name: array for name, array in batch.items() if name != "mask" or array.ndim > 1}
    return {**rest, "y": jnp.full(batch["x"].shape[0], label)}
