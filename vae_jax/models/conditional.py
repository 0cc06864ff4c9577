"""VAEs of examples x given a condition: the base of all of them, and the one given labels y."""

import dataclasses
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from vae_jax.config import Config, any_of, choices, register, require, setting
from vae_jax.distributions import Batch, Distribution, Draw, Latent, Normal, Shape, label_mask
from vae_jax.errors import InputError
from vae_jax.models.choices import ModelConfig
from vae_jax.models.priors import StandardNormalConfig
from vae_jax.models.vae import VAE, check_part


class LabelPrior(nn.Module):
    """p(z|y) as a Normal whose mean and log σ are linear in the embedding of y. It is N(0, I) initially.

    Attributes:
      size: the dimension of z.
    """

    size: int

    @nn.compact
    def __call__(self, embedding: Array) -> Normal:
        """Return p(z|y) for embeddings [*batch, E]."""
        zeros = nn.initializers.zeros
        mean, log_scale = (nn.Dense(self.size, kernel_init=zeros, name=name) for name in ("mean", "log_scale"))
        return Normal(mean(embedding), log_scale(embedding))


class BaseConditionalVAE(VAE):
    """The base of VAEs of p(x|c) = ∫ p(x|z, c) p(z|c) dz with the posterior q(z|x, c) (Sohn et al., NeurIPS 2015).

    Each part of the model can depend on an embedding of the condition c, or not; if none does, the model is a `VAE`. A
    subclass creates the embeddings and looks them up.

    Attributes:
      embedding: E, the dimension of the embedding of a condition.
      condition_encoder: whether the posterior reads the features of the encoder and the embedding, [B, F' + E].
      condition_prior: whether `prior` is called with the embedding, such as `LabelPrior`.
      condition_decoder: whether the decoder reads z and the embedding, [..., D + E].
      film: whether encoder and decoder are called with the embedding as a second argument, which modulates their
        layers, instead; see `NetworkConfig.supports_film`.
    """

    embedding: int
    condition_encoder: bool = True
    condition_prior: bool = True
    condition_decoder: bool = True
    film: bool = False

    def setup(self) -> None:
        """Check the parts, and create the parameters that belong to none of them."""
        super().setup()
        if self.film:
            check_part("encoder", self.encoder, "x", "condition")
            check_part("decoder", self.decoder, "z", "condition")
        if self.condition_encoder or self.condition_prior or self.condition_decoder:
            self.create_embeddings()

    def create_embeddings(self) -> None:
        """Create the parameters from which `embedding_of` computes."""
        raise NotImplementedError

    def embedding_of(self, batch: Batch) -> Array:
        """Return the embedding of the condition of each example, [B, E]; [E] if the batch has no conditions."""
        raise NotImplementedError

    def decode(
        self, draw: Draw, evidence: Distribution | None = None, batch: Batch | None = None
    ) -> tuple[Any, tuple[Latent, ...]]:
        """Return p(x|z, c) and the stochastic layers: see `VAE.decode`.

        Args:
          draw: the answer to the question for a layer.
          evidence: the result of `encode`; None if `draw` needs no posterior.
          batch: the conditions, such as labels {"y": int32 [B], "mask": bool [B]}; None, or a batch without them, for
            no conditions.

        Returns:
          A distribution over x [..., *shape], and the layer.
        """
        batch = {} if batch is None else batch
        prior = self.prior(self.embedding_of(batch) if self.condition_prior else self._posterior_of)
        latent = draw("z", prior, None if evidence is None else lambda: evidence)
        if not self.condition_decoder:
            return self._likelihood_of(latent.z), (latent,)
        if self.film:
            return self._likelihood_of(latent.z, self.embedding_of(batch)), (latent,)
        return self._likelihood_of(self._joined(latent.z, batch)), (latent,)

    def _features_of(self, batch: Batch, *context: Array) -> Array:
        """Return the features that the posterior reads, [B, F' + E], or [B, F'] with `film`."""
        if not self.condition_encoder:
            return super()._features_of(batch, *context)
        if self.film:
            return super()._features_of(batch, *context, self.embedding_of(batch))
        return self._joined(super()._features_of(batch, *context), batch)

    def _joined(self, h: Array, batch: Batch) -> Array:
        """Return h [..., F] with the embeddings of the conditions, [..., F + E]."""
        embedding = jnp.broadcast_to(self.embedding_of(batch), (*h.shape[:-1], self.embedding))
        return jnp.concatenate([h, embedding.astype(h.dtype)], axis=-1)


