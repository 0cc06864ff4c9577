"""Jitted versions of the library's functions, so that a test compiles one program instead of one for each operation.

Data are an array x, which becomes the batch {"x": x}, or a batch.
"""

import functools
from collections.abc import Mapping

import jax

from vae_jax.distributions import as_variables, from_values
from vae_jax.inference import bound, likelihood
from vae_jax.models.build import init_params

_STATIC = ("model", "num_samples", "estimator")


def as_batch(x):
    return x if isinstance(x, Mapping) else {"x": x}


def _of_batch(function, *static):
    @functools.partial(jax.jit, static_argnames=static)
    @functools.wraps(function)
    def jitted(params, key, x, **settings):
        return function(params, key, as_batch(x), **settings)

    return jitted


sample_terms = _of_batch(bound.sample_terms, *_STATIC)
negative_bound = _of_batch(bound.negative_bound, *_STATIC, "objective")
loss_and_statistics = _of_batch(bound.loss_and_statistics, *_STATIC, "objective")
log_likelihood = _of_batch(likelihood.log_likelihood, "model", "num_samples", "chunk")


@functools.partial(jax.jit, static_argnums=0)
def init(model, key, x):
    """Return the variables of a latent-variable model, or of another module whose argument is x."""
    return init_params(model, key, as_batch(x)) if hasattr(model, "encode") else model.init(key, x)


@functools.partial(jax.jit, static_argnums=0, static_argnames="method")
def apply(model, params, *arguments, method):
    """Return the result of a method; `encode` receives data, and `decode` codes, an array or {name: array}.

    The result of `decode` is p(x|z) of the codes. An array holds those of the layer "z".
    """
    variables = as_variables(params)
    if method == "encode":
        (x,) = arguments
        return model.apply(variables, as_batch(x), method="encode")
    if method == "decode":
        (z,) = arguments
        values = z if isinstance(z, Mapping) else {"z": z}
        return model.apply(variables, from_values(values), method="decode")[0]
    return model.apply(variables, *arguments, method=method)


log_prob = jax.jit(lambda density, x: density.log_prob(x))
