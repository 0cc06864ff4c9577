"""Atomic writes: a file is written completely or not at all."""

import json
import os

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
    assert os.listdir(tmp_path) == ["file"]