class ConditionalVAE(BaseConditionalVAE, kw_only=True):
    """A VAE of examples given their labels, p(x|y).

    The label of an example is `batch["y"]`. An example whose `batch["mask"]` is False, and a batch without labels, have
    a learned embedding for "no label". A module with the attribute `num_classes` is sampled and exported by class.

    Attributes:
      num_classes: labels are 0, ..., num_classes - 1. The embedding of another label is NaN.
    """

    num_classes: int

    def create_embeddings(self) -> None:
        """Create the embeddings of the classes."""
        shape = (self.num_classes, self.embedding)
        self.class_embeddings = self.param("class_embeddings", nn.initializers.normal(1.0), shape)
        self.create_no_label()

    def create_no_label(self) -> None:
        """Create the parameters for examples without a label."""
        self.no_label_embedding = self.param("no_label_embedding", nn.initializers.normal(1.0), (self.embedding,))

    def no_label(self, batch: Batch) -> Array:
        """Return the embedding of examples without a label, [E] or [B, E]."""
        del batch
        return self.no_label_embedding

    def embedding_of(self, batch: Batch) -> Array:
        """Return the embedding of the label of each example, [B, E]; [E] of "no label" if there are no labels."""
        if "y" not in batch:
            return self.no_label(batch)
        y, known = batch["y"], label_mask(batch)
        if y.ndim != 1 or not jnp.issubdtype(y.dtype, jnp.integer):
            raise InputError(f"labels y have shape {list(y.shape)} and dtype {y.dtype}; pass integers [B]")
        found = self.class_embeddings.at[y].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
        if known is None:
            return found
        return jnp.where(known[:, None], found, jnp.broadcast_to(self.no_label(batch), found.shape))


@dataclasses.dataclass(frozen=True)
class BaseConditionalConfig(ModelConfig):
    """The base of the settings of VAEs given a condition."""

    latent_dim: int = setting(50, "Dimension of the code z.", above=0)
    embedding: int = setting(16, "Dimension of the learned embedding of a condition.", above=0)
    condition_encoder: bool = setting(True, "The posterior q(z|x, c) depends on the condition.")
    condition_prior: bool = setting(
        True, "The prior p(z|c) depends on the condition: a normal distribution that starts at N(0, I)."
    )
    condition_decoder: bool = setting(True, "The decoder p(x|z, c) reads the condition.")
    condition_by: Literal["concatenation", "film"] = setting(
        "concatenation",
        "How encoder and decoder read the condition: concatenation, next to the features of the encoder and next to z; "
        "film, a scale and a shift of the features of each layer.",
    )

    def fields(self, config: Config, shape: Shape, *, training: bool) -> dict[str, Any]:
        """Return the attributes of the `BaseConditionalVAE`; arguments as for `build`."""
        encoder, decoder = config.network.build(shape, config.likelihood.num_features(shape[-1]), training=training)
        prior = LabelPrior(self.latent_dim) if self.condition_prior else config.prior.build(self.latent_dim, shape)
        return {
            "encoder": encoder,
            "decoder": decoder,
            "posterior": config.posterior.build(self.latent_dim),
            "prior": prior,
            "likelihood": config.likelihood,
            "shape": shape,
            "embedding": self.embedding,
            "condition_encoder": self.condition_encoder,
            "condition_prior": self.condition_prior,
            "condition_decoder": self.condition_decoder,
            "film": self.condition_by == "film",
        }

    def check(self, config: Config) -> None:
        """Raise InputError if no part reads the condition, or if another choice needs a p(z) without one."""
        reads = self.condition_encoder or self.condition_prior or self.condition_decoder
        require(reads, "model.condition_decoder", False,
                f"True with model={self.name}, or another condition must; for a model without conditions use "
                "vae")  # fmt: skip
        require(isinstance(config.prior, StandardNormalConfig), "prior", config.prior.name,
                f"standard-normal with model={self.name}, whose p(z|c) is a normal distribution")  # fmt: skip
        if self.condition_by == "film":
            self._check_film(config)
        objective = config.objective
        require(not self.condition_prior or objective.needs_density, "model.condition_prior", True,
                f"False with objective={objective.name}, which does not depend on p(z)")  # fmt: skip
        require(not self.condition_prior or not objective.needs_single_layer, "model.condition_prior", True,
                f"False with objective={objective.name}, which compares q(z) with one p(z) for all "
                "examples")  # fmt: skip

    def _check_film(self, config: Config) -> None:
        """Raise InputError if the networks have no layers that a condition modulates."""
        usable = [name for name, cls in choices("network").items() if getattr(cls, "supports_film", False)]
        require(config.network.supports_film, "network", config.network.name,
                f"{any_of(usable)} with model.condition_by=film")  # fmt: skip
        require(getattr(config.network, "hidden", True), "network.hidden", "()",
                "one or more widths with model.condition_by=film")  # fmt: skip
        require(self.condition_encoder or self.condition_decoder, "model.condition_by", "film",
                "concatenation if neither encoder nor decoder reads the condition")  # fmt: skip


@register("model", "conditional")
@dataclasses.dataclass(frozen=True)
class ConditionalConfig(BaseConditionalConfig):
    """A VAE of examples given their labels."""

    reads_labels: ClassVar[bool] = True

    num_classes: int = setting(10, "Number of classes; the labels are 0, 1, ..., num_classes - 1.", minimum=2)

    def build(self, config: Config, shape: Shape, *, training: bool) -> ConditionalVAE:
        """Return the `ConditionalVAE`."""
        return ConditionalVAE(**self.fields(config, shape, training=training), num_classes=self.num_classes)
