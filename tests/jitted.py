"""What tests call of the library as programs, as users do: one compilation, not one of each operation."""

import jax

from vae_jax import inference

_STATIC = ("model", "num_samples", "estimator")

sample_terms = jax.jit(inference.sample_terms, static_argnames=_STATIC)
negative_bound = jax.jit(inference.negative_bound, static_argnames=(*_STATIC, "objective"))
log_likelihood = jax.jit(inference.log_likelihood, static_argnames=("model", "num_samples", "chunk"))
init = jax.jit(lambda model, *arguments: model.init(*arguments), static_argnums=0)
apply = jax.jit(
    lambda model, params, *arguments, method: model.apply({"params": params}, *arguments, method=method),
    static_argnums=0,
    static_argnames="method",
)
log_prob = jax.jit(lambda density, x: density.log_prob(x))
