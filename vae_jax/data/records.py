"""Examples of a prepared dataset read by position, a few at a time: for data that do not fit in memory."""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np

from vae_jax.data import cache, files, images, kinds
from vae_jax.data.catalog import PreparedDataset, damaged_dataset_error, silence_tfds
from vae_jax.data.dataset import Summary, example_spec, example_sums
from vae_jax.errors import InputError, StorageError, VaeJaxError

if TYPE_CHECKING:
    import jax

CHUNK_RECORDS, CHUNK_BYTES = 4096, 1 << 26  # records, and bytes of them, that are read at a time when all are read


@dataclasses.dataclass(frozen=True, eq=False)
class Records:
    """The images and labels of one split of a prepared dataset, in the order of `load`, read from disk on request.

    The object can be sent to another process, which opens the files again.

    Attributes:
      prepared: The prepared dataset.
      part: The split of the source.
      indices: The sorted indices of the examples in that split, int64 [N]; None for all of them.
      cache_dir: The folder of the cached summary.
      resize: Height and width to which each image is scaled and cropped, see `images.resize_pixels`; None keeps them.
      kind: "images".
      spec: Shape and dtype of one stored example: x, and y if there are labels.
      nbytes: The size of all arrays, in bytes.
      summary: Fingerprints and sums of all examples.
    """

    prepared: PreparedDataset
    part: str
    indices: np.ndarray | None
    cache_dir: Path
    resize: int | None = None
    kind: str = dataclasses.field(default="images", init=False)

    def __len__(self) -> int:
        """Return the number of examples."""
        return self.prepared.splits[self.part] if self.indices is None else len(self.indices)

    @property
    def spec(self) -> "dict[str, jax.ShapeDtypeStruct]":
        """Shape and dtype of one stored example, by the names of the arrays.

        Raises:
          InputError: If there are no images, or their shape is not that of images.
          StorageError: If the data are damaged.
        """
        return example_spec(self._examples)

    @property
    def nbytes(self) -> int:
        """The size of all arrays, in bytes."""
        return len(self) * sum(math.prod(shape) * dtype.itemsize for shape, dtype in self._examples.values())

    def read(self, positions: np.ndarray) -> dict[str, np.ndarray]:
        """Read the examples at some positions.

        Args:
          positions: Positions in the split, integers [n].

        Returns:
          {"x": uint8 [n, H, W, C]}, and "y", int32 [n], if there are labels.

        Raises:
          InputError: If an image does not have the shape of the first one.
          StorageError: If a file is damaged or missing; the message contains its path.
        """
        examples = positions if self.indices is None else self.indices[positions]
        arrays = self._empty(len(positions))
        with report_damage(self.prepared, self.part):
            encoded = self._reader[0].__getitems__(examples.tolist())
            for i, (example, record) in enumerate(zip(examples, encoded, strict=True)):
                decoded = self._decode(record)
                pixels = decoded[self._keys["x"]]
                if pixels.shape != arrays["x"].shape[1:]:
                    raise InputError(
                        f"{self._where} has images of different shapes (image {example} is {pixels.shape}, image 0 is "
                        f"{arrays['x'].shape[1:]}); set data.resize=64, which scales the shorter side to 64 pixels "
                        "and crops the centre"
                    )
                for name, key in self._keys.items():
                    arrays[name][i] = decoded[key]
        return arrays

    def read_all(self) -> dict[str, np.ndarray]:
        """Read all examples into memory.

        Returns:
          {"x": uint8 [N, H, W, C]}, and "y", int32 [N], if there are labels.

        Raises:
          InputError: If they do not fit in memory; else as `read`.
          StorageError: As `read`.
        """
        files.check_memory(self.nbytes, self._where)
        arrays = self._empty(len(self))
        for start, chunk in self._read_in_chunks():  # so that only a chunk of encoded records is in memory
            for name, values in chunk.items():
                arrays[name][start : start + len(values)] = values
        return arrays

    @property
    def summary(self) -> Summary:
        """Fingerprints and sums of all examples: from the cache, or computed once by reading all of them."""
        return self._summary

    @functools.cached_property
    def _summary(self) -> Summary:
        source = cache.file_stats(self.prepared.directory)
        cached = {name: cache.read(self._summary_path(name), source) for name in self._keys}
        values = {name: array for name, array in cached.items() if array is not None}
        if values.keys() != cached.keys():
            values = self._compute_summary()
            for name, array in values.items():
                cache.write(self._summary_path(name), array, source)
        shape, _ = self._examples["x"]
        fingerprints = {name: array[:4].tobytes().hex() for name, array in values.items()}
        return Summary(fingerprints, values["x"][4:].reshape(2, *shape))

    def _compute_summary(self) -> dict[str, np.ndarray]:
        """Return the cached arrays by name: uint64, the SHA-256 [4], and for x the sums after it, [4 + 2 H W C]."""
        hashes = {
            name: cache.start_fingerprint(dtype, (len(self), *shape)) for name, (shape, dtype) in self._examples.items()
        }
        sums = np.zeros((2, *self._examples["x"][0]), np.uint64)
        for _, chunk in self._read_in_chunks():
            for name, values in chunk.items():
                hashes[name].update(values.reshape(-1).view(np.uint8).data)
            sums += example_sums(chunk["x"])
        values = {name: np.frombuffer(running.digest(), np.uint64) for name, running in hashes.items()}
        return values | {"x": np.concatenate([values["x"], sums.reshape(-1)])}

    def _read_in_chunks(self) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        """Yield (first position, examples) for all examples."""
        size = sum(array.nbytes for array in self._empty(1).values())
        step = max(1, min(CHUNK_RECORDS, CHUNK_BYTES // size))
        for start in range(0, len(self), step):
            yield start, self.read(np.arange(start, min(start + step, len(self))))

    def _summary_path(self, name: str) -> Path:
        selected = "" if self.indices is None else f"-{cache.fingerprint(self.indices)[:16]}"
        return self.cache_path(name, f"{selected}-summary")

    def cache_path(self, name: str, ending: str = "") -> Path:
        """Return the path in `cache_dir` for an array of all examples of the source's split.

        Args:
          name: The name of the array: x or y.
          ending: The last part of the file's name.
        """
        resized = f"-{self.resize}" if self.resize and name == "x" else ""
        return self.cache_dir / f"{quote(self.part, safe='')}-{quote(self._keys[name], safe='')}{resized}{ending}.npy"

    def _empty(self, num_examples: int) -> dict[str, np.ndarray]:
        return {name: np.empty((num_examples, *shape), dtype) for name, (shape, dtype) in self._examples.items()}

    @functools.cached_property
    def _examples(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """{name: (shape, dtype) of one stored example}."""
        shape = kinds.check_shape((len(self), *self._first_shape), self.kind, self._where)
        stored = {"x": (shape[1:], np.dtype(np.uint8)), "y": ((), np.dtype(np.int32))}
        return {name: stored[name] for name in self._keys}

    @property
    def _where(self) -> str:
        return f"data.name={self.prepared.full_name!r}"

    @functools.cached_property
    def _keys(self) -> dict[str, str]:
        """{name of an array: the key of its TFDS feature}."""
        return feature_keys(self.prepared)

    @functools.cached_property
    def _first_shape(self) -> tuple[int, ...]:
        """The shape of the source's first image, which all other images must have."""
        *sides, channels = self.prepared.image_feature()[1]
        if self.resize:
            sides = [self.resize, self.resize]
        if min(*sides, channels) > 0 or not self.prepared.splits[self.part]:
            return (*sides, channels)
        with report_damage(self.prepared, self.part):
            return self._decode(self._reader[0].__getitems__([0])[0])[self._keys["x"]].shape

    def _decode(self, record: bytes) -> dict[str, Any]:
        """Return the image and the label of an encoded record. TFDS would try all decoders of Pillow for the image."""
        _, features, decoders = self._reader
        example = features.deserialize_example_np(record, decoders=decoders)
        example |= {key: images.decode_record(example[key]) for key in decoders}
        if self.resize:
            example[self._keys["x"]] = images.resize_pixels(example[self._keys["x"]], self.resize)
        return example

    @functools.cached_property
    def _reader(self) -> tuple[Any, Any, dict[str, Any]]:
        """(the encoded records, the TFDS features of image and label, the decoders of an image that is a file)."""
        with report_damage(self.prepared, self.part), silence_tfds():
            import tensorflow_datasets as tfds
            from array_record.python.array_record_data_source import ArrayRecordDataSource

            info = tfds.builder_from_directory(self.prepared.directory).info
            paths = [str(path) for path in info.splits[self.part].filepaths]
            records = ArrayRecordDataSource(paths)
            features = info.features
            assert isinstance(features, tfds.features.FeaturesDict)  # as `read_info` requires
            used = tfds.features.FeaturesDict({key: features[key] for key in self._keys.values()})
            files = [key for key, feature in used.items() if isinstance(feature, tfds.features.Image)]
            return records, used, {key: tfds.decode.SkipDecoding() for key in files}

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_reader"}


def feature_keys(prepared: PreparedDataset) -> dict[str, str]:
    """Return {"x": the key of the images of a prepared dataset}, and "y" with that of the labels, if there are any.

    Raises:
      InputError: If no feature, or more than one, can be the images.
    """
    label = prepared.label_feature()
    return {"x": prepared.image_feature()[0]} | ({} if label is None else {"y": label})


@contextlib.contextmanager
def report_damage(prepared: PreparedDataset, part: str) -> Iterator[None]:
    """Convert any error in reading a split to a StorageError that names the file; errors of this package propagate."""
    try:
        yield
    except VaeJaxError:
        raise
    except Exception as error:  # TFDS, array_record and Pillow raise many kinds of errors
        raise damaged_error(prepared, part, files.one_line(error)) from None


def damaged_error(prepared: PreparedDataset, part: str, reason: str) -> StorageError:
    """Return the error for a split that cannot be read; it names the first missing or damaged file, if there is one."""
    path = _damaged_path(prepared, part)
    if path is None:
        return StorageError(
            f"data.name={prepared.full_name!r} cannot be read ({reason}), although its files are readable; try again"
        )
    return damaged_dataset_error(prepared.full_name, prepared.directory, path, reason)


def _damaged_path(prepared: PreparedDataset, part: str) -> Path | None:
    """Return the first damaged file, or the folder if the metadata are damaged."""
    import tensorflow_datasets as tfds
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    try:
        with silence_tfds():
            shards = tfds.builder_from_directory(prepared.directory).info.splits[part].filepaths
    except Exception:
        return prepared.directory
    for shard in map(Path, shards):
        try:
            records = ArrayRecordDataSource(str(shard))
            for start in range(0, len(records), CHUNK_RECORDS):
                records.__getitems__(range(start, min(start + CHUNK_RECORDS, len(records))))
        except Exception:
            return shard
    return None
