"""Functions of `vae_jax.inference` as programs, as users have them: one compilation, not one of each operation."""

import jax

from vae_jax import inference

_STATIC = ("model", "num_samples", "estimator")

sample_terms = jax.jit(inference.sample_terms, static_argnames=_STATIC)
negative_bound = jax.jit(inference.negative_bound, static_argnames=(*_STATIC, "objective"))
log_likelihood = jax.jit(inference.log_likelihood, static_argnames=("model", "num_samples", "chunk"))


def init(model, *arguments):
    """model.init(*arguments), as a program."""
    return jax.jit(model.init)(*arguments)
