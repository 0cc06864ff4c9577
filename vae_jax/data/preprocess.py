"""Preprocessing: from stored examples to the inputs of the model, inside of a training step.

Each choice is a settings class, which is called with a key and a batch.
"""

import dataclasses
from typing import TYPE_CHECKING, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from vae_jax import kernels, random
from vae_jax.config import Choice, any_of, choices, register, require, setting
from vae_jax.data.dataset import Arrays, Dataset
from vae_jax.distributions import Batch
from vae_jax.errors import InputError

if TYPE_CHECKING:
    from vae_jax.config import Config


def bernoulli_pixels(key: Array, images: Array) -> Array:
    """Return a sample of Bernoulli(pixel/255) for each uint8 pixel, as bool of the same shape [B, ...].

    A pixel is 1 if a 16-bit random integer is less than round(pixel · 65536/255). Pixels of 0 and 255 are certain, and
    every other probability is accurate to 2^-17. One 32-bit random number serves two pixels.
    """
    flat = images.reshape(images.shape[0], -1)
    keys = random.example_keys(key, flat.shape[0])
    words = random.bits(keys, (flat.shape[0], (flat.shape[1] + 1) // 2))
    halves = lax.bitcast_convert_type(words, jnp.uint16).reshape(flat.shape[0], -1)[:, : flat.shape[1]]
    threshold = (flat.astype(jnp.uint32) * 65536 + 127) // 255
    return (halves.astype(jnp.uint32) < threshold).reshape(images.shape)


def binarize_once(key: Array, images: Array) -> Array:
    """Return images with each pixel sampled once from Bernoulli(pixel/255), for static binarization.

    Args:
      key: The key of the samples.
      images: The images, uint8 [N, ...].

    Returns:
      The binarized images, uint8 [N, ...] of the values 0 and 255.
    """
    return bernoulli_pixels(key, images).astype(jnp.uint8) * 255


@dataclasses.dataclass(frozen=True)
class PreprocessConfig(Choice):
    """The base of all preprocessing.

    Attributes:
      kinds: the kinds of data that can be preprocessed.
      values: what x is afterwards: "binary", 0 or 1; "levels", multiples of 1/255 in [0, 1]; "reals"; "counts",
        integers of at least 0; "categories", one-hot. A likelihood states which of them it has a probability for.
      in_memory: whether all examples must be in memory, because `once` changes them; `once` is called only if True.
    """

    kinds: ClassVar[tuple[str, ...]] = ("images",)
    values: ClassVar[str] = "reals"
    in_memory: ClassVar[bool] = False

    def __call__(self, key: Array, batch: Batch) -> Batch:
        """Return the inputs of the model.

        Args:
          key: a typed key, or keys [B] of the examples.
          batch: stored examples, {"x": [B, ...], ...}.

        Returns:
          The batch with x as float32 [B, *shape]; the other arrays are unchanged.
        """
        return {**batch, "x": self.convert(key, batch["x"])}

    def convert(self, key: Array, x: Array) -> Array:
        """Return the inputs x of the model, float32 [B, *shape], for stored examples x, [B, ...]."""
        raise NotImplementedError

    def once(self, key: Array, arrays: Arrays) -> Arrays:
        """Return the stored examples of a split as the run uses them, changed once before training.

        Args:
          key: a typed key that depends on the seed and the split.
          arrays: {"x": [N, ...], ...}.

        Returns:
          Arrays of the same names, shapes and dtypes.
        """
        del key
        return arrays

    def mean(self, dataset: Dataset) -> np.ndarray | None:
        """Return the mean of the model's input x over a data set, and over the random numbers of the preprocessing.

        Args:
          dataset: the stored examples.

        Returns:
          float32 [*shape], in closed form; None if it is unknown.

        Raises:
          StorageError: the data set is streamed, and damaged.
        """
        del dataset
        return None

    def values_of(self, kind: str) -> str:
        """Return what x is after the preprocessing of data of a kind: `values`, if that does not depend on the kind."""
        del kind
        return self.values

    def check(self, config: "Config") -> None:
        """Raise InputError if the preprocessing cannot be used with the other settings of a config."""
        if config.data.kind != "auto":
            require(config.data.kind in self.kinds, "preprocess", self.name, _allowed(config.data.kind))
        if self.in_memory:
            others = [name for name, cls in _of_kinds(self.kinds).items() if not cls.in_memory]
            require(config.data.streaming != "always", "preprocess", self.name, any_of(others)
                    + " with data.streaming=always, since it keeps all examples in memory")  # fmt: skip

    def check_data(self, dataset: Dataset) -> None:
        """Raise InputError if the preprocessing cannot be used with a data set.

        Args:
          dataset: the stored examples.

        Raises:
          InputError: its kind or its values do not fit.
        """
        require(dataset.kind in self.kinds, "preprocess", self.name, _allowed(dataset.kind))


def _of_kinds(kinds: tuple[str, ...]) -> dict[str, type[PreprocessConfig]]:
    """Return the registered preprocessing of any of some kinds of data by name."""
    registered = {name: cls for name, cls in choices("preprocess").items() if issubclass(cls, PreprocessConfig)}
    return {name: cls for name, cls in registered.items() if set(cls.kinds) & set(kinds)}


def _allowed(kind: str) -> str:
    return f"{any_of(list(_of_kinds((kind,))))} for {kind}"


@dataclasses.dataclass(frozen=True)
class ImagePreprocess(PreprocessConfig):
    """The base of the preprocessing of images."""

    def __call__(self, key: Array, batch: Batch) -> Batch:
        """Return the inputs of the model, with x as float32 [B, H, W, C] in [0, 1].

        Args:
          key: a typed key, or keys [B] of the examples.
          batch: stored examples, {"x": uint8 [B, H, W, C], ...}.

        Raises:
          InputError: x has another dtype or rank. Floats in [0, 1] are refused, because they would be divided by 255
            again.
        """
        x = batch["x"]
        if x.dtype != jnp.uint8 or x.ndim != 4:
            raise InputError(f"images have shape {list(x.shape)} and dtype {x.dtype}; pass uint8 [N, H, W, C]")
        return super().__call__(key, batch)

    def mean(self, dataset: Dataset) -> np.ndarray:
        """Return the mean of pixel/255, float32 [H, W, C]."""
        return (dataset.summary.sums[0] / (255 * len(dataset))).astype(np.float32)


@register("preprocess", "dynamic-binarization")
@dataclasses.dataclass(frozen=True)
class DynamicBinarizationConfig(ImagePreprocess):
    """Each pixel is sampled from Bernoulli(pixel/255) whenever an image is used."""

    values = "binary"

    def convert(self, key: Array, x: Array) -> Array:
        """Return samples 0 and 1, float32 [B, H, W, C]."""
        return kernels.compute_once_binary(bernoulli_pixels(key, x).astype(jnp.float32))


@register("preprocess", "static-binarization")
@dataclasses.dataclass(frozen=True)
class StaticBinarizationConfig(ImagePreprocess):
    """Each pixel is sampled from Bernoulli(pixel/255) once before training, with the seed of the run."""

    values = "binary"
    in_memory = True

    def convert(self, key: Array, x: Array) -> Array:
        """Return 0 and 1, float32 [B, H, W, C], for the images of `once`."""
        return x.astype(jnp.float32) / 255

    def once(self, key: Array, arrays: Arrays) -> Arrays:
        """Return the arrays with the images of `binarize_once`."""
        return {**arrays, "x": np.asarray(jax.jit(binarize_once)(key, arrays["x"]))}


@register("preprocess", "threshold")
@dataclasses.dataclass(frozen=True)
class ThresholdConfig(ImagePreprocess):
    """A pixel is 1 if it is at least 128, else 0."""

    values = "binary"

    def convert(self, key: Array, x: Array) -> Array:
        """Return 0 and 1, float32 [B, H, W, C]."""
        return (x >= 128).astype(jnp.float32)

    def mean(self, dataset: Dataset) -> np.ndarray:
        """Return the fraction of images whose pixel is at least 128, float32 [H, W, C]."""
        return (dataset.summary.sums[1] / len(dataset)).astype(np.float32)


@register("preprocess", "scale")
@dataclasses.dataclass(frozen=True)
class ScaleConfig(ImagePreprocess):
    """Pixels are divided by 255."""

    values = "levels"

    def convert(self, key: Array, x: Array) -> Array:
        """Return pixel/255, float32 [B, H, W, C]."""
        return x.astype(jnp.float32) / 255


@register("preprocess", "identity")
@dataclasses.dataclass(frozen=True)
class IdentityConfig(PreprocessConfig):
    """Vectors and counts as they are stored."""

    kinds = ("vectors", "counts")
    values = "counts"  # of vectors "reals", see `values_of`

    def convert(self, key: Array, x: Array) -> Array:
        """Return the numbers as float32 [B, D]."""
        return x.astype(jnp.float32)

    def mean(self, dataset: Dataset) -> np.ndarray:
        """Return the mean of each number, float32 [D]."""
        return (dataset.summary.sums[0] / len(dataset)).astype(np.float32)

    def values_of(self, kind: str) -> str:
        """Return "counts" for counts, else "reals"."""
        return "counts" if kind == "counts" else "reals"


@register("preprocess", "log1p")
@dataclasses.dataclass(frozen=True)
class Log1pConfig(PreprocessConfig):
    """Counts n become log(1 + n)."""

    kinds = ("counts",)

    def convert(self, key: Array, x: Array) -> Array:
        """Return log(1 + n), float32 [B, D]."""
        return jnp.log1p(x.astype(jnp.float32))

    def mean(self, dataset: Dataset) -> np.ndarray:
        """Return the mean of log(1 + n), float32 [D]."""
        return np.log1p(dataset.read_all()["x"], dtype=np.float32).mean(axis=0, dtype=np.float64).astype(np.float32)


@register("preprocess", "one-hot")
@dataclasses.dataclass(frozen=True)
class OneHotConfig(PreprocessConfig):
    """Counts are the numbers of categories, and become vectors of zeros with a one at the number."""

    num_categories: int = setting(2, "Number of categories; the stored numbers are less.", minimum=2)

    kinds = ("counts",)
    values = "categories"

    def convert(self, key: Array, x: Array) -> Array:
        """Return 0 and 1, float32 [B, D, num_categories]."""
        return jax.nn.one_hot(x, self.num_categories, dtype=jnp.float32)

    def mean(self, dataset: Dataset) -> np.ndarray:
        """Return the relative frequency of each category, float32 [D, num_categories]."""
        x = dataset.read_all()["x"]
        columns = [np.bincount(column, minlength=self.num_categories) for column in x.T]
        return (np.stack(columns) / len(x)).astype(np.float32)

    def check_data(self, dataset: Dataset) -> None:
        """Raise InputError if the data are no counts, or contain a number that is no category."""
        super().check_data(dataset)
        largest = dataset.read_all()["x"].max()
        require(largest < self.num_categories, "preprocess.num_categories", self.num_categories,
                f"at least {largest + 1}, since the largest number in the data is {largest}")  # fmt: skip
