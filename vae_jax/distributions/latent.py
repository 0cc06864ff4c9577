"""One stochastic layer of a model, and the function that a model asks for it.

A model walks once through its generative process, from the top layer to the data, and asks for each layer:
`draw(name, prior, posterior)`. The drawer, which returns the layer, decides the purpose of the walk: see
`vae_jax.distributions.drawers`.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import jax
from jax import Array

from vae_jax.distributions.base import Distribution
from vae_jax.errors import InputError

Batch = Mapping[str, Array]  # {"x": [B, ...], "y": [B], ...}: the data of B examples, a pytree
Posterior = Callable[[], Any]  # () -> q(z | layers above, x), called only if the posterior is needed


def label_mask(batch: Mapping[str, Any]) -> Any:
    """Return which examples of a batch have a label, bool [B]; None if all have, or if the mask is one of numbers of x.

    Args:
      batch: {"mask": bool [B], or bool [B, *shape], ...}, of any kind of arrays.
    """
    mask = batch.get("mask")
    return mask if mask is not None and mask.ndim == 1 else None


class Variables(NamedTuple):
    """The variables of a model that has more than trained parameters, such as the averages of a normalization.

    Attributes:
      params: the parameters, a pytree.
      statistics: {name of a Flax collection: pytree}, the variables without a gradient.
    """

    params: Any
    statistics: Mapping[str, Any]


def as_variables(params: Any) -> dict[str, Any]:
    """Return the first argument of a Linen module's `apply`.

    Args:
      params: the parameters of the module, or `Variables`.

    Returns:
      {"params": parameters}, and the other collections by name.
    """
    if isinstance(params, Variables):
        return {"params": params.params, **params.statistics}
    return {"params": params}


# What to do about an error of Flax, which this folder does not import, by the name of its class.
_ADVICE = {
    # The numbers of Flax would depend on the batch that an example is in; those of a drawer and of the preprocessing
    # depend on the key of the example alone.
    "InvalidRngError": (
        "model needs a random number generator of Flax",
        "draw its noise in the preprocessing, which has a key for each example, and read it from the batch",
    ),
    "ScopeCollectionNotFound": (
        "model needs variables that are no parameters",
        "pass `Variables(params, statistics)` with the statistics of the training state",
    ),
    "ModifyScopeVariableError": (
        "model changes variables outside of training",
        "change them only if `self.is_mutable_collection(NAME)` is true, and use the stored averages otherwise",
    ),
}


@contextlib.contextmanager
def refuse_flax_errors() -> Iterator[None]:
    """Raise InputError with advice for an error of Flax that a layer with random numbers or statistics raises."""
    try:
        yield
    except Exception as error:
        if type(error).__name__ not in _ADVICE:
            raise
        problem, advice = _ADVICE[type(error).__name__]
        reason = str(error).split(" (http")[0].rstrip(". ")
        raise InputError(f"{problem}: {reason}; {advice}") from None


class Observed(NamedTuple):
    """A layer whose value is known for some examples, such as a label.

    Attributes:
      value: [B, *event]; the values of other examples are not used, and must be finite.
      mask: [B], true where the value is known.
    """

    value: Array
    mask: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Latent:
    """One stochastic layer: its value and its log densities given the layers above, in nats.

    Leading axes are [K, B]: K samples for each of B examples, or [B] where a walk has no samples. Equal blocks that are
    computed by one `nn.scan` are one `Latent` with a further leading axis of layers.

    Attributes:
      name: the name of the layer, static.
      z: [K, B, *event], the value: a vector, a feature map, a grid of codes.
      log_p: [K, B], log p(z | layers above). None if the walk has not computed it.
      log_q: [K, B], log q(z | layers above, x). None if the posterior is a point, or if the walk has no posterior.
      kl: [K, B], or [B] if neither density depends on other layers: KL(q || p) in closed form given the layers above.
        None without a closed form.
      penalty: [K, B], a term of the loss that is no probability, such as the commitment loss of vector quantization.
      prior: p(z | layers above), a density.
      posterior: q(z | layers above, x), a density; None if the walk has no posterior.
    """

    name: str = dataclasses.field(metadata={"static": True})
    z: Array
    log_p: Array | None = None
    log_q: Array | None = None
    kl: Array | None = None
    penalty: Array | None = None
    prior: Any = None
    posterior: Any = None

    def with_prior(self, prior: Distribution) -> "Latent":
        """Return the layer with its log density under a prior that was not known when it was drawn.

        A model whose posterior runs from the data upwards needs it: the prior of a layer depends on the layer above,
        which is drawn later. There is no KL in closed form given the layers above then.

        Args:
          prior: p(z | layers above).

        Returns:
          The layer with `prior` and `log_p`.
        """
        return dataclasses.replace(self, prior=prior, log_p=prior.log_prob(self.z))


class Draw(Protocol):
    """What a model asks for the value of a stochastic layer.

    Attributes:
      posterior_first: whether values come from the posterior. A model whose posterior runs in another order than its
        prior draws its layers in the order of the posterior then.
    """

    @property
    def posterior_first(self) -> bool:
        """Whether values come from the posterior."""
        ...

    def __call__(
        self,
        name: str,
        prior: Distribution | None,
        posterior: Posterior | None = None,
        *,
        observed: Observed | None = None,
        index: Array | None = None,
    ) -> Latent:
        """Return a layer.

        Args:
          name: the name of the layer, unique in the model.
          prior: p(z | layers above); None if it is not known yet, see `Latent.with_prior`.
          posterior: () -> q(z | layers above, x); None if there is none.
          observed: known values. An example with a known value contributes log p(value) to the bound.
          index: [], the number of the block inside of `nn.scan`, whose blocks share a name.
        """
        ...
