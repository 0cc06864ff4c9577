"""The bases of all choices that describe a model: the model itself, networks, posteriors, priors and likelihoods.

A choice is a frozen dataclass of settings that builds its part of the model. Other choices and checks read what it is
capable of from its class attributes, so that a registered choice needs no entry elsewhere. The shape of one example x
is (*sides, C): (H, W, C) for images, (D,) for vectors and counts, (D, C) for D numbers of C categories.
"""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from vae_jax.config import Choice, Config, any_of, choices, require
from vae_jax.distributions import Shape


@dataclasses.dataclass(frozen=True)
class ModelConfig(Choice):
    """The base of all models.

    Attributes:
      parts: the sections of the config that describe parts of the model. The others must have their defaults.
      supports_tied: whether a decoder of the model may use the kernels of the encoder.
      supports_spatial: whether the code of the model may be a map, see `NetworkConfig.code_places`.
      reads_labels: whether the model reads labels y of the classes 0, ..., `num_classes` - 1, a setting of it.
      reads_vectors: whether the model reads conditions c of `condition_dim` numbers, a setting of it.
      has_layer_divergences: whether there are several layers, each with a KL in closed form given the layers above.
      has_codes: whether the latent is a grid of integer codes.
    """

    has_layer_divergences: ClassVar[bool] = False
    has_codes: ClassVar[bool] = False
    parts: ClassVar[tuple[str, ...]] = ("network", "posterior", "prior", "likelihood")
    supports_tied: ClassVar[bool] = False
    supports_spatial: ClassVar[bool] = False
    reads_labels: ClassVar[bool] = False
    reads_vectors: ClassVar[bool] = False

    def build(self, config: Config, shape: Shape, *, training: bool) -> nn.Module:
        """Return the model.

        Args:
          config: the config that contains this choice and the choices of its parts.
          shape: shape of one example x.
          training: whether the layers compute in the precision of training, see `NetworkConfig.build`.

        Returns:
          A Linen module with the methods `encode` and `decode`, without parameters.
        """
        raise NotImplementedError


def require_layers_allowed(config: Config) -> None:
    """Raise InputError if the objective needs a model with a single stochastic layer of real numbers."""
    name = config.objective.name
    require(not config.objective.needs_single_layer, "objective", name,
            f"another objective with model={config.model.name}; {name} needs a single stochastic layer")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class NetworkConfig(Choice):
    """The base of all pairs of encoder and decoder.

    Attributes:
      supports_film: whether both modules accept embeddings of a condition, [B, E] or [E], as a second argument, which
        modulate their layers. The decoder's codes are [..., B, D] then.
    """

    supports_film: ClassVar[bool] = False

    @property
    def activation_function(self) -> Callable[[Array], Array]:
        """The function between the layers, which networks between stochastic layers use, too."""
        return jnp.tanh

    def build(self, shape: Shape, features: int, *, training: bool) -> tuple[nn.Module, nn.Module]:
        """Return encoder and decoder.

        Parameters are float32 in any case. With `training`, the layers compute in the precision of training, and may
        compute arrays again for the gradient instead of storing them.

        Args:
          shape: shape (*sides, C) of one example x.
          features: F, the number of outputs of the decoder for each place.
          training: whether the model is for training.

        Returns:
          A Linen module from x [B, *shape] to features [B, F'] with any F', and one from codes [..., D] to
          [..., *sides, F].

        Raises:
          InputError: the network does not support the shape.
        """
        raise NotImplementedError

    def places(self, shape: Shape) -> tuple[int, int] | None:
        """Return height and width of the encoder's last feature map; None if there is none, which is the default.

        The features of the encoder are those of its places side by side, and its decoder has the attribute
        `from_places`: whether each place of the map receives an equal part of the code.

        Args:
          shape: shape (*sides, C) of one example x.
        """
        del shape

    def code_places(self, shape: Shape) -> int:
        """Return P, the number of places of the code: 1 for a code without places, which is the default.

        A code with several places is a map: z has `model.latent_dim` numbers at each place of the last feature map. The
        decoder reads the numbers of all places side by side.

        Args:
          shape: shape (*sides, C) of one example x.
        """
        del shape
        return 1

    def check_values(self, preprocess: Any, kind: str) -> None:
        """Raise InputError if the network cannot read what the preprocessing returns; it can, unless overridden.

        Args:
          preprocess: the choice of preprocessing.
          kind: the kind of the data; "auto" if it is not known.
        """


