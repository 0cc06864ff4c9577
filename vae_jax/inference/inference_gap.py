"""The gap between log p(x) and the ELBO in two parts: of the family of the posterior, and of the encoder.

log p(x) - ELBO(q) = [log p(x) - ELBO(q*)] + [ELBO(q*) - ELBO(q)], the approximation gap and the amortization gap, where
q* is the best posterior of the family for this x alone (Cremer et al., arXiv 1801.03558).
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from vae_jax import random
from vae_jax.config import require
from vae_jax.distributions import Batch, Normal, from_values
from vae_jax.errors import InputError
from vae_jax.inference.bound import Params, batch_size, decode, sample_terms
from vae_jax.inference.importance import log_mean_exp
from vae_jax.inference.labels import require_labels
from vae_jax.inference.likelihood import tail_shape
from vae_jax.inference.terms import Terms

_START, _STEPS, _EVALUATION = range(3)  # streams of the keys of an example

_Offsets = tuple[Array, Array]


@dataclasses.dataclass(frozen=True)
class PosteriorOptimization:
    """Settings of the optimization of a Gaussian posterior for each example.

    Attributes:
      num_steps: steps of Adam from the posterior of the encoder; the learning rate falls to 0 as a cosine.
      learning_rate: of the first step, relative to the standard deviations of the encoder's posterior.
      num_samples: samples in each gradient.
      evaluation_samples: K, samples of each posterior for its ELBO and for log p(x).
      chunk: how many of the K samples are computed at once.
    """

    num_steps: int = 500
    learning_rate: float = 0.05
    num_samples: int = 8
    evaluation_samples: int = 1000
    chunk: int = 50

    def __post_init__(self) -> None:
        """Raise InputError if a number is too small."""
        require(self.num_steps >= 0, "num_steps", self.num_steps, "0 or more")
        require(self.learning_rate > 0, "learning_rate", self.learning_rate, "above 0")
        for name in ("num_samples", "evaluation_samples", "chunk"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")


class InferenceGap(NamedTuple):
    """Estimates for each example, [B] in nats.

    Attributes:
      elbo: of the posterior of the encoder, ELBO(q), from K samples.
      optimized_elbo: of the optimized posterior, ELBO(q*), from K samples with the same noise.
      log_px: log p(x) by importance sampling from q* with K samples, a lower bound in expectation.
      pareto_k: the shape of the tail of these weights, see `pareto_shape`; None if K is less than 25.
    """

    elbo: Array
    optimized_elbo: Array
    log_px: Array
    pareto_k: Array | None


def inference_gap(
    params: Params, key: Array, batch: Batch, *, model: Any, settings: PosteriorOptimization
) -> InferenceGap:
    """Optimize a Gaussian posterior for each example, and return its ELBO, that of the encoder, and log p(x).

    The gradient of the ELBO is that of `sticking_the_landing`. The examples do not depend on each other.

    Args:
      params: parameters of the model, or its `Variables`; they are fixed.
      key: a typed key, or a key for each example, [B].
      batch: {"x": [B, ...], ...}.
      model: a `VAE`, or any Linen module with its methods `encode` and `decode`.
      settings: the optimization and the numbers of samples.

    Returns:
      The estimates. The approximation gap is `log_px` - `optimized_elbo`, and the amortization gap is
      `optimized_elbo` - `elbo`.

    Raises:
      InputError: the model has several stochastic layers, its posterior is no diagonal Gaussian of vectors, or it
        classifies examples and the batch has no labels.
    """
    require_labels(batch, model)
    keys = random.example_keys(key, batch_size(batch))
    name, start = _encoder_posterior(params, random.fold_in(keys, _START), batch, model)
    posteriors = _Posteriors(params, batch, model, settings, name, start)
    offsets = posteriors.optimize(random.fold_in(keys, _STEPS))
    eval_keys = random.fold_in(keys, _EVALUATION)
    log_w = posteriors.evaluate(offsets, eval_keys)
    elbo = jnp.mean(posteriors.evaluate(posteriors.zero, eval_keys), axis=0)
    return InferenceGap(elbo, jnp.mean(log_w, axis=0), log_mean_exp(log_w), tail_shape(log_w))


class _Posteriors(NamedTuple):
    """The Gaussian posteriors of a batch, as offsets from those of the encoder in its standard deviations.

    Offsets are those of the means and of the log standard deviations, [B, D] each.
    """

    params: Params
    batch: Batch
    model: Any
    settings: PosteriorOptimization
    name: str
    start: Normal

    @property
    def zero(self) -> _Offsets:
        """The offsets of the encoder."""
        return jnp.zeros_like(self.start.loc), jnp.zeros_like(self.start.loc)

    def log_weights(self, offsets: _Offsets, keys: Array, first: int | Array, count: int) -> Array:
        """Return log p(x, z) - log q(z), [count, B], of samples whose numbers begin with `first`."""
        loc = self.start.loc + jnp.exp(self.start.log_scale) * offsets[0]
        log_scale = self.start.log_scale + offsets[1]
        numbers = first + jnp.arange(count)
        noise = random.normal(random.fold_in(keys[None], numbers[:, None]), (count, *loc.shape), loc.dtype)
        z = loc[None] + jnp.exp(log_scale)[None] * noise  # [count, B, D]
        p_x, layers = decode(self.params, from_values({self.name: z}), None, self.batch, model=self.model)
        terms = Terms(p_x.log_prob(self.batch["x"]), tuple(layers.values()))
        q = Normal(lax.stop_gradient(loc), lax.stop_gradient(log_scale), event_ndims=1)
        return terms.log_px_z + terms.log_pz - q.log_prob(z)

    def evaluate(self, offsets: _Offsets, keys: Array) -> Array:
        """Return the K log weights, [K, B]."""
        chunk = min(self.settings.chunk, self.settings.evaluation_samples)
        full, rest = divmod(self.settings.evaluation_samples, chunk)
        parts = lax.map(lambda i: self.log_weights(offsets, keys, i * chunk, chunk), jnp.arange(full))
        last = self.log_weights(offsets, keys, full * chunk, rest) if rest else parts[:0, 0]
        return jnp.concatenate([parts.reshape(-1, parts.shape[-1]), last])

    def optimize(self, keys: Array) -> _Offsets:
        """Return the offsets of the optimized posteriors."""
        settings = self.settings
        optimizer = optax.adam(optax.cosine_decay_schedule(settings.learning_rate, max(settings.num_steps, 1)))

        def loss(offsets: _Offsets, keys: Array) -> Array:
            return -jnp.sum(jnp.mean(self.log_weights(offsets, keys, 0, settings.num_samples), axis=0))

        def step(carry: tuple[Any, Any], number: Array) -> tuple[tuple[Any, Any], None]:
            offsets, state = carry
            updates, state = optimizer.update(jax.grad(loss)(offsets, random.fold_in(keys, number)), state)
            return (optax.apply_updates(offsets, updates), state), None

        start = self.zero, optimizer.init(self.zero)
        return lax.scan(step, start, jnp.arange(settings.num_steps))[0][0]


def _encoder_posterior(params: Params, keys: Array, batch: Batch, model: Any) -> tuple[str, Normal]:
    """Return the name of the layer, and the posterior of the encoder; refuse all but one diagonal Gaussian."""
    latents = sample_terms(params, keys, batch, model=model).latents
    posteriors = [latent.posterior for latent in latents]
    if len(latents) != 1 or type(posteriors[0]) is not Normal or posteriors[0].loc.ndim != 2:
        names = ", ".join(type(posterior).__name__ for posterior in posteriors)
        raise InputError(
            f"model {type(model).__name__} has the posteriors {names}; the optimization of a posterior for each "
            "example needs one layer whose posterior is a diagonal Gaussian, such as posterior=gaussian"
        )
    return latents[0].name, posteriors[0]
