"""Saves that fail: kills, full disks, folders that cannot be created, and several processes."""

import contextlib
import shutil
import socket
import time

import pytest
from damage import full_disk
from saved_states import CONFIG, DATA, assert_same, in_subprocess, make_state, restore, save_steps

from vae_jax.errors import StorageError
from vae_jax.runs.storage import orbax_messages, step_folders
from vae_jax.runs.storage.checkpoints import Checkpoints

pytestmark = pytest.mark.fault


def test_a_directory_that_is_a_file_is_a_storage_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"cannot open .*file"):
        Checkpoints(tmp_path / "file")


@pytest.mark.parametrize("milliseconds", [0, *(pytest.param(n, marks=pytest.mark.thorough) for n in (50, 500)), 200])
def test_a_kill_during_a_save_keeps_the_earlier_steps(saved_run, milliseconds):
    folder = saved_run / "checkpoints"
    with in_subprocess("import saved_states; saved_states.save_on_a_slow_disk(sys.argv[1])", saved_run) as other:
        while not list(folder.glob("300.orbax-checkpoint-tmp*")):
            assert other.poll() is None, other.communicate()
            time.sleep(0.001)
        time.sleep(milliseconds / 1000)
        other.kill()
    assert [path.name for path in folder.iterdir() if path.name.startswith("300")] == ["300.orbax-checkpoint-tmp"]
    assert restore(saved_run, read_only=True).step == 200
    assert list(folder.glob("300*"))  # read-only access does not remove the save of another process
    restored = restore(saved_run)
    assert sorted(path.name for path in folder.iterdir()) == ["100", "200"]
    assert_same(restored.state, make_state(200))


def wait_for_save(checkpoints):
    while checkpoints._manager.is_saving_in_progress():
        time.sleep(0.01)


@pytest.mark.parametrize("freed", [False, True])
def test_a_full_disk_is_tried_twice_and_costs_no_earlier_step(saved_run, freed, capfd):
    with Checkpoints(saved_run, keep=2) as checkpoints:
        with contextlib.ExitStack() as stack:
            stack.enter_context(full_disk())
            checkpoints.save(300, make_state(300), config=CONFIG, data=DATA)
            wait_for_save(checkpoints)
            if freed:
                stack.close()  # there is room again for the second attempt
                checkpoints.check()
            else:
                with pytest.raises(StorageError, match=r"^step 300 is not saved in .*: .*File too large"):
                    checkpoints.check()
        assert checkpoints.steps() == ([200, 300] if freed else [100, 200])
        if not freed:  # the remains of the failed save do not block the next one
            checkpoints.save(400, make_state(400), config=CONFIG, data=DATA)
            checkpoints.check()
    newest = 300 if freed else 400
    assert_same(restore(saved_run).state, make_state(newest))  # opening removes what a failed save wrote late
    assert sorted(path.name for path in (saved_run / "checkpoints").iterdir()) == ["200", str(newest)]
    assert capfd.readouterr().err == ""


def test_a_folder_that_cannot_be_made_does_not_block_the_process(tmp_path):
    script = """
    import pathlib, saved_states
    saved_states.save_into_a_folder_that_is_a_file(pathlib.Path(sys.argv[1]))
    """
    with in_subprocess(script, tmp_path) as other:
        try:
            assert other.communicate(timeout=60) == ("refused\n", "")
        finally:
            other.kill()


@pytest.mark.parametrize("change", ["moved", "deleted", "replaced"])
def test_a_folder_that_is_moved_or_deleted_is_noticed_at_the_next_save(saved_run, change, tmp_path):
    with Checkpoints(saved_run) as checkpoints:
        saved_run.rename(tmp_path / "moved")
        if change == "deleted":
            shutil.rmtree(tmp_path / "moved")
        if change == "replaced":
            save_steps(saved_run, 100)
        checkpoints.save(300, make_state(300), config=CONFIG, data=DATA)
        with pytest.raises(
            StorageError, match=r"step 300 is not saved in .*: the folder was moved, replaced or deleted"
        ):
            checkpoints.check()
    if change == "moved":
        assert restore(tmp_path / "moved").step == 200
    assert saved_run.exists() == (change == "replaced")


def test_a_save_that_cannot_be_restored_is_an_error(saved_run, monkeypatch):
    """Orbax reports a save as complete whose parts it has not joined."""
    from orbax.checkpoint._src.serialization import ocdbt_utils

    async def join_nothing(*args, **kwargs):
        pass

    monkeypatch.setattr(ocdbt_utils, "merge_ocdbt_per_process_files", join_nothing)
    with Checkpoints(saved_run) as checkpoints:
        checkpoints.save(300, make_state(300), config=CONFIG, data=DATA)
        with pytest.raises(StorageError, match=r"step 300 is not saved in .*manifest\.ocdbt is missing"):
            checkpoints.wait()
    assert restore(saved_run).step == 200


def test_what_a_failed_save_writes_late_does_not_block_the_second_attempt(saved_run, monkeypatch):
    remove, start = shutil.rmtree, Checkpoints._start
    removed, remains = [], []

    def remove_too_early(path, **options):
        remove(path, **options)
        removed.append(path)
        if len(removed) == 1:
            (path / "late").mkdir(parents=True)

    def record_remains(checkpoints):
        remains.append(list(checkpoints.directory.glob("*tmp")))
        return start(checkpoints)

    with Checkpoints(saved_run, keep=2) as checkpoints:
        with full_disk():
            checkpoints.save(300, make_state(300), config=CONFIG, data=DATA)
            wait_for_save(checkpoints)
        monkeypatch.setattr(step_folders.shutil, "rmtree", remove_too_early)
        monkeypatch.setattr(Checkpoints, "_start", record_remains)
        checkpoints.check()
        assert remains == [[]]
        assert removed[0] == removed[1]
        assert checkpoints.steps() == [200, 300]


def test_an_error_of_the_file_system_is_reported_by_its_name():
    page = "Error writing local file: " + "x" * 900 + " [os_error_code='28'] [source='posix']"
    assert orbax_messages.reason(ValueError(page)) == "No space left on device"


def test_a_failed_save_does_not_hide_the_first_error(saved_run, monkeypatch):
    def train():
        with Checkpoints(saved_run) as checkpoints:
            monkeypatch.setattr(checkpoints, "_start", lambda: OSError("disk on fire"))
            checkpoints.save(300, make_state(300), config=CONFIG, data=DATA)
            with pytest.raises(StorageError, match=r"step 300 is not saved in .*: disk on fire$"):
                checkpoints.check()
            checkpoints.save(300, make_state(300), config=CONFIG, data=DATA)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as error:
        train()
    assert "disk on fire" in error.value.__notes__[0]
    assert restore(saved_run).step == 200


def test_two_processes_save_what_one_process_restores(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    script = """
    import os, pathlib
    os.environ["XLA_FLAGS"] += " --xla_force_host_platform_device_count=2"  # the last one counts
    import saved_states
    directory, rank, port = sys.argv[1:]
    saved_states.work_in_one_of_two_processes(pathlib.Path(directory), int(rank), port)
    """
    both = [in_subprocess(script, tmp_path, rank, port) for rank in (0, 1)]
    for process in both:
        out, err = process.communicate(timeout=60)
        assert out.splitlines()[-1:] == ["1 1 True"], err
    restored = restore(tmp_path)
    assert (restored.step, restored.notes) == (2, [])
    assert_same(restored.state.params, make_state(2).params)
