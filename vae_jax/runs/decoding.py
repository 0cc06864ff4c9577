"""Encode and decode batches with a trained model, sample from its prior and its likelihood, and interpolate."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding

from vae_jax import random
from vae_jax.data import KINDS
from vae_jax.distributions import Batch, Latent, from_posterior, from_prior, from_values
from vae_jax.inference import Params, decode, encode as encode_evidence, log_p
from vae_jax.models import LayerShape, encode, join_codes, latent_shapes, layer_shape, split_codes
from vae_jax.runs.experiment import Experiment
from vae_jax.runs.memory import decoding_batch
from vae_jax.runs.program_cache import cache_programs
from vae_jax.runtime import Placement
from vae_jax.training import evaluate_examples, padded_batches

Arrays = Mapping[str, np.ndarray]  # name -> [N, ...]

BATCH_SIZE = 100  # examples that are encoded, decoded or sampled in one call
MAX_SAMPLED = 2000  # examples that are compared with as many samples
MAX_SAMPLED_NUMBERS = 4_000_000  # in these examples
_X = 1 << 31  # stream of the samples of x; streams of layers are smaller, see `distributions.drawers`


def decode_codes(
    experiment: Experiment,
    params: Params,
    z: np.ndarray,
    placement: Placement | None = None,
    *,
    conditions: Arrays | None = None,
) -> np.ndarray:
    """Return the means of p(x|z).

    Args:
      experiment: its model is used.
      params: parameters of the model, or `Variables`.
      z: codes [..., D], with the layers side by side.
      placement: the devices; None for those of the parameters.
      conditions: what p(x|z) depends on in addition to z, such as the labels {"y": [...]}; models without such a
        dependence ignore it.

    Returns:
      Inputs of the model, float32 [..., *shape]; images are clipped to [0, 1].
    """
    program = _decoder(experiment.model, KINDS[experiment.kind].value_range, _replicated(placement, params))
    return _map_codes(program, params, z, conditions, _batch_size(experiment, params, placement))


def _map_codes(
    program: Callable[..., Array], params: Params, z: np.ndarray, conditions: Arrays | None, size: int
) -> np.ndarray:
    """Return the results [..., *shape] of a program of batches for codes [..., D] and their conditions."""
    lead = z.shape[:-1]
    arrays = {"z": np.asarray(z, np.float32)} | dict(conditions or {})
    flat = {name: array.reshape(-1, *array.shape[len(lead) :]) for name, array in arrays.items()}
    results = [np.asarray(program(params, batch))[:count] for count, batch in padded_batches(flat, size)]
    return np.concatenate(results).reshape(*lead, *results[0].shape[1:])


@cache_programs
def _decoder(model: Any, value_range: tuple[float, float] | None, sharding: NamedSharding) -> Callable[..., Array]:
    def decode_batch(params: Params, arrays: Batch) -> Array:
        mean = _decode_values(params, arrays, model)[0].mean()
        return mean if value_range is None else jnp.clip(mean, *value_range)

    return jax.jit(decode_batch, out_shardings=sharding)


def _decode_values(params: Params, arrays: Batch, model: Any) -> tuple[Any, dict[str, Latent]]:
    """Return p(x|z) and the layers of codes {"z": [B, D], ...} with their conditions."""
    conditions = {name: array for name, array in arrays.items() if name != "z"}
    values = split_codes(arrays["z"], latent_shapes(params, conditions, model=model))
    return decode(params, from_values(values), None, conditions, model=model)


def log_prior(
    experiment: Experiment,
    params: Params,
    z: np.ndarray,
    placement: Placement | None = None,
    *,
    conditions: Arrays | None = None,
) -> np.ndarray:
    """Return log p(z), the sum over the stochastic layers; nothing is decoded.

    Args:
      experiment: its model is used.
      params: parameters of the model, or `Variables`.
      z: codes [..., D], with the layers side by side.
      placement: the devices; None for those of the parameters.
      conditions: arrays [..., *shape] that the model reads in its generative process, see `decode_codes`.

    Returns:
      Nats, float32 [...].
    """
    program = _prior_density(experiment.model, _replicated(placement, params))
    return _map_codes(program, params, z, conditions, MAX_SAMPLED)


@cache_programs
def _prior_density(model: Any, sharding: NamedSharding) -> Callable[..., Array]:
    def log_prior_batch(params: Params, arrays: Batch) -> Array:
        _, latents = _decode_values(params, arrays, model)
        rows = [log_p(latent).reshape(-1, arrays["z"].shape[0]) for latent in latents.values()]  # [blocks, B] each
        return jnp.sum(jnp.concatenate(rows), axis=0)

    return jax.jit(log_prior_batch, out_shardings=sharding)


def layer_shapes(experiment: Experiment, params: Params) -> dict[str, LayerShape]:
    """Return the shape of the value of each stochastic layer for one example by name, in the order of the model.

    Args:
      experiment: its model is traced with abstract arrays.
      params: parameters of the model, or `Variables`.
    """
    return latent_shapes(params, conditions_of(experiment.example_batch), model=experiment.model)


def conditions_of(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arrays of examples on which a generative process can depend: all but x."""
    return {name: array for name, array in arrays.items() if name != "x"}


