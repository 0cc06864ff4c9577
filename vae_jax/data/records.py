"""Images read from a prepared data set by their place, a few at a time: for data that memory cannot hold."""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np

from vae_jax.data import cache, files
from vae_jax.data.catalog import PreparedDataset, quiet
from vae_jax.errors import InputError, StorageError, VaeJaxError

RECORDS = 4096  # records read at a time, where all are read


class Summary(NamedTuple):
    """What a run needs to know of its images before it reads them."""

    fingerprint: str  # `cache.fingerprint` of all of them as one array
    sums: np.ndarray  # `pixel_sums`


@dataclasses.dataclass(frozen=True, eq=False)
class Records:
    """The images of one split of a prepared data set, in the order that `load` gives them.

    Another process can be sent them; it opens the files anew.
    """

    prepared: PreparedDataset
    part: str  # the split of the source
    indices: np.ndarray | None  # which of its examples, sorted; None: all
    cache_dir: Path

    def __len__(self) -> int:
        return self.prepared.splits[self.part] if self.indices is None else len(self.indices)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """[N, H, W, C] of all images as one array; InputError if they cannot be images, or are none."""
        return files.check_images((len(self), *self._first_shape), self._where)

    @property
    def nbytes(self) -> int:
        """Bytes of all images as one uint8 array."""
        return int(np.prod(self.shape, dtype=np.int64))

    def read(self, places: np.ndarray) -> np.ndarray:
        """The images at `places` [n], uint8 [n, H, W, C].

        Raises StorageError that names a damaged or missing file, InputError if an image is not of the first's shape.
        """
        records, feature = self._reader
        examples = places if self.indices is None else self.indices[places]
        images = np.empty((len(places), *self._first_shape), np.uint8)
        with report_damage(self.prepared, self.part):
            for image, example, record in zip(images, examples, records.__getitems__(examples.tolist()), strict=True):
                picture = feature.deserialize_example_np(record)[self._key]
                if picture.shape != image.shape:
                    raise InputError(
                        f"{self._where}: image {example} is {picture.shape}, image 0 is {image.shape}; all must agree"
                    )
                image[:] = picture
        return images

    def read_all(self) -> np.ndarray:
        """All images at once, uint8 [N, H, W, C]; InputError where memory cannot hold them."""
        files.check_memory(self.nbytes, self._where)
        images = np.empty(self.shape, np.uint8)
        for start in range(0, len(self), RECORDS):  # of whose encoded bytes only so many are held at a time
            some = images[start : start + RECORDS]
            some[:] = self.read(np.arange(start, start + len(some)))
        return images

    @functools.cached_property
    def summary(self) -> Summary:
        """Their fingerprint and sums: from the cache, else by reading all of them once."""
        selected = "" if self.indices is None else f"-{cache.fingerprint(self.indices)[:16]}"
        place = self.cache_dir / f"{quote(self.part, safe='')}-{quote(self._key, safe='')}{selected}-summary.npy"
        source = cache.stamp(self.prepared.directory)
        kept = cache.read(place, source)
        if kept is None:
            digest, sums = cache.digest(np.dtype(np.uint8), self.shape), 0
            for start in range(0, len(self), RECORDS):
                images = self.read(np.arange(start, min(start + RECORDS, len(self))))
                digest.update(images.reshape(-1))
                sums += pixel_sums(images)
            kept = np.concatenate([np.frombuffer(digest.digest(), np.uint64), sums.reshape(-1)])
            cache.write(place, kept, source)
        return Summary(kept[:4].tobytes().hex(), kept[4:].reshape(2, *self.shape[1:]))

    @property
    def _where(self) -> str:
        return f"data.name={self.prepared.full_name!r}"

    @property
    def _key(self) -> str:
        return self.prepared.image_feature()[0]

    @functools.cached_property
    def _first_shape(self) -> tuple[int, ...]:
        """The shape of the source's first image, which all others must have."""
        declared = self.prepared.image_feature()[1]
        if min(declared) > 0 or not self.prepared.splits[self.part]:
            return declared
        records, feature = self._reader
        with report_damage(self.prepared, self.part):
            return feature.deserialize_example_np(records.__getitems__([0])[0])[self._key].shape

    @functools.cached_property
    def _reader(self) -> tuple[Any, Any]:
        """(the files' records as bytes, what decodes their image)."""
        with report_damage(self.prepared, self.part), quiet():
            import tensorflow_datasets as tfds
            from array_record.python.array_record_data_source import ArrayRecordDataSource

            info = tfds.builder_from_directory(self.prepared.directory).info
            paths = [str(path) for path in info.splits[self.part].filepaths]
            records = ArrayRecordDataSource(paths)
            feature = tfds.features.FeaturesDict({self._key: info.features[self._key]})
            if len(records):  # TFDS logs once what it decodes with: now, unheard
                feature.deserialize_example_np(records.__getitems__([0])[0])
            return records, feature

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_reader"}


def pixel_sums(images: np.ndarray) -> np.ndarray:
    """uint64 [2, H, W, C] over uint8 images [N, H, W, C]: the sum of each pixel, and how often it is 128 or more."""
    return np.stack([images.sum(axis=0, dtype=np.uint64), (images >= 128).sum(axis=0, dtype=np.uint64)])


@contextlib.contextmanager
def report_damage(prepared: PreparedDataset, part: str) -> Iterator[None]:
    """Raises StorageError that names the file for whatever goes wrong in reading a split; our own errors pass."""
    try:
        yield
    except VaeJaxError:
        raise
    except Exception as error:  # TFDS, array_record and Pillow each raise kinds of their own
        raise damaged_error(prepared, part, files.one_line(error)) from None


def damaged_error(prepared: PreparedDataset, part: str, told: str) -> StorageError:
    """The error for a split that could not be read: it names the first file that is missing or damaged, if one is."""
    where = f"data.name={prepared.full_name!r}"
    found = _damaged_file(prepared, part)
    if found is None:
        return StorageError(f"{where}: cannot be read ({told})")
    return StorageError(
        f"{where}: {str(found)!r} is damaged or incomplete ({told}); remove {str(prepared.directory)!r} and "
        "prepare it again"
    )


def _damaged_file(prepared: PreparedDataset, part: str) -> Path | None:
    """The folder, if it is the metadata."""
    import tensorflow_datasets as tfds
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    try:
        with quiet():
            shards = tfds.builder_from_directory(prepared.directory).info.splits[part].filepaths
    except Exception:
        return prepared.directory
    for shard in map(Path, shards):
        try:
            records = ArrayRecordDataSource(str(shard))
            for start in range(0, len(records), RECORDS):
                records.__getitems__(range(start, min(start + RECORDS, len(records))))
        except Exception:
            return shard
    return None
