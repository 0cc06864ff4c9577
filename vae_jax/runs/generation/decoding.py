"""Encode and decode batches with a trained model, and interpolate between codes."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding

from vae_jax.data import KINDS
from vae_jax.distributions import Batch, Latent, from_means, from_values
from vae_jax.errors import InputError
from vae_jax.inference import Params, decode, encode as read, log_p
from vae_jax.models import LayerShape, encode, latent_shapes, split_codes
from vae_jax.runs.experiment.experiment import Experiment
from vae_jax.runs.experiment.memory import decoding_batch
from vae_jax.runs.experiment.program_cache import cache_programs
from vae_jax.runtime import Placement
from vae_jax.training import evaluate_examples, padded_batches

Arrays = Mapping[str, np.ndarray]  # name -> [N, ...]

BATCH_SIZE = 100  # examples that are encoded, decoded or sampled in one call
_MAX_DENSITIES = 2000  # codes whose densities are computed in one call


class CodeGrid(NamedTuple):
    """The grid of codes of one example.

    Attributes:
      size: G, the number of codes.
      num_codes: C; a code is 0, ..., C - 1.
      depth: Q, the number of codes of each place, one of each level.
    """

    size: int
    num_codes: int
    depth: int


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
      z: codes [..., D], with the layers side by side; integers of a model whose codes are integers.
      placement: the devices; None for those of the parameters.
      conditions: what p(x|z) depends on in addition to z, such as the labels {"y": [...]}; models without such a
        dependence ignore it.

    Returns:
      Inputs of the model, float32 [..., *shape]; images are clipped to [0, 1].
    """
    program = _decoder(experiment.model, KINDS[experiment.kind].value_range, replicated(placement, params))
    return _map_codes(program, params, z, conditions, batch_size_of(experiment, params, placement))


def _map_codes(
    program: Callable[..., Array], params: Params, z: np.ndarray, conditions: Arrays | None, size: int
) -> np.ndarray:
    """Return the results [..., *shape] of a program of batches for codes [..., D] and their conditions."""
    lead = z.shape[:-1]
    z = np.asarray(z, np.int32 if np.issubdtype(z.dtype, np.integer) else np.float32)
    arrays = {"z": z} | dict(conditions or {})
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
    program = _prior_density(experiment.model, replicated(placement, params))
    return _map_codes(program, params, z, conditions, _MAX_DENSITIES)


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


def has_real_latents(experiment: Experiment, params: Params) -> bool:
    """Return whether the value of every stochastic layer is real numbers; nothing is computed.

    Args:
      experiment: its model is traced with abstract arrays.
      params: parameters of the model, or `Variables`.
    """
    return not any(layer.is_integer for layer in layer_shapes(experiment, params).values())


def code_grid(experiment: Experiment, params: Params) -> CodeGrid | None:
    """Return the grid of codes of a model with one stochastic layer; None for another model. Nothing is computed.

    Args:
      experiment: its model is traced with abstract arrays.
      params: parameters of the model, or `Variables`.
    """
    grids: list[CodeGrid | None] = []

    def walk(params: Params, batch: Batch) -> None:
        evidence = read(params, batch, model=experiment.model)
        for latent in decode(params, from_means(), evidence, batch, model=experiment.model)[1].values():
            q = latent.posterior
            grids.append(CodeGrid(latent.z.shape[-1], q.num_codes, q.depth) if hasattr(q, "num_codes") else None)

    jax.eval_shape(walk, params, experiment.example_batch)
    return grids[0] if len(grids) == 1 else None


def conditions_of(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arrays of examples on which a generative process can depend: all but x."""
    return {name: array for name, array in arrays.items() if name != "x"}


def placement_of(params: Params) -> Placement:
    """Return the devices that hold the parameters; all devices if the parameters are not placed on a mesh."""
    shardings = [getattr(leaf, "sharding", None) for leaf in jax.tree.leaves(params)]
    meshes = [s.mesh for s in shardings if isinstance(s, NamedSharding) and isinstance(s.mesh, Mesh)]
    return Placement(meshes[0]) if meshes else Placement()


def replicated(placement: Placement | None, params: Params) -> NamedSharding:
    """Return the sharding of results, which every process can read."""
    return (placement or placement_of(params)).replicated


def batch_size_of(experiment: Experiment, params: Params, placement: Placement | None, wanted: int = BATCH_SIZE) -> int:
    """Return the number of examples of one call: that which is wanted, or fewer that fit in the free memory."""
    return decoding_batch(experiment, placement or placement_of(params), wanted)


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
    program = _encoder(experiment.model, experiment.preprocess, replicated(placement, params), with_seen)
    size = batch_size_of(experiment, params, placement)
    return evaluate_examples(program, params, key, arrays, batch_size=size, fixed_size=True, first=first)


@cache_programs
def _encoder(model: Any, preprocess: Any, sharding: NamedSharding, with_seen: bool) -> Callable[..., dict[str, Array]]:
    def encode_batch(params: Params, keys: Array, batch: Batch) -> dict[str, Array]:
        batch = preprocess(keys, batch)
        return ({"seen": batch["x"]} if with_seen else {}) | encode(params, batch, model=model)

    return jax.jit(encode_batch, out_shardings=sharding)


def interpolate_linearly(left: np.ndarray, right: np.ndarray, frames: int) -> np.ndarray:
    """Return equidistant codes on the straight lines from `left` to `right`, both ends included.

    Args:
      left: codes [P, D].
      right: codes [P, D].
      frames: number T of codes on each line.

    Returns:
      Codes [P, T, D].

    Raises:
      InputError: the codes are integers.
    """
    if np.issubdtype(left.dtype, np.integer):
        raise InputError("codes of the model are integers, which have no codes between them; use a model with real "
                         "latents, such as model=vae")  # fmt: skip
    t = np.linspace(0, 1, frames, dtype=np.float32)[:, None]  # [T, 1]
    return left[:, None] * (1 - t) + right[:, None] * t