def placement_of(params: Params) -> Placement:
    """Return the devices that hold the parameters; all devices if the parameters are not placed on a mesh."""
    shardings = [getattr(leaf, "sharding", None) for leaf in jax.tree.leaves(params)]
    meshes = [s.mesh for s in shardings if isinstance(s, NamedSharding) and isinstance(s.mesh, Mesh)]
    return Placement(meshes[0]) if meshes else Placement()


def _replicated(placement: Placement | None, params: Params) -> NamedSharding:
    """Return the sharding of results, which every process can read."""
    return (placement or placement_of(params)).replicated


def _batch_size(experiment: Experiment, params: Params, placement: Placement | None) -> int:
    """Return the number of examples of one call, which fits in the free memory."""
    return decoding_batch(experiment, placement or placement_of(params), BATCH_SIZE)


def encode_examples(
    experiment: Experiment,
    params: Params,
    key: Array,
    arrays: Arrays,
    placement: Placement | None = None,
    *,
    with_seen: bool = True,
    first: int = 0,
) -> dict[str, np.ndarray]:
    """Return the posterior of each example, and the example as the model reads it.

    Args:
      experiment: its model and preprocessing are used.
      params: parameters of the model, or `Variables`.
      key: random key for the preprocessing; that of example i is fold_in(key, first + i).
      arrays: stored examples, {"x": [N, ...], ...}.
      placement: the devices; None for those of the parameters.
      with_seen: whether the result contains `seen`, which can be large.
      first: the position of the first example, if the arrays are a part of a data set.

    Returns:
      `seen`: the preprocessed (for example binarized) examples, float32 [N, *shape].
      `mean` and `scale` of q(z|x): float32 [N, D] each, as `vae_jax.models.encode` defines them.
    """
    program = _encoder(experiment.model, experiment.preprocess, _replicated(placement, params), with_seen)
    size = _batch_size(experiment, params, placement)
    return evaluate_examples(program, params, key, arrays, batch_size=size, first=first)


@cache_programs
def _encoder(model: Any, preprocess: Any, sharding: NamedSharding, with_seen: bool) -> Callable[..., dict[str, Array]]:
    def encode_batch(params: Params, keys: Array, batch: Batch) -> dict[str, Array]:
        batch = preprocess(keys, batch)
        return ({"seen": batch["x"]} if with_seen else {}) | encode(params, batch, model=model)

    return jax.jit(encode_batch, out_shardings=sharding)


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
    program = _posterior_sampler(experiment.model, experiment.preprocess, num_samples, _replicated(placement, params))
    size = _batch_size(experiment, params, placement)
    return evaluate_examples(program, params, key, arrays, batch_size=size, first=first)["z"]


