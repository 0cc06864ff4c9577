"""The stochastic layers of a model from the top: their KL and active units, and what the top ones determine."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import NamedSharding

from vae_jax import random
from vae_jax.data import KINDS
from vae_jax.distributions import Batch, Distribution, Draw, Latent, from_means, from_prior, from_top_layers
from vae_jax.errors import InputError
from vae_jax.inference import Params, decode, encode
from vae_jax.models import LayerShape
from vae_jax.runs.experiment.experiment import Experiment
from vae_jax.runs.experiment.program_cache import cache_programs
from vae_jax.runs.generation.decoding import Arrays, batch_size_of, conditions_of, layer_shapes, replicated
from vae_jax.runtime import Placement
from vae_jax.training import evaluate_examples

_DRAWS = 1 << 31  # stream of the draws; streams of layers are smaller, see `distributions.drawers`


class LayerNumbers(NamedTuple):
    """What an evaluation states about one stochastic layer.

    Attributes:
      name: of the layer; of blocks with their number, the first one at the top.
      kl: its share of the KL, in nats per example.
      active_units: the latents whose posterior mean depends on the example.
      size: all its latents.
    """

    name: str
    kl: float
    active_units: int
    size: int


@dataclasses.dataclass(frozen=True)
class _Recorded:
    """A drawer that records the names of the layers in the order in which they are drawn."""

    draw: Draw
    names: list[str]
    posterior_first = False

    def __call__(self, name: str, prior: Distribution | None, *arguments: Any, **options: Any) -> Latent:
        self.names.append(name)
        return self.draw(name, prior, *arguments, **options)


def layers_from_top(experiment: Experiment, params: Params) -> dict[str, LayerShape]:
    """Return the shapes of the stochastic layers by name, in the order in which the prior draws them.

    Args:
      experiment: its model is traced with abstract arrays.
      params: parameters of the model, or `Variables`.
    """
    names: list[str] = []
    conditions = conditions_of(experiment.example_batch)
    size = next(iter(conditions.values())).shape[0] if conditions else 1

    def walk(params: Params, batch: Batch) -> None:
        decode(params, _Recorded(from_prior(jax.random.key(0), size), names), None, batch, model=experiment.model)

    jax.eval_shape(walk, params, conditions)
    shapes = layer_shapes(experiment, params)
    return {name: shapes[name] for name in dict.fromkeys(names)}


def num_layers(shapes: Mapping[str, LayerShape]) -> int:
    """Return the number of stochastic layers; each block of a stack is one."""
    return sum(shape.blocks or 1 for shape in shapes.values())


def layer_numbers(experiment: Experiment, params: Params, evaluation: Mapping[str, Any]) -> list[LayerNumbers]:
    """Return the numbers of each layer from the top; [] for a model with one layer, or without a KL.

    Args:
      experiment: its model is traced with abstract arrays.
      params: parameters of the model, or `Variables`.
      evaluation: the metrics of `Evaluator.bound`; `kl_1`, ... and `active_units_by_layer` are in the order of the
        model, which can begin at the data.
    """
    if "kl_1" not in evaluation:
        return []
    rows: dict[str, list[LayerNumbers]] = {}
    position = 0
    for name, shape in layer_shapes(experiment, params).items():
        rows[name] = []
        for block in range(shape.blocks or 1):
            title = name if shape.blocks in (None, 1) else f"{name}, {block + 1}"
            active, size = evaluation["active_units_by_layer"][position], shape.size // (shape.blocks or 1)
            position += 1
            rows[name].append(LayerNumbers(title, evaluation[f"kl_{position}"], active, size))
    return [row for name in layers_from_top(experiment, params) for row in rows[name]]


def decode_top_layers(
    experiment: Experiment,
    params: Params,
    key: Array,
    arrays: Arrays,
    keep_layers: int,
    placement: Placement | None = None,
    *,
    num_draws: int = 1,
) -> dict[str, np.ndarray]:
    """Return means of p(x|z), with the posterior means of the top layers and draws of the prior for the others.

    With all layers they are the decoded means of the posterior, and with none of them samples of the prior.

    Args:
      experiment: its model and preprocessing are used.
      params: parameters of the model, or `Variables`.
      key: random key of preprocessing and draws; that of example i is fold_in(key, i). The draws of a layer do not
        depend on `keep_layers`.
      arrays: stored examples, {"x": [N, ...], ...}.
      keep_layers: how many layers are kept, from the top; each block of a stack is one.
      placement: the devices; None for those of the parameters.
      num_draws: S, for each example.

    Returns:
      `seen`: the preprocessed examples, float32 [N, *shape]; `decoded`: float32 [N, S, *shape], images clipped to
      [0, 1].

    Raises:
      InputError: the model has fewer layers.
    """
    shapes = layers_from_top(experiment, params)
    count = num_layers(shapes)
    if not 0 <= keep_layers <= count:
        raise InputError(
            f"keep_layers={keep_layers} must be from 0 to {count}, the number of stochastic layers of the model"
        )
    kept, above = {}, 0
    for name, shape in shapes.items():
        blocks = shape.blocks or 1
        kept[name] = np.int32(min(max(keep_layers - above, 0), blocks))
        above += blocks
    value_range = KINDS[experiment.kind].value_range
    sharding = replicated(placement, params)
    program = _top_layers_decoder(experiment.model, experiment.preprocess, value_range, num_draws, sharding)
    size = max(1, batch_size_of(experiment, params, placement) // num_draws)
    return evaluate_examples(
        lambda params, keys, batch: program(params, keys, batch, kept), params, key, arrays, batch_size=size
    )


@cache_programs
def _top_layers_decoder(
    model: Any, preprocess: Any, value_range: tuple[float, float] | None, num_draws: int, sharding: NamedSharding
) -> Callable[..., dict[str, Array]]:
    def decode_batch(params: Params, keys: Array, batch: Batch, num_kept: Mapping[str, Array]) -> dict[str, Array]:
        batch = preprocess(keys, batch)
        latents = decode(params, from_means(), encode(params, batch, model=model), batch, model=model)[1]
        values = {name: latent.z for name, latent in latents.items()}

        def decode_draw(number: Array) -> Array:
            draw = from_top_layers(random.fold_in(keys, number), keys.shape[0], values, num_kept)
            return decode(params, draw, None, conditions_of(batch), model=model)[0].mean()

        numbers = jnp.uint32(_DRAWS) + jnp.arange(num_draws, dtype=jnp.uint32)
        decoded = jnp.moveaxis(lax.map(decode_draw, numbers), 0, 1)
        clipped = decoded if value_range is None else jnp.clip(decoded, *value_range)
        return {"seen": batch["x"], "decoded": clipped}

    return jax.jit(decode_batch, out_shardings=sharding)
