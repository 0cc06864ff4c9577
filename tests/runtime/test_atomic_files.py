"""Atomic writes: a file is written completely or not at all."""

import json
import os
import stat
from pathlib import Path

import pytest

from vae_jax.errors import StorageError
from vae_jax.runtime import atomic_files


@pytest.mark.fault
def test_a_file_is_written_completely_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "result.json"
    atomic_files.write_json(path, {"a": 1})

    def fail(file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(StorageError, match=f"cannot write {path}: No space left on device"):
        atomic_files.write_file(path, fail)
    assert json.loads(path.read_text()) == {"a": 1}
    assert os.listdir(path.parent) == ["result.json"]


def test_writers_of_the_same_file_do_not_disturb_each_other(tmp_path):
    path = tmp_path / "file"

    def write_while_another_does(file):
        file.write(b"first")
        atomic_files.replace(path, lambda other: other.write(b"second"))
        assert path.read_bytes() == b"second"

    atomic_files.replace(path, write_while_another_does)
    assert path.read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["file"]


def test_a_file_is_removed_if_it_exists(tmp_path):
    path = tmp_path / "file"
    for _ in range(2):
        atomic_files.remove(path)
        assert not path.exists()
        path.touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match=f"cannot remove {tmp_path / 'folder'}: "):
        atomic_files.remove(tmp_path / "folder")


def test_a_directory_that_cannot_be_written_to_is_refused_and_nothing_is_created(tmp_path):
    atomic_files.check_writable(tmp_path / "new" / "folder")
    (tmp_path / "file").touch()
    line = f"--to={tmp_path / 'file' / 'folder'} cannot be created or written to (Not a directory)"
    with pytest.raises(StorageError) as caught:
        atomic_files.check_writable(tmp_path / "file" / "folder", "--to")
    assert str(caught.value) == line
    for name in ("a" * 300, "new/" + "a" * 300, "new/" + "ü" * 200):
        with pytest.raises(StorageError, match=r"--to=.* cannot be created or written to \(File name too long\)"):
            atomic_files.check_writable(tmp_path / name, "--to")
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.fault
def test_a_file_is_on_the_disk_before_and_after_it_gets_its_name(tmp_path, monkeypatch):
    calls, replace, fsync = [], os.replace, os.fsync

    def record_fsync(descriptor):
        calls.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "replace", lambda *paths: (calls.append("name"), replace(*paths)))
    atomic_files.write_json(tmp_path / "result.json", {"a": 1})
    assert calls == ["file", "name", "folder"]


@pytest.mark.fault
def test_a_pipe_a_device_and_nested_json_are_errors_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "nested").write_text("[" * 100_000)
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(OSError, match="it is no regular file"):
            atomic_files.read_json(path)
    with pytest.raises(ValueError, match="nested too deep"):
        atomic_files.read_json(tmp_path / "nested")