@cache_programs
def _posterior_sampler(
    model: Any, preprocess: Any, num_samples: int, sharding: NamedSharding
) -> Callable[..., dict[str, Array]]:
    def sample_batch(params: Params, keys: Array, batch: Batch) -> dict[str, Array]:
        batch = preprocess(keys, batch)
        evidence = encode_evidence(params, batch, model=model)
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
    program = _code_sampler(experiment.model, count, given, _replicated(placement, params))
    return np.asarray(program(params, key, dict(conditions or {})))


def sample_means(
    experiment: Experiment, params: Params, key: Array, count: int, placement: Placement | None = None, *,
    conditions: Arrays | None = None, temperature: float = 1.0,
) -> np.ndarray:  # fmt: skip
    """Return the means of p(x|z) of samples z ~ p(z), float32 [N, *shape]; arguments as for `sample_prior`."""
    codes = sample_prior(experiment, params, key, count, placement, conditions=conditions, temperature=temperature)
    return decode_codes(experiment, params, codes, placement, conditions=conditions)


@cache_programs
def _code_sampler(model: Any, count: int, temperature: float | None, sharding: NamedSharding) -> Callable[..., Array]:
    def sample_batch(params: Params, key: Array, conditions: Batch) -> Array:
        draw = from_prior(random.example_keys(key, count), count, temperature=temperature)
        _, latents = decode(params, draw, None, conditions, model=model)
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
    program = _example_sampler(experiment.model, given, _replicated(placement, params))
    arrays = {"position": np.arange(count, dtype=np.uint32)} | dict(conditions or {})
    batches = padded_batches(arrays, min(_batch_size(experiment, params, placement), count))
    return np.concatenate([np.asarray(program(params, key, batch))[:size] for size, batch in batches])


@cache_programs
def _example_sampler(model: Any, temperature: float | None, sharding: NamedSharding) -> Callable[..., Array]:
    def sample_x(params: Params, key: Array, arrays: Batch) -> Array:
        keys = random.fold_in(key, arrays["position"])
        conditions = {name: array for name, array in arrays.items() if name != "position"}
        draw = from_prior(keys, keys.shape[0], temperature=temperature)
        p_x, _ = decode(params, draw, None, conditions, model=model)
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
    program = _reconstruction_sampler(experiment.model, experiment.preprocess, _replicated(placement, params))
    return evaluate_examples(program, params, key, arrays, batch_size=_batch_size(experiment, params, placement))


@cache_programs
def _reconstruction_sampler(model: Any, preprocess: Any, sharding: NamedSharding) -> Callable[..., dict[str, Array]]:
    def reconstruct_batch(params: Params, keys: Array, batch: Batch) -> dict[str, Array]:
        batch = preprocess(keys, batch)
        evidence = encode_evidence(params, batch, model=model)
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
      temperature: of the samples of the model, see `sample_prior`.

    Returns:
      {name: [n, *shape]}: "data"; "posterior predictive", x' ~ p(x'|z) with z ~ q(z|x), which shows how well the
      likelihood describes the data; "samples of the model", x ~ p(x|z) with z ~ p(z).
    """
    size = max(math.prod(experiment.shape), 1)
    count = max(min(MAX_SAMPLED, MAX_SAMPLED_NUMBERS // size), 1)
    few = {name: array[:count] for name, array in arrays.items()}
    again = sample_reconstructions(experiment, params, preprocess_key(key), few, placement)
    fresh = sample_examples(
        experiment, params, key, len(few["x"]), placement, conditions=conditions_of(few), temperature=temperature
    )
    return {"data": again["seen"], "posterior predictive": again["sample"], "samples of the model": fresh}


def interpolate_linearly(left: np.ndarray, right: np.ndarray, frames: int) -> np.ndarray:
    """Return equidistant codes on the straight lines from `left` to `right`, both ends included.

    Args:
      left: codes [P, D].
      right: codes [P, D].
      frames: number T of codes on each line.

    Returns:
      Codes [P, T, D].
    """
    t = np.linspace(0, 1, frames, dtype=np.float32)[:, None]  # [T, 1]
    return left[:, None] * (1 - t) + right[:, None] * t
