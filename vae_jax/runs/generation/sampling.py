"""Sample from the prior, the posterior and the likelihood of a trained model."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import NamedSharding

from vae_jax import random
from vae_jax.distributions import Batch, Latent, from_posterior, from_prior
from vae_jax.inference import Params, decode, encode
from vae_jax.models import join_codes, layer_shape
from vae_jax.runs.experiment.experiment import Experiment
from vae_jax.runs.experiment.program_cache import cache_programs
from vae_jax.runs.generation.decoding import BATCH_SIZE, Arrays, batch_size_of, conditions_of, decode_codes, replicated
from vae_jax.runtime import Placement
from vae_jax.training import evaluate_examples, padded_batches

MAX_SAMPLED = 2000  # examples that are compared with as many samples
MAX_SAMPLED_NUMBERS = 4_000_000  # in these examples
_MAX_CODES = 2000  # codes that are drawn in one call
_X = 1 << 31  # stream of the samples of x; streams of layers are smaller, see `distributions.drawers`


def sample_posterior(
    experiment: Experiment,
    params: Params,
    key: Array,
    arrays: Arrays,
    placement: Placement | None = None,
    *,
    num_samples: int = 1,
    first: int = 0,
) -> np.ndarray:
    """Return codes z ~ q(z|x) of a model with one stochastic layer, whatever the family of q(z|x).

    Args:
      experiment: its model and preprocessing are used.
      params: parameters of the model, or `Variables`.
      key: random key of preprocessing and samples; that of example i is fold_in(key, first + i).
      arrays: stored examples, {"x": [N, ...], ...}.
      placement: the devices; None for those of the parameters.
      num_samples: S, the samples of each example.
      first: the position of the first example, if the arrays are a part of a data set.

    Returns:
      Codes, float32 [N, S, *event].
    """
    program = _posterior_sampler(experiment.model, experiment.preprocess, num_samples, replicated(placement, params))
    size = max(1, batch_size_of(experiment, params, placement) // num_samples)
    return evaluate_examples(program, params, key, arrays, batch_size=size, fixed_size=True, first=first)["z"]


@cache_programs
def _posterior_sampler(
    model: Any, preprocess: Any, num_samples: int, sharding: NamedSharding
) -> Callable[..., dict[str, Array]]:
    def sample_batch(params: Params, keys: Array, batch: Batch) -> dict[str, Array]:
        batch = preprocess(keys, batch)
        evidence = encode(params, batch, model=model)
        draw = from_posterior(keys, keys.shape[0], num_samples)
        (latent,) = decode(params, draw, evidence, batch, model=model)[1].values()
        return {"z": jnp.moveaxis(latent.z, 0, 1)}

    return jax.jit(sample_batch, out_shardings=sharding)


def sample_prior(
    experiment: Experiment,
    params: Params,
    key: Array,
    count: int,
    placement: Placement | None = None,
    *,
    conditions: Arrays | None = None,
    temperature: float = 1.0,
) -> np.ndarray:
    """Return samples from p(z).

    Args:
      experiment: its model is used.
      params: parameters of the model, or `Variables`.
      key: random key of the samples; that of sample i is fold_in(key, i).
      count: number of samples N.
      placement: the devices; None for those of the parameters.
      conditions: arrays [N, ...] that the model reads in its generative process, see `decode_codes`.
      temperature: factor of the standard deviations of p(z), see `from_prior`.

    Returns:
      Codes, float32 [N, D].
    """
    given = None if temperature == 1 else temperature  # every prior supports None
    program = _code_sampler(experiment.model, given, replicated(placement, params))
    wanted = max(BATCH_SIZE, min(count, _MAX_CODES))  # few samples of any number use one compiled program
    size = batch_size_of(experiment, params, placement, wanted)
    return _sample_in_batches(program, params, key, count, size, conditions)


def _sample_in_batches(
    program: Callable[..., Array], params: Params, key: Array, count: int, size: int, conditions: Arrays | None
) -> np.ndarray:
    """Return the results [N, ...] of a program of batches of positions and their conditions."""
    arrays = {"position": np.arange(count, dtype=np.uint32)} | dict(conditions or {})
    batches = padded_batches(arrays, size)
    return np.concatenate([np.asarray(program(params, key, batch))[:size] for size, batch in batches])


def _sample_latents(
    model: Any, params: Params, key: Array, arrays: Batch, temperature: float | None
) -> tuple[Any, dict[str, Latent], Array]:
    """Return p(x|z), the layers z ~ p(z) of the samples at these positions, and the keys of the samples."""
    keys = random.fold_in(key, arrays["position"])
    conditions = {name: array for name, array in arrays.items() if name != "position"}
    draw = from_prior(keys, keys.shape[0], temperature=temperature)
    return *decode(params, draw, None, conditions, model=model), keys


def sample_means(
    experiment: Experiment, params: Params, key: Array, count: int, placement: Placement | None = None, *,
    conditions: Arrays | None = None, temperature: float = 1.0,
) -> np.ndarray:  # fmt: skip
    """Return the means of p(x|z) of samples z ~ p(z), float32 [N, *shape]; arguments as for `sample_prior`."""
    codes = sample_prior(experiment, params, key, count, placement, conditions=conditions, temperature=temperature)
    return decode_codes(experiment, params, codes, placement, conditions=conditions)


@cache_programs
def _code_sampler(model: Any, temperature: float | None, sharding: NamedSharding) -> Callable[..., Array]:
    def sample_batch(params: Params, key: Array, arrays: Batch) -> Array:
        _, latents, _ = _sample_latents(model, params, key, arrays, temperature)
        shapes = {name: layer_shape(latent, 1) for name, latent in latents.items()}
        return join_codes({name: latent.z for name, latent in latents.items()}, shapes)

    return jax.jit(sample_batch, out_shardings=sharding)


def sample_examples(
    experiment: Experiment,
    params: Params,
    key: Array,
    count: int,
    placement: Placement | None = None,
    *,
    conditions: Arrays | None = None,
    temperature: float = 1.0,
) -> np.ndarray:
    """Return samples of the model: x ~ p(x|z) with z ~ p(z).

    Args:
      experiment: its model is used.
      params: parameters of the model, or `Variables`.
      key: random key of the samples; that of sample i is fold_in(key, i). Its code is that of `sample_prior`.
      count: number of samples N.
      placement: the devices; None for those of the parameters.
      conditions: arrays [N, ...] that the model reads in its generative process, see `decode_codes`.
      temperature: factor of the standard deviations of p(z), see `from_prior`; x ~ p(x|z) is not changed.

    Returns:
      Inputs of the model, float32 [N, *shape].
    """
    given = None if temperature == 1 else temperature  # every prior supports None
    program = _example_sampler(experiment.model, given, replicated(placement, params))
    return _sample_in_batches(program, params, key, count, batch_size_of(experiment, params, placement), conditions)


@cache_programs
def _example_sampler(model: Any, temperature: float | None, sharding: NamedSharding) -> Callable[..., Array]:
    def sample_x(params: Params, key: Array, arrays: Batch) -> Array:
        p_x, _, keys = _sample_latents(model, params, key, arrays, temperature)
        return p_x.sample(random.fold_in(keys, jnp.uint32(_X)))

    return jax.jit(sample_x, out_shardings=sharding)


def sample_reconstructions(
    experiment: Experiment, params: Params, key: Array, arrays: Arrays, placement: Placement | None = None
) -> dict[str, np.ndarray]:
    """Return posterior predictive samples: for each example x one x' ~ p(x'|z) with z ~ q(z|x).

    Args:
      experiment: its model and preprocessing are used.
      params: parameters of the model, or `Variables`.
      key: random key of preprocessing and samples; that of example i is fold_in(key, i).
      arrays: stored examples, {"x": [N, ...], ...}.
      placement: the devices; None for those of the parameters.

    Returns:
      `seen`: the preprocessed examples x, and `sample`: x'; float32 [N, *shape] each.
    """
    program = _reconstruction_sampler(experiment.model, experiment.preprocess, replicated(placement, params))
    size = batch_size_of(experiment, params, placement)
    return evaluate_examples(program, params, key, arrays, batch_size=size, fixed_size=True)


@cache_programs
def _reconstruction_sampler(model: Any, preprocess: Any, sharding: NamedSharding) -> Callable[..., dict[str, Array]]:
    def reconstruct_batch(params: Params, keys: Array, batch: Batch) -> dict[str, Array]:
        batch = preprocess(keys, batch)
        evidence = encode(params, batch, model=model)
        draw = from_posterior(keys, keys.shape[0])
        p_x, _ = decode(params, draw, evidence, batch, model=model)
        return {"seen": batch["x"], "sample": p_x.sample(random.fold_in(keys, jnp.uint32(_X))[None])[0]}

    return jax.jit(reconstruct_batch, out_shardings=sharding)


def preprocess_key(key: Array) -> Array:
    """Return a key for the preprocessing; it differs from the keys of codes, `key` folded with a position."""
    return jax.random.fold_in(key, 2**31)


def compare_samples(
    experiment: Experiment,
    params: Params,
    arrays: Arrays,
    placement: Placement | None = None,
    *,
    key: Array,
    conditions: Arrays | None = None,
    temperature: float = 1.0,
) -> dict[str, np.ndarray]:
    """Return examples as the model reads them, and equally many samples of the model.

    Args:
      experiment: its model and preprocessing are used.
      params: parameters of the model, or `Variables`.
      arrays: stored examples, {"x": [N, ...], ...}, of which at most `MAX_SAMPLED` are used, and fewer if they are
        large.
      placement: the devices; None for those of the parameters.
      key: random key of the samples and, by `preprocess_key`, of the preprocessing.
      conditions: those of the samples of the model, [N, ...]; None for the conditions of the examples.
      temperature: of the samples of the model, see `sample_prior`.

    Returns:
      {name: [n, *shape]}: "data"; "posterior predictive", x' ~ p(x'|z) with z ~ q(z|x), which shows how well the
      likelihood describes the data; "samples of the model", x ~ p(x|z) with z ~ p(z).
    """
    size = max(math.prod(experiment.shape), 1)
    count = max(min(MAX_SAMPLED, MAX_SAMPLED_NUMBERS // size), 1)
    few = {name: array[:count] for name, array in arrays.items()}
    again = sample_reconstructions(experiment, params, preprocess_key(key), few, placement)
    given = conditions_of(few) if conditions is None else {name: array[:count] for name, array in conditions.items()}
    fresh = sample_examples(
        experiment, params, key, len(few["x"]), placement, conditions=given, temperature=temperature
    )
    return {"data": again["seen"], "posterior predictive": again["sample"], "samples of the model": fresh}
