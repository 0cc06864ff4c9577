"""A trained model as functions of arrays, and as programs that run where this package is not."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.export import Exported, export, symbolic_shape

from vae_jax.distributions import Deterministic, MarkovChain

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def encode(params: Any, x: Array, *, model: Any) -> dict[str, Array]:
    """The `mean` and `scale` of q(z|x), each [B, D], for images [B, H, W, C] of floats in [0, 1].

    The scale of a point is 0; of several layers, each is taken given the mean of the one below it.
    """
    q = model.apply({"params": params}, x, method="encode")
    q = q.along_means() if isinstance(q, MarkovChain) else q
    mean = q.mean()
    return {"mean": mean, "scale": jnp.zeros_like(mean) if isinstance(q, Deterministic) else jnp.exp(q.log_scale)}


def decode(params: Any, z: Array, *, model: Any) -> Array:
    """The mean of p(x|z) as an image, [..., H, W, C] cut to [0, 1], for codes [..., D]."""
    return jnp.clip(model.apply({"params": params}, z, method="decode").mean(), 0, 1)


def sample(params: Any, keys: Array, *, model: Any) -> Array:
    """Images [B, H, W, C]: `decode` of one code from p(z) for each of the keys [B]."""
    prior = model.apply({"params": params}, method="prior")
    return decode(params, jax.vmap(prior.sample)(keys), model=model)


def export_programs(params: Any, *, model: Any) -> dict[str, Exported]:
    """`encoder`, `decoder` and `sampler`: a trained model as programs with its weights inside.

    Each takes any number B of examples, on one device of any of `PLATFORMS`, and computes in float32 throughout:

      encoder: images float32 [B, H, W, C], as the model saw them (binarised, say, see `read_images`)
               -> {"mean": [B, D], "scale": [B, D]}, see `encode`
      decoder: codes float32 [B, D] -> images float32 [B, H, W, C], see `decode`
      sampler: Threefry key data uint32 [B, 2] -> images float32 [B, H, W, C], see `sample`

    `Exported.serialize` makes bytes of one, which `jax.export.deserialize` reads where neither this package nor Flax is
    installed, for as long as JAX promises it. Beside `encode`, `prior` and `decode`, the model has an `image_shape`;
    B is a symbol to it: `x.shape[0]`, not `len(x)`.
    """
    (size,) = symbolic_shape("B")
    prior = model.apply({"params": params}, method="prior")
    takes = {
        "encoder": (encode, (size, *model.image_shape), jnp.float32),
        "decoder": (decode, (size, *jax.eval_shape(prior.sample, jax.random.key(0)).shape), jnp.float32),
        "sampler": (_sample_by_data, (size, 2), jnp.uint32),
    }
    with jax.default_matmul_precision("highest"):
        return {
            name: export(jax.jit(functools.partial(function, params, model=model)), platforms=PLATFORMS)(
                jax.ShapeDtypeStruct(shape, dtype)
            )
            for name, (function, shape, dtype) in takes.items()
        }


def _sample_by_data(params: Any, data: Array, *, model: Any) -> Array:
    return sample(params, jax.random.wrap_key_data(data, impl="threefry2x32"), model=model)
