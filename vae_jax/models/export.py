"""A trained model as functions of arrays, and as exported programs that run without this package."""

import functools
import itertools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax import Array
from jax.export import Exported, export, symbolic_shape

from vae_jax.distributions import Batch, Latent, Shape, as_variables, from_means, from_prior, from_values
from vae_jax.errors import InputError

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
Range = tuple[float, float]


class LayerShape(NamedTuple):
    """The shape of the value of a stochastic layer for one example.

    Attributes:
      event: of the value, or of that of one block.
      blocks: the number of equal blocks under one name, from `nn.scan`; None if the layer is no such stack.
      is_integer: whether the value is integers, such as codes.
    """

    event: Shape
    blocks: int | None = None
    is_integer: bool = False

    @property
    def size(self) -> int:
        """The number of latents of one example."""
        return math.prod(self.event) * (1 if self.blocks is None else self.blocks)


def layer_shape(latent: Latent, lead: int) -> LayerShape:
    """Return the shape of a layer of a walk.

    Args:
      latent: the layer, with `log_p`, or with a posterior.
      lead: the number of axes of examples: 1 for [B, *event], or [L, B, *event] of L blocks.
    """
    axes = len(latent.posterior.batch_shape) if latent.log_p is None else latent.log_p.ndim
    blocks = latent.z.shape[0] if axes > lead else None
    return LayerShape(latent.z.shape[axes:], blocks, jnp.issubdtype(latent.z.dtype, jnp.integer))


def latent_shapes(params: Any, batch: Batch | None = None, *, model: Any) -> dict[str, LayerShape]:
    """Return the shape of the value of each stochastic layer by name, in the order of `model.decode`.

    Args:
      params: parameters of the model, or `Variables`.
      batch: what the generative process reads, such as labels {"y": [B, ...]}; None if it reads nothing.
      model: a `VAE`, or any Linen module with its method `decode`.
    """
    shapes: dict[str, LayerShape] = {}
    size = next(iter(batch.values())).shape[0] if batch else 1

    def walk(params: Any, batch: Batch, key: Array) -> None:
        _, latents = model.apply(as_variables(params), from_prior(key, size), None, batch, method="decode")
        shapes.update({latent.name: layer_shape(latent, 1) for latent in latents})

    jax.eval_shape(walk, params, batch or {}, jax.random.key(0))
    return shapes


def split_codes(codes: Array, shapes: Mapping[str, LayerShape]) -> dict[str, Array]:
    """Return the values by name of codes [..., D_1 + ... + D_L], the inverse of `join_codes`.

    Args:
      codes: [..., D_1 + ... + D_L].
      shapes: the layers, see `latent_shapes`.

    Returns:
      {name: [..., *event]}, or [blocks, ..., *event] for blocks.
    """
    sizes, lead = [shape.size for shape in shapes.values()], codes.shape[:-1]
    chex.assert_axis_dimension(codes, -1, sum(sizes))
    parts = jnp.split(codes, list(itertools.accumulate(sizes[:-1])), axis=-1)
    values = {}
    for (name, (event, blocks, is_integer)), part in zip(shapes.items(), parts, strict=True):
        stacked = () if blocks is None else (blocks,)
        part = part.astype(jnp.int32) if is_integer else part  # float32 next to a layer of real numbers
        value = part.reshape(*lead, *stacked, *event)
        values[name] = value if blocks is None else jnp.moveaxis(value, len(lead), 0)
    return values


def join_codes(values: Mapping[str, Array], shapes: Mapping[str, LayerShape]) -> Array:
    """Return codes [..., D_1 + ... + D_L], with the layers side by side.

    Args:
      values: {name: [..., *event]}, or [blocks, ..., *event] for blocks.
      shapes: the layers in their order, see `latent_shapes`.
    """
    flat = []
    for name, (event, blocks, _) in shapes.items():
        value = values[name]
        lead = value.ndim - len(event) - (0 if blocks is None else 1)
        value = value if blocks is None else jnp.moveaxis(value, 0, lead)
        flat.append(value.reshape(*value.shape[:lead], -1))
    if len({shape.is_integer for shape in shapes.values()}) > 1:
        flat = [value.astype(jnp.float32) for value in flat]  # integer codes next to real numbers
    return jnp.concatenate(flat, axis=-1)


