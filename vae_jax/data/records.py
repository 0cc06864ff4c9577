"""Images of a prepared dataset read by position, a few at a time: for data that do not fit in memory."""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np

from vae_jax.data import cache, files
from vae_jax.data.catalog import PreparedDataset, damaged_dataset_error, silence_tfds
from vae_jax.errors import InputError, StorageError, VaeJaxError

CHUNK_RECORDS = 4096  # records read at a time when all are read


class Summary(NamedTuple):
    """Statistics of all images, which a run needs before it reads them.

    Attributes:
      fingerprint: `cache.fingerprint` of all images as one array.
      sums: `pixel_sums` of all images, uint64 [2, H, W, C].
    """

    fingerprint: str
    sums: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Records:
    """The images of one split of a prepared dataset, in the order of `load`, read from disk on request.

    The object can be sent to another process, which opens the files again.

    Attributes:
      prepared: The prepared dataset.
      part: The split of the source.
      indices: The sorted indices of the examples in that split, int64 [N]; None for all of them.
      cache_dir: The folder of the cached summary.
      shape: The shape of all images as one array, [N, H, W, C].
      nbytes: The size of all images as one uint8 array, in bytes.
      summary: Fingerprint and sums of all images.
    """

    prepared: PreparedDataset
    part: str
    indices: np.ndarray | None
    cache_dir: Path

    def __len__(self) -> int:
        """Return the number of images."""
        return self.prepared.splits[self.part] if self.indices is None else len(self.indices)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """The shape of all images as one array, [N, H, W, C].

        Raises:
          InputError: If there are no images, or their shape is not that of images.
          StorageError: If the data are damaged.
        """
        return files.check_images((len(self), *self._first_shape), self._where)

    @property
    def nbytes(self) -> int:
        """The size of all images as one uint8 array, in bytes."""
        return int(np.prod(self.shape, dtype=np.int64))

    def read(self, positions: np.ndarray) -> np.ndarray:
        """Read the images at some positions.

        Args:
          positions: Positions in the split, integers [n].

        Returns:
          The images, uint8 [n, H, W, C].

        Raises:
          InputError: If an image does not have the shape of the first one.
          StorageError: If a file is damaged or missing; the message contains its path.
        """
        records, feature = self._reader
        examples = positions if self.indices is None else self.indices[positions]
        images = np.empty((len(positions), *self._first_shape), np.uint8)
        with report_damage(self.prepared, self.part):
            for image, example, record in zip(images, examples, records.__getitems__(examples.tolist()), strict=True):
                pixels = feature.deserialize_example_np(record)[self._key]
                if pixels.shape != image.shape:
                    raise InputError(
                        f"{self._where} has images of different shapes (image {example} is {pixels.shape}, image 0 is "
                        f"{image.shape}); resize them to one shape"
                    )
                image[:] = pixels
        return images

    def read_all(self) -> np.ndarray:
        """Read all images into memory.

        Returns:
          The images, uint8 [N, H, W, C].

        Raises:
          InputError: If they do not fit in memory; else as `read`.
          StorageError: As `read`.
        """
        files.check_memory(self.nbytes, self._where)
        images = np.empty(self.shape, np.uint8)
        for start in range(0, len(self), CHUNK_RECORDS):  # so that only a chunk of encoded records is in memory
            chunk = images[start : start + CHUNK_RECORDS]
            chunk[:] = self.read(np.arange(start, start + len(chunk)))
        return images

    @functools.cached_property
    def summary(self) -> Summary:
        """Fingerprint and sums of all images: from the cache, or computed once by reading all of them."""
        selected = "" if self.indices is None else f"-{cache.fingerprint(self.indices)[:16]}"
        entry = self.cache_dir / f"{quote(self.part, safe='')}-{quote(self._key, safe='')}{selected}-summary.npy"
        source = cache.file_stats(self.prepared.directory)
        values = cache.read(entry, source)  # uint64 [4 + 2 H W C]: the SHA-256, and the sums
        if values is None:
            running_hash = cache.start_fingerprint(np.dtype(np.uint8), self.shape)
            sums = np.zeros((2, *self.shape[1:]), np.uint64)
            for start in range(0, len(self), CHUNK_RECORDS):
                images = self.read(np.arange(start, min(start + CHUNK_RECORDS, len(self))))
                running_hash.update(images.reshape(-1).data)
                sums += pixel_sums(images)
            values = np.concatenate([np.frombuffer(running_hash.digest(), np.uint64), sums.reshape(-1)])
            cache.write(entry, values, source)
        return Summary(values[:4].tobytes().hex(), values[4:].reshape(2, *self.shape[1:]))

    @property
    def _where(self) -> str:
        return f"data.name={self.prepared.full_name!r}"

    @property
    def _key(self) -> str:
        return self.prepared.image_feature()[0]

    @functools.cached_property
    def _first_shape(self) -> tuple[int, ...]:
        """The shape of the source's first image, which all other images must have."""
        declared = self.prepared.image_feature()[1]
        if min(declared) > 0 or not self.prepared.splits[self.part]:
            return declared
        records, feature = self._reader
        with report_damage(self.prepared, self.part):
            return feature.deserialize_example_np(records.__getitems__([0])[0])[self._key].shape

    @functools.cached_property
    def _reader(self) -> tuple[Any, Any]:
        """(the encoded records of the files, the TFDS feature that decodes their image)."""
        with report_damage(self.prepared, self.part), silence_tfds():
            import tensorflow_datasets as tfds
            from array_record.python.array_record_data_source import ArrayRecordDataSource

            info = tfds.builder_from_directory(self.prepared.directory).info
            paths = [str(path) for path in info.splits[self.part].filepaths]
            records = ArrayRecordDataSource(paths)
            features = info.features
            assert isinstance(features, tfds.features.FeaturesDict)  # as `read_info` requires
            feature = tfds.features.FeaturesDict({self._key: features[self._key]})
            if len(records):  # at its first call TFDS logs the decoder it uses: here, where logs are suppressed
                feature.deserialize_example_np(records.__getitems__([0])[0])
            return records, feature

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_reader"}


def pixel_sums(images: np.ndarray) -> np.ndarray:
    """Return, over uint8 images [N, H, W, C], the sum of each pixel and how often it is >= 128, uint64 [2, H, W, C]."""
    return np.stack([images.sum(axis=0, dtype=np.uint64), (images >= 128).sum(axis=0, dtype=np.uint64)])


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
