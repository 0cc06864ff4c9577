"""Checks of what the methods of a user-defined model return. They read types and shapes alone, while JAX traces."""

from collections.abc import Iterable
from typing import Any

from jax import Array

from vae_jax.distributions import Latent
from vae_jax.errors import InputError

_PAIR = "return `p_x, (z,)`: the distribution p(x|z), and a tuple of the layers that `draw` has returned"


def named_layers(walk: Any) -> tuple[Any, dict[str, Latent]]:
    """Return p(x|z) and the layers by name of one walk through a model.

    Args:
      walk: the result of `model.decode`.

    Raises:
      InputError: the result is not a pair of p(x|z) and layers.
      ValueError: two layers have the same name.
    """
    if type(walk) is not tuple or len(walk) != 2:
        size = f" of {len(walk)}" if type(walk) is tuple else ""
        raise InputError(f"decode returned {type(walk).__name__}{size}; {_PAIR}")
    p_x, latents = walk
    if not isinstance(latents, tuple | list) or not all(isinstance(latent, Latent) for latent in latents):
        raise InputError(f"decode returned {_type_names(latents)} as layers; {_PAIR}")
    layers = {latent.name: latent for latent in latents}
    if len(layers) < len(latents):
        raise ValueError(f"layers are named {[latent.name for latent in latents]}; use a different name for each")
    return p_x, layers


def _type_names(latents: Any) -> str:
    """Return the type of what is no tuple of layers, with those of its entries."""
    entries = ", ".join(type(latent).__name__ for latent in latents) if isinstance(latents, tuple | list) else ""
    return f"{type(latents).__name__} of {entries}" if entries else type(latents).__name__


def log_prob_of(p_x: Any, x: Array, latents: Iterable[Latent]) -> Array:
    """Return log p(x|z), [K, B] in nats.

    Args:
      p_x: the distribution p(x|z) that `decode` has returned.
      x: the examples, [B, ...].
      latents: the layers of the same walk, whose log densities are [K, B], or [L, K, B] for a layer of L blocks.

    Raises:
      InputError: p(x|z) is no distribution, or its log density of x is not [K, B].
    """
    if not callable(getattr(p_x, "log_prob", None)):
        raise InputError(f"decode returned {type(p_x).__name__} as p(x|z), which has no method `log_prob`; return a "
                         "distribution, such as `vae_jax.Normal(loc, log_scale, event_ndims=1)`")  # fmt: skip
    log_px_z = p_x.log_prob(x)
    known = (log for latent in latents for log in (latent.log_p, latent.log_q) if log is not None)
    expected = next((log.shape[-2:] for log in known), (*log_px_z.shape[:1], x.shape[0]))
    if log_px_z.shape != expected:
        raise InputError(
            f"log_prob(x) of p(x|z), {type(p_x).__name__}, has shape {list(log_px_z.shape)} and must be [K, B], "
            f"{list(expected)}; return a distribution whose event is one example, {list(x.shape[1:])}, such as one "
            f"with event_ndims={x.ndim - 1}"
        )
    return log_px_z