def _posterior_layers(params: Any, batch: Batch, model: Any) -> tuple[Latent, ...]:
    """Return the layers at the means of their posteriors."""
    variables = as_variables(params)
    evidence = model.apply(variables, batch, method="encode")
    _, latents = model.apply(variables, from_means(), evidence, batch, method="decode")
    return latents


def embed(params: Any, batch: Batch, *, model: Any) -> dict[str, dict[str, Array]]:
    """Return mean and standard deviation of the posterior of each stochastic layer.

    Args:
      params: parameters of the model, or `Variables`.
      batch: {"x": [B, ...], ...}.
      model: a `VAE`, or any Linen module with its methods `encode` and `decode`.

    Returns:
      {name: {"mean": [B, *event], "scale": [B, *event]}}, or [L, B, *event] of L blocks. A layer that depends on others
      is conditioned on their means.
    """
    latents = _posterior_layers(params, batch, model)
    return {latent.name: {"mean": latent.z, "scale": latent.posterior.stddev()} for latent in latents}


def encode(params: Any, batch: Batch, *, model: Any) -> dict[str, Array]:
    """Return mean and standard deviation of q(z|x), with the layers side by side: see `embed` and `join_codes`.

    Args:
      params: parameters of the model, or `Variables`.
      batch: {"x": [B, *shape], ...}, preprocessed.
      model: a `VAE`, or any Linen module with its methods `encode` and `decode`.

    Returns:
      `mean` and `scale`, each [B, D]. If the posterior is a point, the scale is 0. The mean of integer codes is the
      codes, int32.
    """
    latents = _posterior_layers(params, batch, model)
    shapes = {latent.name: layer_shape(latent, 1) for latent in latents}
    return {
        "mean": join_codes({latent.name: latent.z for latent in latents}, shapes),
        "scale": join_codes({latent.name: latent.posterior.stddev() for latent in latents}, shapes),
    }


def decode(params: Any, z: Array, batch: Batch | None = None, *, model: Any, value_range: Range | None = None) -> Array:
    """Return the mean of p(x|z).

    Args:
      params: parameters of the model, or `Variables`.
      z: codes [..., D], with the layers side by side: see `split_codes`.
      batch: what the generative process reads, such as labels {"y": [B]}; None if it reads nothing.
      model: a `VAE`, or any Linen module with its method `decode`.
      value_range: lowest and highest value, to which the mean is clipped: (0, 1) for images. None: no clipping.

    Returns:
      Floats [..., *shape].
    """
    values = split_codes(z, latent_shapes(params, batch, model=model))
    p_x, _ = model.apply(as_variables(params), from_values(values), None, batch, method="decode")
    return _clip(p_x.mean(), value_range)


def sample(
    params: Any, keys: Array, batch: Batch | None = None, *, model: Any, value_range: Range | None = None
) -> Array:
    """Return the mean of p(x|z) for one z ~ p(z) for each key.

    Args:
      params: parameters of the model, or `Variables`.
      keys: typed keys [B].
      batch: see `decode`.
      model: a `VAE`, or any Linen module with its method `decode`.
      value_range: see `decode`.

    Returns:
      Floats [B, *shape].
    """
    chex.assert_rank(keys, 1)
    p_x, _ = model.apply(as_variables(params), from_prior(keys, keys.shape[0]), None, batch, method="decode")
    return _clip(p_x.mean(), value_range)


def _clip(x: Array, value_range: Range | None) -> Array:
    return x if value_range is None else jnp.clip(x, *value_range)


def sample_codes(params: Any, keys: Array, *, model: Any) -> Array:
    """Return codes z ~ p(z), [B, D], for each of the keys [B], with the layers side by side."""
    chex.assert_rank(keys, 1)
    _, latents = model.apply(as_variables(params), from_prior(keys, keys.shape[0]), method="decode")
    shapes = {latent.name: layer_shape(latent, 1) for latent in latents}
    return join_codes({latent.name: latent.z for latent in latents}, shapes)


