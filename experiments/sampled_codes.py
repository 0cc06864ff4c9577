"""The preprocessing of the second stage of M1+M2: samples of the posteriors of the first stage, new in each step."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vae_jax import random
from vae_jax.config import register
from vae_jax.data import Dataset, PreprocessConfig


@register("preprocess", "sampled-codes")
@dataclasses.dataclass(frozen=True)
class SampledCodesConfig(PreprocessConfig):
    """A mean and a standard deviation of each number, side by side, become a sample of the normal distribution."""

    kinds = ("vectors",)

    def convert(self, key: Array, x: Array) -> Array:
        """Return samples z ~ N(mean, scale²), float32 [B, D], for x = (mean, scale), [B, 2D]."""
        mean, scale = jnp.split(x.astype(jnp.float32), 2, axis=1)
        keys = random.example_keys(key, x.shape[0])
        return mean + scale * jax.vmap(lambda key: jax.random.normal(key, mean.shape[1:]))(keys)

    def mean(self, dataset: Dataset) -> np.ndarray:
        """Return the mean of each number over the data set, float32 [D]."""
        means, _ = np.split(dataset.summary.sums[0] / len(dataset), 2)
        return means.astype(np.float32)
