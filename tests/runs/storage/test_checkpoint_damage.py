"""Damaged checkpoints: flipped bits, missing items, and declarations that exceed the files."""

import json
import os
import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from damage import empty, step_files, truncate
from saved_states import (
    CONFIG,
    DATA,
    assert_same,
    make_state,
    remove_config,
    remove_state,
    restore,
    save_steps,
    target_of,
)

from vae_jax.errors import CheckpointError
from vae_jax.runs.storage import checkpoints as checkpoints_module
from vae_jax.runs.storage.checkpoints import Checkpoints

pytestmark = pytest.mark.fault


def test_a_flipped_bit_is_detected_or_harmless(two_steps, tmp_path, capfd):
    generator = np.random.default_rng(0)
    sizes = np.array([file.stat().st_size for file in step_files(two_steps, 200)])
    detected = 0
    for trial in range(24):
        directory = Path(shutil.copytree(two_steps, tmp_path / str(trial)))
        weights = sizes / sizes.sum() if trial % 2 else (sizes > 0) / (sizes > 0).sum()
        file = step_files(directory, 200)[generator.choice(len(sizes), p=weights)]
        content = bytearray(file.read_bytes())
        content[generator.integers(len(content))] ^= 1 << generator.integers(8)
        file.write_bytes(content)
        restored = restore(directory)
        if restored.step == 100:
            detected += 1
            assert restored.notes[0].startswith("step 200 is damaged (")
            assert restored.notes[0].endswith("; using step 100")
            assert "\n" not in restored.notes[0]
        assert_same(restored.state, make_state(restored.step))
    assert detected >= 8
    assert capfd.readouterr().err == ""


def test_a_flipped_bit_in_each_json_item_is_damage_not_another_config(saved_run, tmp_path):
    for item in ("config", "data", "history", "digests"):
        copy = Path(shutil.copytree(saved_run, tmp_path / item))
        file = copy / "checkpoints" / "200" / item / "metadata"
        content = file.read_bytes()
        digit = max(i for i, byte in enumerate(content) if chr(byte).isdigit())
        file.write_bytes(content[:digit] + bytes([content[digit] ^ 1]) + content[digit + 1 :])
        restored = restore(copy)
        assert restored.step == 100
        assert "config, data and metrics do not match their checksum" in restored.notes[0]


@pytest.mark.parametrize("damage", [truncate, remove_state, remove_config, empty])
def test_falls_back_past_damage_and_saves_that_step_again(saved_run, damage, capfd):
    damage(saved_run, 200)
    assert restore(saved_run, read_only=True).step == 100
    with Checkpoints(saved_run) as checkpoints:
        restored = checkpoints.restore(target_of(make_state()), config=CONFIG, data=DATA)
        assert (restored.step, len(restored.notes)) == (100, 1)
        assert_same(restored.state, make_state(100))
        assert checkpoints.steps() == [100]
        assert checkpoints.save(200, make_state(2), config=CONFIG, data=DATA)
    assert (saved_run / "checkpoints" / "damaged-200").is_dir()
    assert capfd.readouterr().err == ""
    again = restore(saved_run)
    assert (again.step, again.notes) == (200, [])
    assert_same(again.state, make_state(2))


def test_a_step_under_another_number_is_damaged(saved_run):
    folder = saved_run / "checkpoints"
    shutil.copytree(folder / "100", folder / "900")
    (folder / "950").touch()  # a file
    restored = restore(saved_run)
    assert restored.step == 200
    assert restored.notes[0].startswith("step 950 is damaged (")
    assert restored.notes[1] == "step 900 is damaged (it contains step 100); using step 200"
    assert_same(restored.state, make_state(200))