def export_programs(params: Any, *, model: Any, shape: Shape, value_range: Range | None = None) -> dict[str, Exported]:
    """Return `encoder`, `decoder` and `sampler`: a trained model as programs that contain its parameters.

    Each program accepts any number B of examples. It runs on one device of any of `PLATFORMS`, and computes in float32:

      encoder: examples x float32 [B, *shape], preprocessed as in training -> {"mean": [B, D], "scale": [B, D]}, see
               `encode`
      decoder: codes float32 [B, D], or int32 of integer codes -> float32 [B, *shape], see `decode`
      sampler: Threefry key data uint32 [B, 2] -> float32 [B, *shape], see `sample`

    Programs of a model with the attribute `num_classes` receive labels int32 [B] as a second argument; -1 is no label.
    Those of a model with the attribute `condition_dim` receive conditions float32 [B, condition_dim]; NaN is none.
    `Exported.serialize` turns a program into bytes. `jax.export.deserialize` loads them without this package and
    without Flax, for as long as JAX guarantees compatibility.

    Args:
      params: parameters of the model, or `Variables`.
      model: a `VAE`, or any Linen module with its methods `encode` and `decode`. B is symbolic in the model: use
        `x.shape[0]`, not `len(x)`.
      shape: shape of one example x, (H, W, C) for images.
      value_range: lowest and highest value of x, see `decode`.

    Returns:
      {name: program}.

    Raises:
      InputError: a method of the model reads more of a batch than x, or than x and such labels or conditions.
    """
    (size,) = symbolic_shape("B")
    params = jax.tree.map(jnp.asarray, params)  # a traced index works on arrays of JAX only
    _check_reads_known_arrays(params, model, shape)
    layers = latent_shapes(params, _conditions_of(model, 1), model=model).values()
    num_latents = sum(layer.size for layer in layers)
    code_dtype = jnp.int32 if all(layer.is_integer for layer in layers) else jnp.float32
    clipped = {"value_range": value_range}
    signatures = {
        "encoder": (_encode_x, (size, *shape), jnp.float32),
        "decoder": (functools.partial(_decode_z, **clipped), (size, num_latents), code_dtype),
        "sampler": (functools.partial(_sample_from_key_data, **clipped), (size, 2), jnp.uint32),
    }
    given = [array for name, array in _conditions_of(model, 1).items() if name != "mask"]
    conditions = [jax.ShapeDtypeStruct((size, *array.shape[1:]), array.dtype) for array in given]
    with jax.default_matmul_precision("highest"):
        return {
            name: export(jax.jit(functools.partial(function, params, model=model)), platforms=PLATFORMS)(
                jax.ShapeDtypeStruct(argument, dtype), *conditions
            )
            for name, (function, argument, dtype) in signatures.items()
        }


def _conditions_of(model: Any, count: int) -> Batch:
    """Return labels {"y": [B], ...} or conditions {"c": [B, C]} of a model that reads them; {} for another model."""
    if hasattr(model, "num_classes"):
        return _as_conditions(jnp.zeros(count, jnp.int32))
    return _as_conditions(jnp.zeros((count, model.condition_dim))) if hasattr(model, "condition_dim") else {}


def _as_conditions(given: Array | None) -> Batch:
    """Return the arrays of a batch for labels [B], of which -1 is no label, or conditions [B, C]; {} for no array."""
    if given is None:
        return {}
    return {"c": given} if given.ndim == 2 else {"y": jnp.maximum(given, 0), "mask": given >= 0}


def _check_reads_known_arrays(params: Any, model: Any, shape: Shape) -> None:
    """Raise InputError if `encode` or `decode` reads an array of the batch that a program does not receive."""
    conditions = _conditions_of(model, 1)
    try:
        jax.eval_shape(
            lambda params, x: encode(params, {**conditions, "x": x}, model=model), params, jnp.zeros((1, *shape))
        )
        latent_shapes(params, conditions, model=model)
    except KeyError as error:
        raise InputError(
            f"model {type(model).__name__} reads batch[{error.args[0]!r}], but an exported program receives x, codes "
            "or keys alone; export a model without such conditions, or a custom function with `jax.export`"
        ) from None


def _encode_x(params: Any, x: Array, given: Array | None = None, *, model: Any) -> dict[str, Array]:
    return encode(params, {"x": x, **_as_conditions(given)}, model=model)


def _decode_z(params: Any, z: Array, given: Array | None = None, *, model: Any, value_range: Range | None) -> Array:
    return decode(params, z, _as_conditions(given), model=model, value_range=value_range)


def _sample_from_key_data(
    params: Any, key_data: Array, given: Array | None = None, *, model: Any, value_range: Range | None
) -> Array:
    keys = jax.random.wrap_key_data(key_data, impl="threefry2x32")
    return sample(params, keys, _as_conditions(given), model=model, value_range=value_range)
