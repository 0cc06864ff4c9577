"""Preparation of the built-in datasets on disk, and the list of the available datasets."""

import contextlib
import fcntl
import http.client
import os
import shutil
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vae_jax.data.catalog import (
    BUILTIN,
    CACHE_FOLDER,
    REGISTERED,
    close_match,
    find,
    read_info,
    resolve_data_dir,
    scan,
    silence_tfds,
)
from vae_jax.data.files import one_line
from vae_jax.data.idx import read_idx_pair
from vae_jax.errors import InputError, StorageError
from vae_jax.runtime import host

TIMEOUT = 30  # seconds without a byte


def available(data_dir: str | os.PathLike | None = None) -> list[dict[str, Any]]:
    """Return the prepared datasets, the built-in ones and the registered ones, sorted by name.

    A prepared dataset with damaged or refused metadata is omitted; loading it by name reports the reason.

    Args:
      data_dir: The folder of prepared datasets; by default $TFDS_DATA_DIR or ~/tensorflow_datasets.

    Returns:
      A dict for each dataset: `name`; `version`; `prepared`, whether it can be loaded without a preparation;
      `splits`, the number of examples of each split; `shape`, [H, W, C] of an image with -1 where it varies;
      `directory`. Unknown values are None.
    """
    root = resolve_data_dir(data_dir)
    prepared = []
    for folder in scan(root):
        with contextlib.suppress(StorageError, InputError):
            prepared.append(read_info(folder, root).describe())
    on_disk = {(entry["name"], entry["version"]) for entry in prepared}
    unknown = {"prepared": False, "splits": None, "shape": None, "directory": None}
    missing = [
        {"name": name, "version": builtin.version, **unknown}
        for name, builtin in BUILTIN.items()
        if (name, builtin.version) not in on_disk
    ]
    registered = [{"name": name, "version": None, **unknown, "prepared": True} for name in REGISTERED]
    return sorted(missing + prepared + registered, key=lambda entry: entry["name"])


def prepare(
    name: str, *, source: str | os.PathLike | None = None, data_dir: str | os.PathLike | None = None
) -> dict[str, Any]:
    """Prepare a built-in dataset under `data_dir`; do nothing if it is already prepared.

    The files are written in a hidden folder, which is removed after success and after errors. The finished dataset is
    moved to its place atomically.

    Args:
      name: The name of a built-in dataset.
      source: A folder with the official archives, which is only read; by default they are downloaded.
      data_dir: The folder of prepared datasets; by default $TFDS_DATA_DIR or ~/tensorflow_datasets.

    Returns:
      The dataset's entry of `available`, and `already_prepared`.

    Raises:
      InputError: If the name is unknown, the archives are not the official ones, or the download fails.
      StorageError: If the file system refuses a write.
    """
    root = resolve_data_dir(data_dir)
    if name not in BUILTIN:
        known = sorted(BUILTIN)
        raise InputError(f"name={name!r} is not a built-in dataset{close_match(name, known)}; use {', '.join(known)}")
    if source is not None and not BUILTIN[name].archives:
        raise InputError(f"--from={str(source)!r} has no effect with {name}, which has no archives; remove it")
    target = root / name / BUILTIN[name].version
    if not (already := _is_prepared(target)):
        try:
            with _staging(root) as staging:
                if not (already := _is_prepared(target)):  # another process may have prepared it in the meantime
                    _build(name, source, staging)
                    target.parent.mkdir(exist_ok=True)
                    os.rename(staging / name / target.name, target)
        except (OSError, RuntimeError) as error:  # array_record raises RuntimeError on a full disk
            raise StorageError(
                f"data.data_dir={str(root)!r} cannot store {name} ({one_line(error)}); "
                "free space there, or use another folder"
            ) from None
    prepared = find(f"{name}:{target.name}", root)
    assert prepared is not None  # it was moved to `target`
    return prepared.describe() | {"already_prepared": already}


def _is_prepared(target: Path) -> bool:
    return (target / "dataset_info.json").exists()


@contextlib.contextmanager
def _staging(root: Path) -> Iterator[Path]:
    """Open a hidden empty folder under `root`, for one process at a time, and remove it at the end.

    While this process holds the lock, files that are already in the folder are those of a process that was killed.
    """
    staging = root / CACHE_FOLDER / "staging"
    staging.parent.mkdir(parents=True, exist_ok=True)
    with open(staging.parent / "prepare.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if staging.exists():
            shutil.rmtree(staging)
        staging.mkdir()
        try:
            yield staging
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def _build(name: str, source: str | os.PathLike | None, staging: Path) -> None:
    """Run the TFDS builder in `staging`; raise InputError if the archives are not the official ones."""
    archives = host.expand_home(os.fspath(source), "--from") if source is not None else staging / "archives"
    if BUILTIN[name].archives and source is None:
        _download(name, archives)
    where = f"--from={str(source)!r}" if source is not None else f"name={name!r}"
    _check_archives(name, archives, where)
    with silence_tfds(), _temporary_files_in(staging):
        import tensorflow_datasets as tfds
        from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError

        from vae_jax.data import builders

        tfds.disable_progress_bar()
        config = tfds.download.DownloadConfig(
            manual_dir=archives, force_checksums_validation=True, try_download_gcs=False
        )
        builder = getattr(builders, BUILTIN[name].builder)(data_dir=staging)
        try:
            builder.download_and_prepare(file_format="array_record", download_config=config)
        except NonMatchingChecksumError as error:
            wrong = [archive for pair in BUILTIN[name].archives.values() for archive in pair if archive in str(error)]
            raise InputError(
                f"{where} has a file {', '.join(wrong)} with the wrong SHA-256; download the official archive again"
            ) from None


def _download(name: str, folder: Path) -> None:
    folder.mkdir()
    for archive in (archive for pair in BUILTIN[name].archives.values() for archive in pair):
        url = BUILTIN[name].url + archive
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
                content = response.read()
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, urllib.error.HTTPError):
                error.close()
            raise InputError(
                f"name={name!r} cannot be downloaded from {url} ({one_line(error)}); try again, or download the "
                "archives yourself and pass their folder as --from"
            ) from None
        (folder / archive).write_bytes(content)  # outside of the try: a full disk is no failed download


def _check_archives(name: str, archives: Path, where: str) -> None:
    """Raise InputError with the reason if the archives are unusable; TFDS checks their SHA-256 afterwards."""
    for pair in BUILTIN[name].archives.values():
        for archive in pair:
            if not (archives / archive).is_file():
                raise InputError(f"{where} has no file {archive}; add the official archive")
        read_idx_pair(archives / pair[0], archives / pair[1], where)


@contextlib.contextmanager
def _temporary_files_in(folder: Path) -> Iterator[None]:
    """Redirect temporary files to `folder`, because TFDS creates a temporary folder and does not remove it."""
    saved, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = saved