def test_a_step_of_another_run_is_refused(saved_run, tmp_path):
    """Its settings are equal except for the seed."""
    save_steps(tmp_path / "other", 200)
    with Checkpoints(tmp_path / "other") as checkpoints:
        checkpoints.save(300, make_state(300), config=CONFIG | {"seed": 1}, data=DATA)
    shutil.copytree(tmp_path / "other" / "checkpoints" / "300", saved_run / "checkpoints" / "300")
    with pytest.raises(
        CheckpointError, match=r"step 300 in .* belongs to another run: seed: 1 in checkpoint, absent in"
    ):
        restore(saved_run)


@pytest.mark.parametrize("content", ["1.5", "[" * 100_000, "null", None], ids=["number", "nested", "null", "pipe"])
@pytest.mark.parametrize("name", ["_CHECKPOINT_METADATA", "state/_METADATA", "digests/metadata"])
def test_json_of_another_kind_and_special_files_are_damage_or_harmless(saved_run, name, content):
    file = saved_run / "checkpoints" / "200" / name
    file.unlink()
    if content is None:
        os.mkfifo(file)
    else:
        file.write_text(content)
    restored = restore(saved_run, read_only=True)
    assert_same(restored.state, make_state(restored.step))
    if content is None:
        assert restored.notes == [f"step 200 is damaged ({file} is no regular file); using step 100"]


def test_a_reader_that_is_slower_than_the_deletions_takes_a_newer_step(saved_run, monkeypatch):
    """The process that trains saves and deletes steps while another one evaluates."""
    read, moments = Checkpoints._read, iter([(300, 400), (500, 600)])

    def overtaken(checkpoints, step, *args):
        if steps := next(moments, ()):
            with Checkpoints(saved_run, keep=1) as writer:
                for newer in steps:
                    writer.save(newer, make_state(newer), config=CONFIG, data=DATA)
            assert not (saved_run / "checkpoints" / str(step)).exists()
        return read(checkpoints, step, *args)

    monkeypatch.setattr(Checkpoints, "_read", overtaken)
    restored = restore(saved_run, read_only=True)
    assert (restored.step, restored.notes) == (600, [])
    assert_same(restored.state, make_state(600))


def test_all_damaged_names_every_step_and_changes_none(saved_run):
    truncate(saved_run, 200)
    remove_config(saved_run, 100)
    for _ in range(2):
        with pytest.raises(CheckpointError, match=r"damaged: step 200 \(.+\); step 100 \(.+\)$") as error:
            restore(saved_run)
        assert "\n" not in str(error.value)
    assert {path.name for path in (saved_run / "checkpoints").iterdir()} == {"100", "200"}


# Checkpoints from an untrusted source.


def test_more_bytes_than_the_files_can_hold_take_no_memory(tmp_path, monkeypatch):
    zeros = {"weights": jnp.zeros(1 << 24)}  # 64 MB, which compress to nearly nothing
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, zeros, config=CONFIG, data=DATA)
    target = target_of(zeros)
    assert restore(tmp_path, target).step == 1  # allowed below 1 GB
    monkeypatch.setattr(checkpoints_module, "_LARGE_STATE", 1 << 20)
    monkeypatch.setattr(Checkpoints, "_read", None)  # nothing may be read
    with pytest.raises(CheckpointError, match=r"step 1 \(declares 67108864 bytes, but its files contain \d+\)$"):
        restore(tmp_path, target)


def test_an_array_that_declares_another_shape_than_the_step_takes_no_memory(saved_run):
    import tensorstore

    state = saved_run / "checkpoints" / "200" / "state"
    store = tensorstore.KvStore.open({"driver": "ocdbt", "base": f"file://{state}/"}).result()
    (name,) = [key for key in store.list().result() if key.startswith(b"params.encoder.kernel/.z")]
    declared = json.loads(store.read(name).result().value)
    assert declared["shape"] == [16, 24]
    store.write(name, json.dumps(declared | {"shape": [1 << 20, 1 << 20]}).encode()).result()  # 4 TB
    restored = restore(saved_run)
    assert restored.step == 100
    assert "stored shape: (1048576, 1048576)" in restored.notes[0]
