"""A semi-supervised VAE with an auxiliary variable: the SDGM of Maaløe et al., arXiv 1602.05473."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from vae_jax.config import Config, any_of, choices, register, require, setting
from vae_jax.distributions import Batch, Categorical, Distribution, Draw, Latent, Shape
from vae_jax.errors import InputError
from vae_jax.models.choices import ModelConfig, require_layers_allowed
from vae_jax.models.priors import StandardNormalConfig
from vae_jax.models.semi_supervised import SemiSupervisedVAE
from vae_jax.models.vae import checked_examples


class AuxiliaryEvidence(NamedTuple):
    """What the posterior reads of the data.

    Attributes:
      q_a: q(a|x) over auxiliary variables [B, A].
      features: of the encoder, [B, F'].
    """

    q_a: Distribution
    features: Array


class AuxiliaryVAE(SemiSupervisedVAE, kw_only=True):
    """p(x, a, z, y) = p(y) p(z) p(a|z, y) p(x|a, z, y) with the posterior q(a|x) q(y|a, x) q(z|a, x, y).

    The auxiliary variable a makes the posterior of z and the classifier more flexible. `posterior` is that of a, and
    the decoder reads [z, a, e(y)]; p(z) reads no label. The sum over an unknown label has the same sample of a for each
    class.

    Attributes:
      code_posterior: any Linen module from features [..., F' + A + E] to q(z|a, x, y).
      auxiliary_prior: any Linen module from [z, e(y)], [..., D + E], to p(a|z, y).
      classifier_hidden: any Linen module from a and the features of `classifier`, [..., A + F''], to the features from
        which log q(y|a, x) is linear.
    """

    code_posterior: nn.Module
    auxiliary_prior: nn.Module
    classifier_hidden: nn.Module
    condition_prior: bool = False

    def setup(self) -> None:
        """Check the parts, and create the parameters that belong to none of them."""
        fixed = {"condition_encoder": True, "condition_prior": False, "condition_decoder": True, "film": False}
        for name, value in fixed.items():
            if getattr(self, name) != value:
                raise InputError(f"{name}={not value} has no effect in an AuxiliaryVAE; remove it")
        super().setup()

    def encode(self, batch: Batch) -> AuxiliaryEvidence:
        """Return q(a|x) and the features: see `VAE.encode`."""
        features = self.encoder_features(batch)
        if self.is_initializing():
            self.classify(batch, {})  # creates its parameters
        return AuxiliaryEvidence(self.posterior(features), features)

    def encoder_features(self, batch: Batch) -> Array:
        """Return the features of the encoder, [B, F']."""
        x = checked_examples(batch["x"], self.shape)
        return self.encoder(x).astype(x.dtype)

    def classify(self, batch: Batch, values: Mapping[str, Array]) -> Categorical:
        """Return q(y|a, x) of one-hot vectors [..., B, C].

        Args:
          batch: {"x": floats [B, *shape]}; labels are not read.
          values: {"a": [..., B, A]}; without it, a is the mean of q(a|x).
        """
        x = batch["x"]
        a = values["a"] if "a" in values else self.posterior(self.encoder_features(batch)).mean()
        h = self.classifier_hidden(_join(a, self.classifier(x).astype(x.dtype)))
        return Categorical(self.class_logits(h).astype(x.dtype), event_ndims=1)

    def decode(self, draw: Draw, evidence: Any = None, batch: Batch | None = None) -> tuple[Any, tuple[Latent, ...]]:
        """Return p(x|a, z, y) and the layers z and a: see `VAE.decode` and `ConditionalVAE.decode`."""
        batch = {} if batch is None else batch
        p_z = self.prior(self._posterior_of)
        if draw.posterior_first:
            a = draw("a", None, None if evidence is None else lambda: evidence.q_a)
            z = draw("z", p_z, None if evidence is None else lambda: self._code_posterior(a.z, evidence, batch))
            a = a.with_prior(self.auxiliary_prior(self._joined(z.z, batch)))
        else:
            z = draw("z", p_z)
            a = draw("a", self.auxiliary_prior(self._joined(z.z, batch)))
        return self._likelihood_of(self._joined(_join(z.z, a.z), batch)), (z, a)

    def _code_posterior(self, a: Array, evidence: AuxiliaryEvidence, batch: Batch) -> Distribution:
        """Return q(z|a, x, y) for auxiliary variables a [..., A]."""
        return self.code_posterior(self._joined(_join(a, evidence.features), batch))


def _join(a: Array, b: Array) -> Array:
    """Return a [..., B, A] and b [B, F] or [..., B, F] side by side, [..., B, A + F]."""
    return jnp.concatenate([a, jnp.broadcast_to(b, (*a.shape[:-1], b.shape[-1]))], axis=-1)


@register("model", "sdgm")
@dataclasses.dataclass(frozen=True)
class AuxiliaryConfig(ModelConfig):
    """A VAE of examples of which few have a label, with an auxiliary variable: a skip deep generative model."""

    supports_tied: ClassVar[bool] = False
    reads_labels: ClassVar[bool] = True

    latent_dim: int = setting(50, "Dimension of the code z.", above=0)
    auxiliary_dim: int = setting(50, "Dimension of the auxiliary variable a.", above=0)
    auxiliary_hidden: tuple[int, ...] = setting(
        (100,), "Hidden widths of the networks of q(z|a, x, y), p(a|z, y) and q(y|a, x).", above=0
    )
    num_classes: int = setting(10, "Number of classes; the labels are 0, 1, ..., num_classes - 1.", minimum=2)
    embedding: int = setting(16, "Dimension of the learned embedding of a label.", above=0)
    classifier_weight: float = setting(
        50.0, "Weight of log q(y|x) of the examples with a label; that of their bound is 1.", minimum=0
    )

    def build(self, config: Config, shape: Shape, *, training: bool) -> AuxiliaryVAE:
        """Return the `AuxiliaryVAE`."""
        network, layer = config.network, config.posterior.build_layer
        features = config.likelihood.num_features(shape[-1])
        encoder, decoder = network.build(shape, features, training=training)
        classifier, _ = network.build(shape, features, training=training)
        hidden, activation = self.auxiliary_hidden, network.activation_function
        layers = [part for width in hidden for part in (nn.Dense(width), activation)]
        return AuxiliaryVAE(
            encoder=encoder,
            decoder=decoder,
            posterior=config.posterior.build(self.auxiliary_dim),
            prior=config.prior.build(self.latent_dim, shape),
            likelihood=config.likelihood,
            shape=shape,
            num_classes=self.num_classes,
            embedding=self.embedding,
            classifier=classifier,
            classifier_weight=self.classifier_weight,
            code_posterior=layer(self.latent_dim, hidden, activation),
            auxiliary_prior=layer(self.auxiliary_dim, hidden, activation),
            classifier_hidden=nn.Sequential(tuple(layers)),
        )

    def check(self, config: Config) -> None:
        """Raise InputError if another choice does not support several layers, or the sum over an unknown label."""
        objective, posterior = config.objective, config.posterior
        usable = [name for name, cls in choices("posterior").items() if getattr(cls, "supports_layers", False)]
        require(posterior.supports_layers, "posterior", posterior.name,
                f"{any_of(usable)} with model={self.name}")  # fmt: skip
        require(isinstance(config.prior, StandardNormalConfig), "prior", config.prior.name,
                f"standard-normal with model={self.name}")  # fmt: skip
        require(objective.num_samples == 1, "objective.num_samples", objective.num_samples,
                f"1 with model={self.name}, whose classifier reads the sample of a")  # fmt: skip
        require(not objective.is_pair, "objective", objective.name,
                f"another objective with model={self.name}: its bound of the decoder has no gradient to the a that the "
                "classifier reads")  # fmt: skip
        require(len(self.auxiliary_hidden) > 0, "model.auxiliary_hidden", "()", "one or more widths, such as (100,)")
        require_layers_allowed(config)
