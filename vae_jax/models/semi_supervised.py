"""A VAE of examples of which few have a label: the model M2 of Kingma et al., arXiv 1406.5298."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from vae_jax.config import Config, register, require, setting
from vae_jax.distributions import Batch, Categorical, Shape
from vae_jax.models.conditional import ConditionalConfig, ConditionalVAE


class SemiSupervisedVAE(ConditionalVAE, kw_only=True):
    """A VAE of p(x) = Σ_y p(y) p(x|y) with the classifier q(y|x), and p(x|y) of a `ConditionalVAE`; p(y) is uniform.

    In training an unknown label is summed out, see `vae_jax.inference.sum_over_labels`. Elsewhere an example without a
    label has the mean of the embeddings under q(y|x), or under p(y) in a batch without x.

    Attributes:
      classifier: any Linen module that maps x [B, *shape] to features [B, F'], from which log q(y|x) is linear.
      classifier_weight: α, the weight of log q(y|x) of the examples with a label.
    """

    classifier: nn.Module
    classifier_weight: float

    def create_no_label(self) -> None:
        """Create the last layer of the classifier."""
        self.class_logits = nn.Dense(self.num_classes)

    def no_label(self, batch: Batch) -> Array:
        """Return the mean embedding under q(y|x), [B, E], or under p(y), [E]."""
        if "x" not in batch:
            return jnp.mean(self.class_embeddings, axis=0)
        return self.classify(batch, {}).mean() @ self.class_embeddings

    def classify(self, batch: Batch, values: Mapping[str, Array]) -> Categorical:
        """Return q(y|x) of one-hot vectors [B, C].

        Args:
          batch: {"x": floats [B, *shape]}; labels are not read.
          values: not used.
        """
        del values
        x = batch["x"]
        return Categorical(self.class_logits(self.classifier(x)).astype(x.dtype), event_ndims=1)

    def encode(self, batch: Batch) -> Any:
        """Return q(z|x, y): see `VAE.encode`."""
        if self.is_initializing():
            self.classify(batch, {})  # creates its parameters
        return super().encode(batch)


@register("model", "m2")
@dataclasses.dataclass(frozen=True)
class SemiSupervisedConfig(ConditionalConfig):
    """A VAE of examples of which few have a label, with a classifier: M2."""

    condition_prior: bool = setting(
        False, "The prior p(z|c) depends on the condition: a normal distribution that starts at N(0, I)."
    )
    classifier_weight: float = setting(
        50.0,
        "Weight of log q(y|x) of the examples with a label; that of their bound is 1.",
        minimum=0,
    )

    def check(self, config: Config) -> None:
        """Raise InputError as `ConditionalConfig`, or if the objective compares codes whose labels are summed out."""
        super().check(config)
        require(not config.objective.compares_examples, "objective", config.objective.name,
                f"another objective with model={self.name}: it compares the codes of a batch, whose labels are known, "
                "and here each example is encoded given each label")  # fmt: skip

    def build(self, config: Config, shape: Shape, *, training: bool) -> SemiSupervisedVAE:
        """Return the `SemiSupervisedVAE`, whose classifier is a second encoder."""
        classifier, _ = config.network.build(shape, config.likelihood.num_features(shape[-1]), training=training)
        fields = self.fields(config, shape, training=training)
        return SemiSupervisedVAE(
            **fields,
            num_classes=self.num_classes,
            classifier=classifier,
            classifier_weight=self.classifier_weight,
        )
