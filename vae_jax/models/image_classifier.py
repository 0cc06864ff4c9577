"""A convolutional classifier of images, whose features measure how samples differ from real images."""

import flax.linen as nn
import jax
from jax import Array

from vae_jax.models.conv import ConvEncoder

NUM_FEATURES = 64


class ImageClassifier(nn.Module):
    """A convolutional classifier of images.

    Attributes:
      channels: the channels of each level, from the image.
      classes: the number of classes.
    """

    channels: tuple[int, ...]
    classes: int

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        """Return features [B, 64], which are at least 0, and logits [B, classes] of images [B, H, W, C]."""
        h = ConvEncoder(self.channels, blocks=1, activation=jax.nn.relu, residual=False)(x)
        features = jax.nn.relu(nn.Dense(NUM_FEATURES)(h))
        return features, nn.Dense(self.classes)(features)
