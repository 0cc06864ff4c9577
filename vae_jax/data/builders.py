"""TFDS builders of our own, which need no TensorFlow. Importing this is slow: do it late."""

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.image_classification import mnist

from vae_jax.data import moons, splits
from vae_jax.data.catalog import BUILTIN
from vae_jax.data.files import read_idx_pair


class Mnist(mnist.MNIST, skip_registration=True):
    """The stock `mnist/3.0.1`, record for record, but written without TensorFlow."""

    name = "mnist"
    url_infos = mnist.MNIST.url_infos  # the registered SHA-256: TFDS looks beside the module, so here in vain

    def _split_generators(self, dl_manager):
        archives = BUILTIN[self.name].archives
        paths = dl_manager.download({name: self.URL + name for pair in archives.values() for name in pair})
        return {split: self._generate_examples(*(paths[n] for n in pair)) for split, pair in archives.items()}

    def _generate_examples(self, images, labels):
        from PIL import Image

        for index, (image, label) in enumerate(zip(*read_idx_pair(images, labels), strict=True)):
            yield index, {"image": Image.fromarray(image), "label": int(label)}


class Digits(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """The 1,797 handwritten digits of 8x8 pixels that come with scikit-learn, one fifth of them for testing.

    A value v = 0..16 is stored as round(255 v / 16), so that v = round(16 p / 255) gives it back exactly.
    """

    name = "digits"
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            description="Optical recognition of handwritten digits, as embedded in scikit-learn.",
            homepage="https://archive.ics.uci.edu/dataset/80",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Tensor(shape=(8, 8, 1), dtype=np.uint8),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
            ),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        del dl_manager  # nothing to download
        return {split: self._generate_examples(split) for split in ("train", "test")}

    def _generate_examples(self, split):
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = ((digits.images.astype(np.int64) * 255 + 8) // 16).astype(np.uint8)[..., None]
        order = splits.hash_order(len(images))
        held = splits.share(len(images), 0.2)
        for key, index in enumerate(np.sort(order[:held] if split == "test" else order[held:]).tolist()):
            yield key, {"image": images[index], "label": int(digits.target[index])}


class Moons(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """10,000 moons for training and 2,000 others for testing, with their true parameters; drawn, not downloaded.

    A subclass with a `name` of its own may set another `shape` (height, width) or other `phases` (`moons.draw`).
    """

    name = "moons"
    VERSION = tfds.core.Version("1.0.0")
    shape = (32, 32)
    phases = "all"

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            description="Drawings of the moon: phase, tilt, size, position and shading vary.",
            features=tfds.features.FeaturesDict(
                {"image": tfds.features.Tensor(shape=(*self.shape, 1), dtype=np.uint8)}
                | dict.fromkeys(moons.Moons._fields, np.float32)
            ),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        del dl_manager  # nothing to download
        return {"train": self._generate_examples(0, 10_000), "test": self._generate_examples(10_000, 12_000)}

    def _generate_examples(self, start, stop):
        drawn = moons.moon_parameters(np.arange(start, stop), phases=self.phases)
        images = moons.render_moons(drawn, self.shape)
        for key, (image, values) in enumerate(zip(images, zip(*drawn, strict=True), strict=True)):
            yield key, {"image": image} | dict(zip(drawn._fields, values, strict=True))


class MoonsFullHalf(Moons, skip_registration=True):
    """Full moons and half moons only."""

    name = "moons_full_half"
    phases = "full-and-half"


class MoonsGap(Moons, skip_registration=True):
    """Moons of all phases but those around three quarters."""

    name = "moons_gap"
    phases = "gap"
