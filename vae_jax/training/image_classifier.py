"""Training of a classifier of images, whose features measure how samples differ from real images."""

import dataclasses
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from vae_jax import random
from vae_jax.config import Config, override
from vae_jax.data import ScaleConfig
from vae_jax.distributions import Batch
from vae_jax.inference import Metrics, Params, Statistics
from vae_jax.models import ImageClassifier
from vae_jax.training.example_batches import evaluate_examples
from vae_jax.training.many_steps import train_steps
from vae_jax.training.optimizers import make_optimizer
from vae_jax.training.state import TrainState
from vae_jax.training.step import make_train_step

BATCH = 500  # images classified in one dispatch


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedClassifier:
    """A classifier of images with its parameters.

    Attributes:
      module: the network, an `ImageClassifier`.
      params: its parameters.
    """

    module: Any
    params: Params

    def features(self, images: np.ndarray) -> np.ndarray:
        """Return the features of uint8 images [N, H, W, C], float32 [N, 64], for `vae_jax.metrics.sample_metrics`."""
        return self._classify(images)["features"]

    def accuracy(self, images: np.ndarray, labels: np.ndarray) -> float:
        """Return the fraction of uint8 images [N, H, W, C] whose most probable class is their label [N]."""
        return float(np.mean(self._classify(images)["label"] == labels))

    def _classify(self, images: np.ndarray) -> dict[str, np.ndarray]:
        def classify(params: Params, keys: Array, batch: Batch) -> dict[str, Array]:
            features, logits = self.module.apply({"params": params}, ScaleConfig()(keys, batch)["x"])
            return {"features": features, "label": jnp.argmax(logits, axis=-1)}

        return evaluate_examples(jax.jit(classify), self.params, jax.random.key(0), {"x": images}, batch_size=BATCH)


def shift_images(keys: Array, images: Array, max_shift: int) -> Array:
    """Roll each image by a random offset of up to `max_shift` pixels in both directions.

    Args:
      keys: typed keys [B].
      images: [B, H, W, C].
      max_shift: the largest offset.

    Returns:
      [B, H, W, C].
    """
    offset = jax.vmap(lambda key: jax.random.randint(key, (2,), -max_shift, max_shift + 1))(keys)
    return jax.vmap(lambda image, offset: jnp.roll(image, offset, (0, 1)))(images, offset)


def train_classifier(
    images: np.ndarray,
    labels: np.ndarray,
    *,
    channels: tuple[int, ...] = (32, 64),
    steps: int = 2000,
    max_shift: int = 2,
    batch_size: int = 128,
) -> TrainedClassifier:
    """Train a classifier with cross entropy and random shifts, at the key 0.

    Args:
      images: uint8 [N, H, W, C].
      labels: integers [N], from 0.
      channels: of each level of the network; each halves height and width.
      steps: training steps.
      max_shift: images are shifted by up to so many pixels in both directions.
      batch_size: images of a step.
    """
    chex.assert_rank(images, 4)
    chex.assert_shape(labels, (len(images),))
    classifier: Any = ImageClassifier(channels, int(labels.max()) + 1)
    optimizer = make_optimizer(override(Config(), optimizer__learning_rate=2e-3, train__steps=steps))
    key, blank = jax.random.key(0), jnp.zeros((1, *images.shape[1:]))
    params = jax.jit(classifier.init)(jax.random.fold_in(key, random.INIT_STREAM), blank)["params"]
    zero = jnp.zeros((), jnp.int32)
    state = TrainState(zero, params, {}, optimizer.init(params), (), key, zero)

    def loss(
        params: Params, statistics: Statistics, keys: Array, batch: Batch, step: Array
    ) -> tuple[Array, tuple[Metrics, Statistics]]:
        del step
        x = ScaleConfig()(keys, {"x": shift_images(keys, batch["x"], max_shift)})["x"]
        _, logits = classifier.apply({"params": params}, x)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"])), ({}, statistics)

    def run(state: TrainState, data: Batch) -> TrainState:
        step = make_train_step(loss, optimizer)
        return train_steps(state, data, steps, step=step, batch_size=batch_size, max_steps=steps)[0]

    return TrainedClassifier(classifier, jax.jit(run)(state, {"x": images, "y": labels}).params)
