"""Opening and preparing a run: what is checked, and that nothing is written."""

import numpy as np
import pytest

from vae_jax.config import override
from vae_jax.errors import InputError, StorageError
from vae_jax.runs import check_images, open_run, prepare_run, require_in_memory, write_config


def test_preparing_writes_nothing(small, tmp_path):
    prepare_run(small(), tmp_path / "deep" / "run")
    assert list(tmp_path.iterdir()) == []


def test_an_opened_run_uses_as_many_devices_as_there_are(small, tmp_path):
    run, _ = prepare_run(small(train__batch_size=16, mesh__data=2, mesh__fsdp=4), tmp_path / "run")
    assert run.mesh.size == 8
    write_config(run)
    opened = open_run(tmp_path / "run")
    assert (opened.config, opened.data) == (run.config, run.data)
    assert opened.mesh.size == 8


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train__batch_size": 15, "mesh__data": 4}, r"^train\.batch_size=15 must be a multiple of "),
        (
            {"train__batch_size": 12, "train__microbatches": 2, "mesh__data": 4},
            r"^train\.batch_size / train\.microbatches=6 must be a multiple of ",
        ),
        ({"train__batch_size": 4000}, r"^train\.batch_size=4000 must be at most the 1,?294 training images"),
        ({"data__name": "digitz"}, r"^data\.name='digitz'"),
    ],
)
def test_a_config_that_does_not_fit_the_data_or_the_devices_is_refused(small, tmp_path, settings, message):
    with pytest.raises(InputError, match=message):
        prepare_run(small(**settings), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.fault
def test_a_directory_that_cannot_be_written_is_refused(small, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError):
        prepare_run(small(), tmp_path / "file")


def test_a_streamed_run_is_reported_and_needs_no_memory_for_all_images(small, tmp_path):
    lines = []
    config = small(data__streaming="always")
    run, images = prepare_run(config, tmp_path / "run", log=lines.append)
    assert run.streamed
    assert len(lines) == 1
    assert f"{len(images):,} images" in lines[0]
    with pytest.raises(InputError, match=r"^data\.streaming=always does not work with a sweep"):
        require_in_memory(run, images, "a sweep")
    run, images = prepare_run(override(config, data__streaming="never"), tmp_path / "run", log=lines.append)
    assert not run.streamed
    assert len(lines) == 1
    assert require_in_memory(run, images, "a sweep") is images


@pytest.mark.fault
def test_images_that_changed_or_moved_are_refused_with_the_command_to_continue(small, tmp_path):
    path, noise = tmp_path / "images.npz", np.random.default_rng(0)
    np.savez(path, images=noise.integers(0, 256, (60, 6, 5), dtype=np.uint8))
    run, _ = prepare_run(small(data__name=str(path)), tmp_path / "run")
    check_images(run)
    np.savez(path, images=noise.integers(0, 256, (60, 6, 5), dtype=np.uint8))
    with pytest.raises(InputError, match=r"--allow-change data\.name") as caught:
        check_images(run)
    assert "\n" not in str(caught.value)
    path.unlink()
    with pytest.raises(InputError, match=r"--data\.name NAME") as caught:
        check_images(run)
    assert "\n" not in str(caught.value)
