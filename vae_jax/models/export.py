"""A trained model as functions of arrays, and as exported programs that run without this package."""

import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax import Array
from jax.export import Exported, export, symbolic_shape

from vae_jax.distributions import Deterministic, MarkovChain

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def encode(params: Any, x: Array, *, model: Any) -> dict[str, Array]:
    """Return mean and standard deviation of q(z|x).

    Args:
      params: parameters of the model.
      x: floats [B, H, W, C] in [0, 1].
      model: a `VAE`, or any Linen module with its method `encode`.

    Returns:
      `mean` and `scale`, each [B, D]. If the posterior is a point, the scale is 0. If the code has several layers, each
      layer is conditioned on the mean of the layer below it.
    """
    chex.assert_rank(x, 4)
    q = model.apply({"params": params}, x, method="encode")
    q = q.along_means() if isinstance(q, MarkovChain) else q
    mean = q.mean()
    return {"mean": mean, "scale": jnp.zeros_like(mean) if isinstance(q, Deterministic) else jnp.exp(q.log_scale)}


def decode(params: Any, z: Array, *, model: Any) -> Array:
    """Return the mean of p(x|z) as an image, clipped to [0, 1].

    Args:
      params: parameters of the model.
      z: codes [..., D].
      model: a `VAE`, or any Linen module with its method `decode`.

    Returns:
      Floats [..., H, W, C].
    """
    return jnp.clip(model.apply({"params": params}, z, method="decode").mean(), 0, 1)


def sample(params: Any, keys: Array, *, model: Any) -> Array:
    """Return images [B, H, W, C]: `decode` of one code from p(z) for each of the keys [B]."""
    chex.assert_rank(keys, 1)
    prior = model.apply({"params": params}, method="prior")
    return decode(params, jax.vmap(prior.sample)(keys), model=model)


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
      model: a `VAE`, or any Linen module with its methods `encode`, `prior` and `decode` and an `image_shape`. B is
        symbolic in the model: use `x.shape[0]`, not `len(x)`.

    Returns:
      {name: program}.
    """
    (size,) = symbolic_shape("B")
    prior = model.apply({"params": params}, method="prior")
    signatures = {
        "encoder": (encode, (size, *model.image_shape), jnp.float32),
        "decoder": (decode, (size, *jax.eval_shape(prior.sample, jax.random.key(0)).shape), jnp.float32),
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
