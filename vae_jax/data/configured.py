"""The source that the settings name: its splits are read once, and fixed from then on."""

import contextlib
import dataclasses
import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from vae_jax.config import DataConfig, validate_section
from vae_jax.data import cache, files, folders, idx, splits
from vae_jax.data.catalog import BUILTIN, REGISTERED, PreparedDataset, find, resolve_data_dir
from vae_jax.data.dataset import ArrayDataset, Dataset, LoadedParts
from vae_jax.data.duplicates import describe_duplicates, group_equal
from vae_jax.data.prepared import find_prepared, open_part, read_part
from vae_jax.data.records import Records
from vae_jax.data.source import Source, from_splits
from vae_jax.errors import InputError, NoExamplesError
from vae_jax.runtime import host

Log = Callable[[str], None]
Name = str | os.PathLike


def _silent(line: str) -> None:
    del line


@dataclasses.dataclass(frozen=True)
class ConfiguredSource:
    """The source that `data.name` names.

    A split is read when it is first used. What happens to the files later does not change it.

    Attributes:
      config: The section `data` of a config.
      log: Called with a line of progress while files are decoded.
    """

    config: DataConfig
    log: Log = dataclasses.field(default=_silent, compare=False, repr=False)
    _splits: dict[str, ArrayDataset] = dataclasses.field(default_factory=dict, init=False, compare=False, repr=False)
    _sizes: dict[str, int] = dataclasses.field(default_factory=dict, init=False, compare=False, repr=False)
    _files: dict[Path, cache.FileStats] = dataclasses.field(default_factory=dict, init=False, compare=False, repr=False)
    _notes: list[str] = dataclasses.field(default_factory=list, init=False, compare=False, repr=False)

    @property
    def name(self) -> str:
        """The value of `data.name`."""
        return self.config.name

    @property
    def image_folder(self) -> Path | None:
        """The folder of which every image is an example; None if the source is another one."""
        path = self._path
        return path if path is not None and path.is_dir() and not idx.find_archives(path) else None

    def split(self, split: str) -> ArrayDataset:
        """Return the examples of a split in memory, in the order of the source.

        Args:
          split: train, validation or test.

        Returns:
          The examples: x, and y and mask if the source has them.

        Raises:
          InputError: If a setting or the data cannot be used, or the data do not fit in memory.
          NoExamplesError: If the split is empty: the source does not have it, and `holdout` leaves nothing for it.
          StorageError: If the data are damaged.
        """
        splits.check(split, self.config.holdout)
        if split not in self._splits:
            if self._sizes:
                splits.select(self._sizes, split, self.config.holdout)  # raises if nothing is left for it
            self._read_records(split) if self._is_streamed else self._read(split)
        if splits.too_few(self._sizes) and (split != "train" or self.config.holdout > 0):
            self._note_too_few()
        return self._splits[split]

    def training(self) -> Dataset:
        """Return what training reads: the examples of the train split in memory, or the records that are streamed.

        With `data.streaming=auto` a prepared dataset is streamed if its training examples would fill more than half of
        the available memory.

        Raises:
          InputError: As `split`; or if `data.streaming=always` and the data set is not prepared on disk.
          StorageError: If the data are damaged.
        """
        splits.check("train", self.config.holdout)
        return self._open_records("train") if self._is_streamed else self.split("train")

    def records(self, split: str) -> Records | None:
        """Return the examples of `split` as records, which are read by position.

        Args:
          split: train, validation or test.

        Returns:
          The records; None if the data set is not prepared on disk, but a path or registered.

        Raises:
          InputError: As `split`, except for errors that are found only when the images are read.
          NoExamplesError: As `split`.
          StorageError: If the metadata are damaged.
        """
        splits.check(split, self.config.holdout)
        if not self._is_prepared:
            return None
        self._check_kind("images")
        return self._open_records(split)

    def notes(self) -> list[str]:
        """Return lines about the splits that are read: files that are left out, and examples in two splits."""
        found = {split: self._splits[split] for split in splits.SPLITS if split in self._splits}
        return self._notes + describe_duplicates(found, self.name)

    def changed_files(self) -> str | None:
        """Return a line about the files that have changed since the splits were read; None if none has."""
        before, after = ({name: stats for path, files in found.items() for name, *stats in files} for found in (
            self._files, {path: _file_stats(path) for path in self._files}))  # fmt: skip
        added, removed = after.keys() - before.keys(), before.keys() - after.keys()
        changed = [name for name in after.keys() & before.keys() if after[name] != before[name]]
        if not (added or removed or changed):
            return None
        return (
            f"data.name={self.name!r}: {len(added)} file(s) were added, {len(removed)} removed and {len(changed)} "
            "changed since the start; the results are for the examples as they were at the start"
        )

    def _read(self, split: str) -> None:
        """Read the part of the source that contains a split, and divide it into the splits that come from it."""
        sizes, parts = self._load(split)
        groups = None
        if self.config.duplicates == "together" and "train" in parts:
            groups = group_equal(parts["train"].arrays["x"])
        firsts = {part: splits.first_index(part, sizes) for part in parts}
        complete = {part: data.select(None, first_index=firsts[part]) for part, data in parts.items()}
        for name in splits.SPLITS:
            with contextlib.suppress(NoExamplesError):
                part, indices = splits.select(sizes, name, self.config.holdout, groups)
                if part not in parts:
                    continue
                selected = complete[part]
                if indices is not None:
                    selected = parts[part].select(indices, first_index=firsts[part])
                self._splits[name] = selected
        self._sizes.update(sizes)
        if split not in self._splits:
            splits.select(sizes, split, self.config.holdout, groups)  # raises

    def _read_records(self, split: str) -> None:
        """Read a split of streamed data: the training examples need not fit in memory to read another one."""
        records = self._open_records(split)
        index = np.arange(len(records)) if records.indices is None else records.indices
        origin = {"index": splits.first_index(records.part, records.prepared.splits) + index}
        self._splits[split] = ArrayDataset(records.read_all(), "images", origin)

    def _load(self, split: str) -> tuple[Mapping[str, int], Mapping[str, ArrayDataset]]:
        """Return the sizes of all parts of the source, and the examples of at least the part that contains a split."""
        self._check_resize()
        if self._is_prepared:
            self._check_kind("images")
            prepared = self._find_prepared()
            part, _ = splits.select(prepared.splits, split, self.config.holdout)
            return prepared.splits, {part: ArrayDataset(read_part(prepared, self.config, part), "images")}
        parts, notes = self._load_all()
        sizes = {part: len(dataset) for part, dataset in parts.items()}
        self._notes.extend(notes)
        return sizes, parts

    def _note_too_few(self) -> None:
        missing = " and ".join(part for part in splits.SPLITS if part not in self._sizes)
        note = (
            f"data.name={self.name!r}: {self._sizes['train']} training example(s) are too few to hold out others, so "
            f"the examples of {missing} are the training examples"
        )
        if note not in self._notes:
            self._notes.append(note)

    def _load_all(self) -> LoadedParts:
        """Return all parts of a registered data set, a file or a folder."""
        if self.name in REGISTERED:
            source = from_splits(REGISTERED[self.name](), kind=self.config.kind, holdout=self.config.holdout,
                                 name=self.name, where=f"data.name={self.name!r} ")  # fmt: skip
            return LoadedParts({part: ArrayDataset(arrays, source.kind) for part, arrays in source.parts.items()}, ())
        path = self._path
        assert path is not None, "it is not prepared"
        self._files[path] = _file_stats(path)
        if path.is_dir() or idx.is_archive(path):
            loaded = idx.load_archives(path) or folders.load_folder(path, resize=self.config.resize, log=self.log)
        else:
            loaded = files.load_file(path, self.config.kind)
        self._check_kind(loaded.parts["train"].kind)
        return loaded

    def _open_records(self, split: str) -> Records:
        prepared = self._find_prepared()
        part, indices = splits.select(prepared.splits, split, self.config.holdout)
        return open_part(prepared, self.config, part, indices)

    def _find_prepared(self) -> PreparedDataset:
        prepared = find_prepared(self.config)
        if prepared.directory not in self._files:
            self._files[prepared.directory] = _file_stats(prepared.directory)
        return prepared

    @functools.cached_property
    def _is_streamed(self) -> bool:
        """Whether training streams its examples from disk; raises InputError if it must and cannot."""
        if self.config.streaming == "never":
            return False
        always = self.config.streaming == "always"
        if always and self.config.duplicates == "together":
            raise InputError("data.duplicates=together does not work with data.streaming=always, since it compares all "
                             "examples in memory; use auto or never")  # fmt: skip
        records = self.records("train")
        if records is None:
            if always:
                raise InputError(
                    f"data.streaming=always does not work with data.name={self.name!r}, which is "
                    f"{'registered' if self.name in REGISTERED else 'a path'}; use auto or never, or a dataset "
                    "prepared as array_record"
                )
            return False
        available = host.available_memory()
        large = available is not None and records.nbytes > available // 2
        return always or (large and self.config.duplicates == "report")

    def _check_kind(self, kind: str) -> None:
        if self.config.kind not in ("auto", kind):
            raise InputError(f"data.kind={self.config.kind} does not work with data.name={self.name!r}, which contains "
                             f"{kind}; use auto or {kind}")  # fmt: skip

    def _check_resize(self) -> None:
        if self.config.resize is not None and not can_resize(self.name, self.config.data_dir):
            raise InputError(f"data.resize={self.config.resize} has no effect on data.name={self.name!r}, which is no "
                             "folder of images and no prepared dataset; remove it")  # fmt: skip

    @property
    def _is_prepared(self) -> bool:
        """Whether the source is a dataset that TFDS has prepared, or an unknown name."""
        return self.name not in REGISTERED and self._path is None

    @functools.cached_property
    def _path(self) -> Path | None:
        return as_path(self.name, self.config.data_dir)


