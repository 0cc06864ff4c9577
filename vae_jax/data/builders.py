"""TFDS builders of the built-in datasets, without TensorFlow. Importing this module is slow, so import it late."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.image_classification import mnist

from vae_jax.data import moons, splits, sprites
from vae_jax.data.catalog import BUILTIN
from vae_jax.data.idx import read_idx_pair

Examples = Iterator[tuple[int, dict[str, Any]]]  # (key, features) of each example


class Mnist(mnist.MNIST, skip_registration=True):
    """MNIST with the same records as TFDS's `mnist/3.0.1`, written without TensorFlow."""

    name = "mnist"
    # TFDS looks for the registered SHA-256 values in the folder of the builder's module, where this package has none.
    url_infos = mnist.MNIST.url_infos

    def _split_generators(self, dl_manager):  # pyright: ignore[reportIncompatibleMethodOverride]  # a dict is allowed
        archives = BUILTIN["mnist"].archives
        paths = dl_manager.download({name: self.URL + name for pair in archives.values() for name in pair})
        return {split: self._generate_examples(*(paths[n] for n in pair)) for split, pair in archives.items()}

    def _generate_examples(  # pyright: ignore[reportIncompatibleMethodOverride]  # only `_split_generators` calls it
        self, images: str, labels: str
    ) -> Examples:
        from PIL import Image

        pairs = read_idx_pair(Path(images), Path(labels), "name='mnist'")
        for index, (image, label) in enumerate(zip(*pairs, strict=True)):
            yield index, {"image": Image.fromarray(image), "label": int(label)}


class Digits(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """The 1,797 handwritten digits of 8x8 pixels included in scikit-learn; one fifth of them is the test split.

    A value v = 0..16 is stored as p = round(255 v / 16), so v = round(16 p / 255) restores it exactly.
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

    def _generate_examples(self, split) -> Examples:
        from sklearn.datasets import load_digits
        from sklearn.utils import Bunch

        digits = cast(Bunch, load_digits())
        images = ((digits.images.astype(np.int64) * 255 + 8) // 16).astype(np.uint8)[..., None]
        order = splits.hash_order(len(images))
        num_test = splits.num_held_out(len(images), 0.2)
        indices = order[:num_test] if split == "test" else order[num_test:]
        for key, index in enumerate(np.sort(indices).tolist()):
            yield key, {"image": images[index], "label": int(digits.target[index])}


class Moons(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """10,000 rendered moons for training and 2,000 different ones for testing, with their true parameters.

    A subclass with a different `name` can set a different image `shape` (height, width) or different `phases`
    (see `moons.moon_parameters`). Nothing is downloaded.
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

    def _generate_examples(self, start, stop) -> Examples:
        parameters = moons.moon_parameters(np.arange(start, stop), phases=self.phases)
        images = moons.render_moons(parameters, self.shape)
        for key, (image, values) in enumerate(zip(images, zip(*parameters, strict=True), strict=True)):
            yield key, {"image": image} | dict(zip(parameters._fields, values, strict=True))


class MoonsFullHalf(Moons, skip_registration=True):
    """Full moons and half moons only."""

    name = "moons_full_half"
    phases = "full-and-half"


class MoonsGap(Moons, skip_registration=True):
    """Moons of all phases except those around three quarters."""

    name = "moons_gap"
    phases = "gap"


class Sprites(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """All combinations of the factors of `vae_jax.data.sprites` as binary images, in the order of their numbers.

    The label is the shape, and each other factor is a feature. There is one split, train. A subclass
    with a different `name` can set a different image `shape` (height, width) or other `numbers`. Nothing is downloaded.
    """

    name = "sprites"
    VERSION = tfds.core.Version("1.0.0")
    shape = (32, 32)
    numbers = np.arange(sprites.NUM_SPRITES)

    def _info(self):
        others = sprites.Sprites._fields[1:]
        return tfds.core.DatasetInfo(
            builder=self,
            description="Squares, ellipses and hearts of all sizes, rotations and positions on a grid.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Tensor(shape=(*self.shape, 1), dtype=np.uint8),
                    "label": tfds.features.ClassLabel(names=["square", "ellipse", "heart"]),
                }
                | dict.fromkeys(others, np.int32)
            ),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        del dl_manager  # nothing to download
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Examples:
        for start in range(0, len(self.numbers), 1000):
            numbers = self.numbers[start : start + 1000]
            factors = sprites.sprite_factors(numbers)
            images = sprites.render_sprites(factors, self.shape)
            for key, image, label, *others in zip(numbers.tolist(), images, *factors, strict=True):
                yield key, {"image": image, "label": int(label)} | dict(zip(factors._fields[1:], others, strict=True))
