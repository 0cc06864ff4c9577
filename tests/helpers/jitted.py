"""Jitted versions of the library's functions, so that a test compiles one program instead of one for each operation."""

import jax

from vae_jax.inference import bound, likelihood

_STATIC = ("model", "num_samples", "estimator")

sample_terms = jax.jit(bound.sample_terms, static_argnames=_STATIC)
negative_bound = jax.jit(bound.negative_bound, static_argnames=(*_STATIC, "objective"))
log_likelihood = jax.jit(likelihood.log_likelihood, static_argnames=("model", "num_samples", "chunk"))
init = jax.jit(lambda model, *arguments: model.init(*arguments), static_argnums=0)
apply = jax.jit(
    lambda model, params, *arguments, method: model.apply({"params": params}, *arguments, method=method),
    static_argnums=0,
    static_argnames="method",
)
log_prob = jax.jit(lambda density, x: density.log_prob(x))