def _file_stats(path: Path) -> cache.FileStats:
    """Return name, size and modification time of a file, or of the files of a folder; empty if they cannot be read."""
    with contextlib.suppress(OSError):
        names = folders.walk(path) if path.is_dir() else [""]
        return [[name, stat.st_size, stat.st_mtime_ns] for name in names for stat in [os.stat(path / name)]]
    return []


def open_source(config: DataConfig | str, *, log: Log = _silent) -> Source:
    """Return the source that a config names. Nothing is read before it is used.

    Args:
      config: The section `data` of a config, or only its `name`.
      log: Called with a line of progress while files are decoded.

    Returns:
      The source.

    Raises:
      InputError: A setting has the wrong type or is out of range.
    """
    config = DataConfig(name=config) if isinstance(config, str) else config
    validate_section("data", config)
    return ConfiguredSource(config, log)


def as_path(name: str, data_dir: Name | None) -> Path | None:
    """Return the path if `name` is one; None if it is the name of a dataset, known or unknown.

    Raises:
      InputError: If `name` is a path that cannot be used.
    """
    path = host.expand_home(name, "data.name")
    if _is_file(path):
        return path
    if os.path.isabs(path) or name.startswith("."):
        if not path.is_dir():
            raise InputError(f"data.name={name!r} is not a folder; use an existing folder, or a .npy or .npz file")
        return path
    known = name in REGISTERED or name in BUILTIN or find(name, resolve_data_dir(data_dir)) is not None
    return path if name and not known and path.is_dir() else None


def can_resize(name: str, data_dir: Name | None = None) -> bool:
    """Return whether `data.resize` has an effect: on a folder of images and a prepared dataset, whose images are files.

    Args:
      name: The setting `data.name`.
      data_dir: The setting `data.data_dir`.

    Raises:
      InputError: If it is a path that cannot be used.
    """
    if name in REGISTERED:
        return False
    path = as_path(name, data_dir)
    return path is None or not (_is_file(path) or idx.find_archives(path))


def _is_file(path: Path) -> bool:
    return path.suffix.lower() in (".npy", ".npz") or idx.is_archive(path)
