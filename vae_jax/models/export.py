"""A trained model as functions of arrays, and as exported programs that run without this package."""

import functools
import itertools
import math
from collections.abc import Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax import Array
from jax.export import Exported, export, symbolic_shape

from vae_jax.distributions import Batch, from_means, from_prior, from_values

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def latent_shapes(params: Any, *, model: Any) -> dict[str, tuple[int, ...]]:
    """Return {name: shape of the value of one example} of the stochastic layers, in the order of `model.decode`."""
    names: list[str] = []

    def values(params: Any, key: Array) -> list[Array]:
        _, latents = model.apply({"params": params}, from_prior(key, 1), method="decode")
        names.extend(latent.name for latent in latents)
        return [latent.z for latent in latents]

    shapes = jax.eval_shape(values, params, jax.random.key(0))
    return {name: shape.shape[1:] for name, shape in zip(names, shapes, strict=True)}


def split_codes(codes: Array, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Array]:
    """Return {name: values [..., *shape]} of codes [..., D_1 + ... + D_L], the inverse of `join_codes`."""
    sizes = [math.prod(shape) for shape in shapes.values()]
    chex.assert_axis_dimension(codes, -1, sum(sizes))
    parts = jnp.split(codes, list(itertools.accumulate(sizes[:-1])), axis=-1)
    return {
        name: part.reshape(*codes.shape[:-1], *shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)
    }


def join_codes(values: Mapping[str, Array], shapes: Mapping[str, tuple[int, ...]]) -> Array:
    """Return codes [..., D_1 + ... + D_L] of {name: values [..., *shape]}, in the order of `shapes`."""
    flat = [values[name].reshape(*values[name].shape[: values[name].ndim - len(s)], -1) for name, s in shapes.items()]
    return jnp.concatenate(flat, axis=-1)


def embed(params: Any, batch: Batch, *, model: Any) -> dict[str, dict[str, Array]]:
    """Return mean and standard deviation of the posterior of each stochastic layer.

    Args:
      params: parameters of the model.
      batch: {"x": [B, ...], ...}.
      model: a `VAE`, or any Linen module with its methods `encode` and `decode`.

    Returns:
      {name: {"mean": [B, *event], "scale": [B, *event]}}. A layer that depends on others is conditioned on their means.
    """
    variables = {"params": params}
    evidence = model.apply(variables, batch, method="encode")
    _, latents = model.apply(variables, from_means(), evidence, batch, method="decode")
    return {latent.name: {"mean": latent.z, "scale": latent.posterior.stddev()} for latent in latents}


def encode(params: Any, x: Array, *, model: Any) -> dict[str, Array]:
    """Return mean and standard deviation of q(z|x), with the layers side by side: see `embed` and `join_codes`.

    Args:
      params: parameters of the model.
      x: floats [B, ...], for images [B, H, W, C] in [0, 1].
      model: a `VAE`, or any Linen module with its methods `encode` and `decode`.

    Returns:
      `mean` and `scale`, each [B, D]. If the posterior is a point, the scale is 0.
    """
    layers = embed(params, {"x": x}, model=model)
    shapes = {name: layer["mean"].shape[1:] for name, layer in layers.items()}
    return {kind: join_codes({name: layers[name][kind] for name in layers}, shapes) for kind in ("mean", "scale")}


def decode(params: Any, z: Array, *, model: Any) -> Array:
    """Return the mean of p(x|z) as an image, clipped to [0, 1].

    Args:
      params: parameters of the model.
      z: codes [..., D], with the layers side by side: see `split_codes`.
      model: a `VAE`, or any Linen module with its method `decode`.

    Returns:
      Floats [..., H, W, C].
    """
    values = split_codes(z, latent_shapes(params, model=model))
    p_x, _ = model.apply({"params": params}, from_values(values), method="decode")
    return jnp.clip(p_x.mean(), 0, 1)


def sample(params: Any, keys: Array, *, model: Any) -> Array:
    """Return images [B, H, W, C]: the mean of p(x|z) for one z ~ p(z) for each of the keys [B]."""
    chex.assert_rank(keys, 1)
    p_x, _ = model.apply({"params": params}, from_prior(keys, keys.shape[0]), method="decode")
    return jnp.clip(p_x.mean(), 0, 1)


def sample_codes(params: Any, keys: Array, *, model: Any) -> Array:
    """Return codes z ~ p(z), [B, D], for each of the keys [B], with the layers side by side."""
    chex.assert_rank(keys, 1)
    _, latents = model.apply({"params": params}, from_prior(keys, keys.shape[0]), method="decode")
    shapes = {latent.name: latent.z.shape[1:] for latent in latents}
    return join_codes({latent.name: latent.z for latent in latents}, shapes)


def export_programs(params: Any, *, model: Any) -> dict[str, Exported]:
    """Return `encoder`, `decoder` and `sampler`: a trained model as programs that contain its parameters.

    Each program accepts any number B of examples. It runs on one device of any of `PLATFORMS`, and computes in float32:

      encoder: images float32 [B, H, W, C], preprocessed as in training (for example binarized, see `read_images`)
               -> {"mean": [B, D], "scale": [B, D]}, see `encode`
      decoder: codes float32 [B, D] -> images float32 [B, H, W, C], see `decode`
      sampler: Threefry key data uint32 [B, 2] -> images float32 [B, H, W, C], see `sample`

    `Exported.serialize` turns a program into bytes. `jax.export.deserialize` loads them without this package and
    without Flax, for as long as JAX guarantees compatibility.

    Args:
      params: parameters of the model.
      model: a `VAE`, or any Linen module with its methods `encode` and `decode` and an `image_shape`. B is symbolic in
        the model: use `x.shape[0]`, not `len(x)`.

    Returns:
      {name: program}.
    """
    (size,) = symbolic_shape("B")
    num_latents = sum(math.prod(shape) for shape in latent_shapes(params, model=model).values())
    signatures = {
        "encoder": (encode, (size, *model.image_shape), jnp.float32),
        "decoder": (decode, (size, num_latents), jnp.float32),
        "sampler": (_sample_from_key_data, (size, 2), jnp.uint32),
    }
    with jax.default_matmul_precision("highest"):
        return {
            name: export(jax.jit(functools.partial(function, params, model=model)), platforms=PLATFORMS)(
                jax.ShapeDtypeStruct(shape, dtype)
            )
            for name, (function, shape, dtype) in signatures.items()
        }


def _sample_from_key_data(params: Any, key_data: Array, *, model: Any) -> Array:
    return sample(params, jax.random.wrap_key_data(key_data, impl="threefry2x32"), model=model)
