"""The answers to a model that asks for its stochastic layers: each makes a walk through the model serve one purpose.

| drawer | value of a layer | use |
|---|---|---|
| `from_posterior` | sample of `q(z | layers above, x)` | training, bounds, importance sampling |
| `from_prior` | sample of `p(z | layers above)`; the posterior is never called | samples |
| `from_means` | mean of `q(z | layers above, x)` | embeddings, reconstructions |
| `from_values` | given | decoding, interpolation, densities of given values |
| `from_top_layers` | given in the top layers, else a sample of `p(z | layers above)` | what each layer contributes |

The key of a layer is that of the example folded with the layer's name. The value therefore does not depend on the order
in which a model asks for its layers.
"""

import dataclasses
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from vae_jax import random
from vae_jax.distributions.base import Distribution
from vae_jax.distributions.kl import kl_divergence
from vae_jax.distributions.latent import Latent, Observed, Posterior
from vae_jax.errors import InputError


def _layer_keys(keys: Array, name: str, index: Array | None) -> Array:
    keys = random.fold_in(keys, zlib.crc32(name.encode()) & 0x7FFFFFFF)
    return keys if index is None else random.fold_in(keys, index)


def _sample_shape(shape: tuple[int, ...], density: Distribution) -> tuple[int, ...]:
    """Return the leading axes that samples [*shape, *event] of a density have in addition to those of its batch."""
    return shape[: len(shape) - len(density.batch_shape)]


def _required(posterior: Posterior | None, name: str) -> Distribution:
    if posterior is None:
        raise ValueError(f"layer {name!r} has no posterior; use a drawer that does not need one, such as `from_prior`")
    return posterior()


def _with_observed(
    name: str, z: Array, log_q: Array | None, observed: Observed | None, lead: tuple[int, ...]
) -> tuple[Array, Array | None]:
    """Return z [*lead, *event] with the known values in place of the others, and log q, 0 for known values."""
    if observed is None:
        return z, log_q
    value, mask = observed
    batch, event = lead[-1:], z.shape[len(lead) :]
    if value.shape != batch + event or mask.shape != batch:
        shapes = f"of shape {list(value.shape)} and a mask of shape {list(mask.shape)}"
        expected = f"{list(batch + event)} and {list(batch)}"
        raise ValueError(f"layer {name!r} has observed values {shapes}; pass {expected}")
    mask = jnp.broadcast_to(mask, lead)
    value = jnp.broadcast_to(value, z.shape).astype(z.dtype)
    known = jnp.where(mask.reshape(*lead, *(1 for _ in event)), value, z)
    return known, None if log_q is None else jnp.where(mask, 0, log_q)


@dataclasses.dataclass(frozen=True)
class _FromPosterior:
    keys: Array  # [B]
    num_samples: int
    first_sample: int | Array
    posterior_first = True

    def __call__(
        self,
        name: str,
        prior: Distribution | None,
        posterior: Posterior | None = None,
        *,
        observed: Observed | None = None,
        index: Array | None = None,
    ) -> Latent:
        q = _required(posterior, name)
        samples = self.first_sample + jnp.arange(self.num_samples)
        keys = random.fold_in(_layer_keys(self.keys, name, index)[None], samples[:, None])  # [K, B]
        with jax.named_scope("sampling"):
            z, log_q = q.sample_and_log_prob(keys, _sample_shape(keys.shape, q))
        z, log_q = _with_observed(name, z, log_q, observed, keys.shape)
        latent = Latent(name, z, log_q=log_q, posterior=q)
        if prior is None:
            return latent
        closed_form = log_q is not None and observed is None
        return dataclasses.replace(latent.with_prior(prior), kl=kl_divergence(q, prior) if closed_form else None)


def from_posterior(
    key: Array, batch_size: int, num_samples: int = 1, *, first_sample: int | Array = 0
) -> _FromPosterior:
    """Return a drawer of K samples z ~ q(z | layers above, x) for each of B examples.

    Args:
      key: a typed key, or a key for each example, [B].
      batch_size: B.
      num_samples: K.
      first_sample: number of the first sample: chunks of samples draw what all samples at once draw.

    Returns:
      A drawer whose layers have values [K, B, *event], with `log_p`, `log_q` and `kl`.
    """
    return _FromPosterior(random.example_keys(key, batch_size), num_samples, first_sample)


@dataclasses.dataclass(frozen=True)
class _FromPrior:
    keys: Array  # [N]
    temperature: float | Array | None = None
    posterior_first = False

    def __call__(
        self,
        name: str,
        prior: Distribution | None,
        posterior: Posterior | None = None,
        *,
        observed: Observed | None = None,
        index: Array | None = None,
    ) -> Latent:
        del posterior
        if prior is None:
            raise ValueError(f"layer {name!r} has no prior yet; draw from the top unless `draw.posterior_first`")
        if self.temperature is not None:
            prior = _tempered(name, prior, self.temperature)
        keys = _layer_keys(self.keys, name, index)
        z, log_p = prior.sample_and_log_prob(keys, _sample_shape(keys.shape, prior))
        if observed is not None:
            z, _ = _with_observed(name, z, None, observed, keys.shape)
            return Latent(name, z).with_prior(prior)
        return Latent(name, z, log_p=log_p, prior=prior)


def _tempered(name: str, prior: Any, temperature: float | Array) -> Distribution:
    if not hasattr(prior, "tempered"):
        kind = type(prior).__name__
        raise InputError(f"prior {kind} of layer {name!r} has no method tempered, which a temperature needs; add it")
    return prior.tempered(temperature)


