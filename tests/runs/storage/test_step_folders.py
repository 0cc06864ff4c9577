"""Folders of steps: their names, paths that are searched literally, and paths that are refused."""

import os
from pathlib import Path

import pytest
from saved_states import CONFIG, DATA, assert_same, make_state, restore

from vae_jax.errors import InputError
from vae_jax.runs.storage.checkpoints import Checkpoints
from vae_jax.runs.storage.step_folders import check_path, list_steps, special_files

pytestmark = pytest.mark.fault

NAMES = ["[v1]", "a*b?", "$x_$", "50% #1 & {a}", "ünï 日本", "new\nline", "~user", "a:b"]
NO_STEPS = ["007", "1e3", "-5", "٣", "1٣", "9" * 30, "9" * 255, "damaged-300", "latest", "5 ", "+5", "0x5"]


def test_a_run_is_found_again_under_every_name_that_the_file_system_takes(tmp_path):
    place = tmp_path.joinpath(*NAMES, "run")  # all names in one path: each save takes a while
    with Checkpoints(place) as checkpoints:
        checkpoints.save(1, make_state(1), config=CONFIG, data=DATA)
    for directory in (place, tmp_path / "moved"):  # what was saved is complete, so it can be moved
        restored = restore(place if directory == place else place.rename(directory))
        assert (restored.step, restored.notes) == (1, [])
        assert_same(restored.state, make_state(1))


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("back\\slash/run", "contains a backslash"), (os.fsdecode(b"caf\xe9"), "is not valid UTF-8"),
        ("gs://bucket/run", "is a URL"), ("s3://bucket/run", "is a URL"), ("https://host/run", "is a URL"),
        ("/data/gs:/run", "is a URL"), ("~nosuchuser/run", "begins with ~"), ("~/run", "begins with ~"),
    ],
)  # fmt: skip
def test_a_directory_that_cannot_hold_checkpoints_is_refused_and_not_created(path, problem, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=problem):
        Checkpoints(Path(path))
    assert list(tmp_path.iterdir()) == []


def test_only_the_decimal_number_of_a_step_is_a_name_of_a_step(tmp_path):
    for name in ["0", "20", "1000", "9" * 18, *NO_STEPS]:
        (tmp_path / name).mkdir()
    assert list_steps(tmp_path) == [0, 20, 1000, 10**18 - 1]
    assert list_steps(tmp_path / "absent") == []
    check_path(tmp_path)


def test_a_folder_with_an_absurd_name_blocks_nothing(saved_run):
    for name in NO_STEPS:
        (saved_run / "checkpoints" / name).mkdir()
    with Checkpoints(saved_run) as checkpoints:
        assert checkpoints.steps() == [100, 200]
        assert checkpoints.save(300, make_state(300), config=CONFIG, data=DATA)
    assert restore(saved_run).step == 300


def test_special_files_are_found(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").touch()
    assert special_files(tmp_path) == []
    os.mkfifo(tmp_path / "folder" / "pipe")
    assert special_files(tmp_path) == [tmp_path / "folder" / "pipe"]
