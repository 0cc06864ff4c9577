"""How the posterior uses the codes of a codebook: perplexity and usage over a complete split."""

import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from vae_jax.inference import Terms
from vae_jax.training.latent_means import of_each_example


def chosen_codes(terms: Terms) -> dict[str, Array]:
    """Return the codes of the layers whose posterior is one of integer codes, for each example.

    Args:
      terms: of posterior samples, with the posteriors of the layers.

    Returns:
      `codes/NAME` int32 [B, G], of L blocks [B, L G], and `codebook/NAME` int32 [B, 2], the number of codes C and the
      number Q of codes of each place, for each layer whose posterior has the attributes of `ChosenCodes`. {} for other
      models.
    """
    found: dict[str, Array] = {}
    for latent in terms.latents:
        posterior = latent.posterior
        if hasattr(posterior, "num_codes"):
            size = jnp.array([posterior.num_codes, posterior.depth], jnp.int32)
            indices = of_each_example(posterior.indices, latent).reshape(posterior.batch_shape[-1], -1)
            found |= {f"codes/{latent.name}": indices}
            found |= {f"codebook/{latent.name}": jnp.broadcast_to(size, (indices.shape[0], 2))}
    return found


def summarize_codes(values: Mapping[str, np.ndarray], *, num_layers: int) -> dict[str, Any]:
    """Return perplexity and usage of the codes of a split, and the bits of a code.

    A perplexity over parts of a split, such as batches or devices, is smaller than that of the split, so the codes of
    all examples are counted together.

    Args:
      values: `chosen_codes` of all examples, [N, ...] each, and `kl` [N] if it is defined.
      num_layers: the number of all layers of the model.

    Returns:
      `code_perplexity`, exp(-Σ_c p_c log p_c) with the share p_c of code c in all positions; `code_usage`, the share of
      the codes that occur; and `bits_per_code`, KL / (G log 2), the mean length of a code under p(z). Of several levels
      the first two are means, and the lists `code_perplexity_by_level` and `code_usage_by_level` have an entry for each
      level of each layer. {} for a model without codes.
    """
    names = [name.removeprefix("codes/") for name in values if name.startswith("codes/")]
    perplexities, usages, total = [], [], 0
    for name in names:
        codes, (num_codes, depth) = values[f"codes/{name}"], values[f"codebook/{name}"][0]
        total += codes.shape[1]
        for level in range(depth):
            counts = np.bincount(codes[:, level::depth].reshape(-1), minlength=num_codes)
            perplexities.append(_perplexity(counts))
            usages.append(float(np.mean(counts > 0)))
    if not names:
        return {}
    result: dict[str, Any] = {
        "code_perplexity": float(np.mean(perplexities)),
        "code_usage": float(np.mean(usages)),
    }
    if len(usages) > 1:
        result |= {"code_perplexity_by_level": perplexities, "code_usage_by_level": usages}
    if "kl" in values and len(names) == num_layers:
        result["bits_per_code"] = float(values["kl"].mean(dtype=np.float64) / (total * math.log(2)))
    return result


def _perplexity(counts: np.ndarray) -> float:
    shares = counts[counts > 0] / counts.sum()
    return float(np.exp(-np.sum(shares * np.log(shares))))