def from_prior(key: Array, num_examples: int, *, temperature: float | Array | None = None) -> _FromPrior:
    """Return a drawer of z ~ p(z | layers above) for N examples; posteriors are never called.

    With a temperature t each p(z | layers above) is replaced by its `tempered(t)`: the noise of normal distributions,
    of the components of a mixture and of the base of a flow has t times its standard deviation.

    Args:
      key: a typed key, or a key for each example, [N].
      num_examples: N.
      temperature: above 0; None for the unchanged p(z), which 1 is equal to.

    Returns:
      A drawer whose layers have values [N, *event], with `log_p`. It raises InputError for a prior without the method
      `tempered` if there is a temperature.
    """
    return _FromPrior(random.example_keys(key, num_examples), temperature)


@dataclasses.dataclass(frozen=True)
class _FromMeans:
    posterior_first = True

    def __call__(
        self,
        name: str,
        prior: Distribution | None,
        posterior: Posterior | None = None,
        *,
        observed: Observed | None = None,
        index: Array | None = None,
    ) -> Latent:
        del index
        q = _required(posterior, name)
        z, _ = _with_observed(name, q.mean(), None, observed, q.batch_shape)
        latent = Latent(name, z, posterior=q)
        return latent if prior is None else latent.with_prior(prior)


def from_means() -> _FromMeans:
    """Return a drawer of the mean of q(z | layers above, x), each layer given the means of those above.

    Returns:
      A drawer whose layers have values [B, *event] and their posterior.
    """
    return _FromMeans()


def _check_value(name: str, z: Array, density: Distribution | None) -> None:
    """Raise InputError unless z is [..., *event], of the kind of numbers that the density has."""
    if density is None:
        return
    keys = jax.ShapeDtypeStruct(density.batch_shape, jax.random.key(0).dtype)
    sample = jax.eval_shape(density.sample, keys)
    event, floats = sample.shape[len(density.batch_shape) :], jnp.issubdtype(sample.dtype, jnp.floating)
    if z.shape[z.ndim - len(event) :] != event or jnp.issubdtype(z.dtype, jnp.floating) != floats:
        expected = f"{'floats' if floats else 'integers'} [{', '.join(map(str, ('...', *event)))}]"
        raise InputError(f"codes {name} have shape {list(z.shape)} and dtype {z.dtype}; pass {expected}")


@dataclasses.dataclass(frozen=True)
class _FromValues:
    values: Mapping[str, Array]
    with_posterior: bool

    @property
    def posterior_first(self) -> bool:
        return self.with_posterior

    def __call__(
        self,
        name: str,
        prior: Distribution | None,
        posterior: Posterior | None = None,
        *,
        observed: Observed | None = None,
        index: Array | None = None,
    ) -> Latent:
        if name not in self.values:
            known = ", ".join(sorted(self.values)) or "no layer"
            raise ValueError(f"layer {name!r} has no value; there are values of {known}")
        z = self.values[name] if index is None else self.values[name][index]
        latent = Latent(name, z)
        q = _required(posterior, name) if self.with_posterior else None
        _check_value(name, z, prior if q is None else q)
        if q is not None:
            log_q = q.log_prob(z) if hasattr(q, "log_prob") else None  # a point has no density
            if log_q is not None:
                _, log_q = _with_observed(name, z, log_q, observed, log_q.shape)
            latent = dataclasses.replace(latent, log_q=log_q, posterior=q)
        return latent if prior is None else latent.with_prior(prior)


def from_values(values: Mapping[str, Array], *, with_posterior: bool = False) -> _FromValues:
    """Return a drawer of given values.

    Args:
      values: {name of a layer: [..., *event]}; of blocks inside of `nn.scan`, [L, ..., *event].
      with_posterior: whether the layers have `log_q`, the density of the values under the posterior. It stays None if
        the posterior is a point.

    Returns:
      A drawer whose layers have `log_p`, and with `with_posterior` also `log_q`. It raises ValueError for a layer
      without a value.
    """
    return _FromValues(values, with_posterior)


@dataclasses.dataclass(frozen=True)
class _FromTopLayers:
    draw: _FromPrior
    values: Mapping[str, Array]
    num_kept: Mapping[str, int | Array]
    posterior_first = False

    def __call__(
        self,
        name: str,
        prior: Distribution | None,
        posterior: Posterior | None = None,
        *,
        observed: Observed | None = None,
        index: Array | None = None,
    ) -> Latent:
        latent = self.draw(name, prior, posterior, observed=observed, index=index)
        if prior is None or name not in self.num_kept:
            return latent
        value = self.values[name] if index is None else self.values[name][index]
        is_kept = (0 if index is None else index) < self.num_kept[name]
        return Latent(name, jnp.where(is_kept, value, latent.z)).with_prior(prior)


def from_top_layers(
    key: Array, num_examples: int, values: Mapping[str, Array], num_kept: Mapping[str, int | Array]
) -> _FromTopLayers:
    """Return a drawer of given values for some layers, and of z ~ p(z | layers above) for the others.

    With the values of a walk `from_means` in the top layers, it shows what these layers determine of an example.

    Args:
      key: a typed key, or a key for each example, [N].
      num_examples: N.
      values: {name of a layer: [N, *event]}; of blocks inside of `nn.scan`, [L, N, *event].
      num_kept: {name of a layer: whether its value is given, 0 or 1}; of blocks how many, the first ones. The layers
        that it does not contain are drawn. The numbers can be traced, so that one program serves all.

    Returns:
      A drawer whose layers have values [N, *event], with `log_p`.

    Raises:
      ValueError: a layer of `num_kept` has no value.
    """
    if missing := sorted(set(num_kept) - set(values)):
        raise ValueError(f"num_kept has layers without a value: {', '.join(missing)}; pass their values")
    return _FromTopLayers(_FromPrior(random.example_keys(key, num_examples)), values, num_kept)