@dataclasses.dataclass(frozen=True)
class PosteriorConfig(Choice):
    """The base of all families of q(z|x).

    Attributes:
      has_density: whether q(z|x) has a density. A point has none; then there is no KL and no bound on log p(x).
      supports_tied: whether the module has a method `kernels`, which a decoder that uses the encoder's kernels needs.
      supports_layers: whether `build_layer` builds a density between two stochastic layers.
      supports_spatial: whether the module maps features [..., F] of any leading axes to a distribution over independent
        numbers [..., latent_dim], so that the places of a feature map can share it.
      is_flow: whether q(z|x) is a flow, whose dimensions depend on each other.
      has_codes: whether it is a distribution over integer codes.
    """

    has_density: ClassVar[bool] = True
    supports_tied: ClassVar[bool] = False
    supports_layers: ClassVar[bool] = False
    supports_spatial: ClassVar[bool] = False
    is_flow: ClassVar[bool] = False
    has_codes: ClassVar[bool] = False

    def build(self, latent_dim: int) -> nn.Module:
        """Return a Linen module from features [B, F] of an encoder to q(z|x) over codes [B, latent_dim]."""
        raise NotImplementedError

    def build_layer(self, latent_dim: int, hidden: tuple[int, ...], activation: Callable[[Array], Array]) -> nn.Module:
        """Return a Linen module from codes [..., D] of a stochastic layer to the density of those of the next layer.

        Args:
          latent_dim: dimension of the codes of the next layer.
          hidden: widths of the hidden layers of the network.
          activation: applied after each hidden layer.

        Returns:
          The module; its result is a density over codes [..., latent_dim].
        """
        raise NotImplementedError

    def check(self, config: Config) -> None:
        """Raise InputError if the objective needs a density that q(z|x) lacks, or several samples of a point."""
        if self.has_density:
            return
        objective = config.objective
        usable = [name for name, cls in choices("objective").items() if not getattr(cls, "needs_density", True)]
        require(not objective.needs_density, "objective", objective.name,
                f"{any_of(usable)} with posterior={self.name}, which has no KL")  # fmt: skip
        require(objective.num_samples == 1, "objective.num_samples", objective.num_samples,
                f"1 with posterior={self.name}, whose samples are all equal")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class PriorConfig(Choice):
    """The base of all families of p(z).

    Attributes:
      has_codes: whether it is a distribution over integer codes.
      is_of_posteriors: whether it is made of posteriors of inputs, so that it needs a single stochastic layer.
      context: the other choices of a config in which the prior can be used, if these are not the defaults.
    """

    has_codes: ClassVar[bool] = False
    is_of_posteriors: ClassVar[bool] = False
    context: ClassVar[Mapping[str, str]] = {}

    def build(self, latent_dim: int, shape: Shape) -> nn.Module:
        """Return a Linen module whose result is p(z) over codes [latent_dim].

        The module is called with a function that maps inputs x [N, *shape] to q(z|x), for priors that are a mixture of
        posteriors.

        Args:
          latent_dim: dimension of the code.
          shape: shape of one example x.

        Returns:
          The module.
        """
        raise NotImplementedError

    def start_from(self, params: Any, codes: Array) -> Any:
        """Return the initial parameters for a fit to codes: unchanged, unless overridden.

        Args:
          params: the initial parameters of the module.
          codes: codes of examples in random order, [N, latent_dim].

        Returns:
          Parameters of the same shapes.
        """
        del codes
        return params


@dataclasses.dataclass(frozen=True)
class LikelihoodConfig(Choice):
    """The base of all families of p(x|z). What x holds is `PreprocessConfig.values`, for example "binary".

    Attributes:
      support: the numbers over which p(x|z) is a distribution, for messages.
      kinds: the kinds of data for which it is meant.
      scores: what x may hold so that p(x|z) is its probability or density, without a caveat.
      accepts: what x may hold at all.
    """

    support: ClassVar[str] = "real numbers"
    kinds: ClassVar[tuple[str, ...]] = ("images", "vectors", "counts")
    scores: ClassVar[tuple[str, ...]] = ("reals",)
    accepts: ClassVar[tuple[str, ...]] = ("binary", "levels", "reals", "counts", "categories")

    def num_features(self, channels: int) -> int:
        """Return F, the number of outputs of the decoder for each place: C, unless overridden.

        Args:
          channels: C, the last number of the shape of x.

        Returns:
          F.
        """
        return channels

    def parameters(self, shape: Shape) -> dict[str, Array]:
        """Return the initial values of learned parameters that are no output of the decoder: none, unless overridden.

        Args:
          shape: shape of one example x.

        Returns:
          {name: value}. The parameters of the model are named `likelihood_NAME`.
        """
        del shape
        return {}

    def initial_bias(self, mean: Array) -> Array | None:
        """Return the features whose distribution has the mean of the data, for a decoder whose code has no effect.

        Args:
          mean: [*shape], the mean of x over the data set.

        Returns:
          [*sides, F]; None if the mean does not determine features, which is the default.
        """
        del mean
        return None

    def distribution(self, features: Array, parameters: Mapping[str, Array], shape: Shape) -> Any:
        """Return p(x|z).

        Args:
          features: [..., *sides, F], the outputs of the decoder.
          parameters: the values of the parameters that `parameters` declares.
          shape: shape of one example x.

        Returns:
          A distribution over [..., *shape].
        """
        raise NotImplementedError

    def check(self, config: Config) -> None:
        """Raise InputError if the likelihood does not accept what the preprocessing returns."""
        self.check_values(config.preprocess, config.data.kind)

    def check_values(self, preprocess: Any, kind: str) -> None:
        """Raise InputError if the likelihood does not accept what the preprocessing returns.

        Args:
          preprocess: the choice of preprocessing.
          kind: the kind of the data; "auto" if it is not known, so that any kind counts that the likelihood supports.

        Raises:
          InputError: it is not accepted.
        """
        usable = [name for name, cls in choices("preprocess").items() if self._accepts(cls(), "auto")]
        require(self._accepts(preprocess, kind), "preprocess", preprocess.name,
                f"{any_of(usable)} with likelihood={self.name}, a distribution over {self.support}")  # fmt: skip

    def _accepts(self, preprocess: Any, kind: str) -> bool:
        return bool(values_after(preprocess, kind if kind != "auto" else self.kinds).intersection(self.accepts))


def values_after(preprocess: Any, kinds: str | Collection[str]) -> frozenset[str]:
    """Return what x may hold after the preprocessing, for example {"binary"}.

    Args:
      preprocess: the choice of preprocessing.
      kinds: the kind of the data, or the kinds that it may have.

    Returns:
      Values of `PreprocessConfig.values`.
    """
    kinds = (kinds,) if isinstance(kinds, str) else kinds
    return frozenset(preprocess.values_of(kind) for kind in kinds if kind in preprocess.kinds)
