"""Making the built-in data sets, and listing what there is."""

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

from vae_jax.data.catalog import BUILTIN, HIDDEN, close_match, find, quiet, read_info, resolve_data_dir, scan
from vae_jax.data.files import one_line, read_idx_pair
from vae_jax.errors import InputError, StorageError

TIMEOUT = 30  # seconds without a byte


def available(data_dir: str | os.PathLike | None = None) -> list[dict]:
    """Every prepared data set, and the built-in ones: name, version, prepared, splits, shape, directory.

    `splits` counts examples, `shape` is [H, W, C] with -1 where it varies; what is not known is None.
    """
    found = []
    for folder in scan(resolve_data_dir(data_dir)):
        with contextlib.suppress(StorageError):  # damaged metadata are reported to whoever asks for them by name
            found.append(read_info(folder).describe())
    here = {(entry["name"], entry["version"]) for entry in found}
    blank = {"prepared": False, "splits": None, "shape": None, "directory": None}
    missing = [
        {"name": name, "version": builtin.version, **blank}
        for name, builtin in BUILTIN.items()
        if (name, builtin.version) not in here
    ]
    return sorted(missing + found, key=lambda entry: entry["name"])


def prepare(name: str, *, source: str | os.PathLike | None = None, data_dir: str | os.PathLike | None = None) -> dict:
    """Makes a built-in data set under `data_dir`; one that is there is left alone.

    `source` is a folder with the official archives, which is only read; without it they are downloaded. The
    work is done in a hidden folder, removed whatever happens; the finished data set is moved to its place in one
    step. Returns its entry in `available`, and `already_prepared`. Raises InputError for an unknown name, archives
    that are not the official ones, or a failed download; StorageError where the disk refuses.
    """
    root = resolve_data_dir(data_dir)
    if name not in BUILTIN:
        allowed = sorted(BUILTIN)
        hint = close_match(name, allowed)
        raise InputError(f"data prepare {name!r}: not built in{hint}; allowed are {', '.join(allowed)}")
    if source is not None and not BUILTIN[name].archives:
        raise InputError(f"data prepare {name}: source={str(source)!r} given, but {name} takes none; leave it out")
    target = root / name / BUILTIN[name].version
    if not (already := _is_prepared(target)):
        try:
            with _staging(root) as staging:
                if not (already := _is_prepared(target)):  # another process may just have made it
                    _build(name, source, staging)
                    target.parent.mkdir(exist_ok=True)
                    os.rename(staging / name / target.name, target)
        except (OSError, RuntimeError) as error:  # array_record raises the latter where a disk is full
            raise StorageError(
                f"data.data_dir={str(root)!r}: {name} cannot be prepared there ({one_line(error)}); "
                "make room for it, or choose another folder"
            ) from None
    return find(f"{name}:{target.name}", root).describe() | {"already_prepared": already}


def _is_prepared(target: Path) -> bool:
    return (target / "dataset_info.json").exists()


@contextlib.contextmanager
def _staging(root: Path) -> Iterator[Path]:
    """A hidden empty folder under `root`, for one process at a time, removed in the end.

    Whoever holds the lock knows that what lies there was left by a process that was killed.
    """
    staging = root / HIDDEN / "staging"
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
    """Runs the TFDS builder in `staging`. Raises InputError for archives that are not the official ones."""
    archives = Path(source).expanduser() if source is not None else staging / "archives"
    if BUILTIN[name].archives and source is None:
        _download(name, archives)
    _check(name, archives)
    with quiet(), _temporary_files_in(staging):
        import tensorflow_datasets as tfds

        from vae_jax.data import builders

        tfds.disable_progress_bar()
        config = tfds.download.DownloadConfig(
            manual_dir=archives, force_checksums_validation=True, try_download_gcs=False
        )
        builder = getattr(builders, BUILTIN[name].builder)(data_dir=staging)
        try:
            builder.download_and_prepare(file_format="array_record", download_config=config)
        except tfds.download.download_manager.NonMatchingChecksumError as error:
            wrong = [archive for pair in BUILTIN[name].archives.values() for archive in pair if archive in str(error)]
            raise InputError(
                f"data prepare {name}: {', '.join(wrong)} has the wrong SHA-256; get the official archive again"
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
                f"data prepare {name}: {url} cannot be downloaded ({one_line(error)}); try again, or get the "
                "archives elsewhere and name their folder by --from"
            ) from None
        (folder / archive).write_bytes(content)  # out here, so that a full disk is not taken for a failed download


def _check(name: str, archives: Path) -> None:
    """Says in words what is wrong with the archives; TFDS checks by SHA-256 that they are official."""
    for pair in BUILTIN[name].archives.values():
        for archive in pair:
            if not (archives / archive).is_file():
                raise InputError(f"data prepare {name}: source={str(archives)!r} has no file {archive}")
        read_idx_pair(*(archives / archive for archive in pair))


@contextlib.contextmanager
def _temporary_files_in(folder: Path) -> Iterator[None]:
    """TFDS leaves an empty folder wherever temporary files go: let it be here."""
    saved, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = saved
