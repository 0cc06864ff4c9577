"""Streaming: the same batches, numbers and errors as from memory, whoever reads them and wherever a run goes on."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from damage import damage_unseen

from vae_jax.bench import plan
from vae_jax.config.building import override
from vae_jax.data import dataset, records, streaming
from vae_jax.data.cache import fingerprint
from vae_jax.data.loading import load, open_records
from vae_jax.data.order import BatchOrder, batch_indices
from vae_jax.data.preprocess import mean_image
from vae_jax.data.records import Records
from vae_jax.errors import InputError, StorageError
from vae_jax.runs import opening, recorder, train_loop
from vae_jax.runtime import host, sharding


@pytest.fixture
def damaged(data_dir, tmp_path):
    """A data set that was looked through once, and one bit of which has flipped since: (folder, file)."""
    folder = tmp_path / "data"
    shutil.copytree(Path(data_dir) / "digits", folder / "digits")
    assert open_records("digits", "train", data_dir=folder).summary
    (shard,) = folder.rglob("*-train.array_record-*")
    damage_unseen(shard)
    return str(folder), str(shard)


@pytest.mark.parametrize(("num_examples", "batch_size"), [(5, 5), (7, 3), (1437, 100), (4097, 64)])
def test_the_order_on_the_host_is_that_of_the_device(num_examples, batch_size):
    key, steps = jax.random.key(3), range(17, 80)
    order = BatchOrder(key, steps, num_examples=num_examples, batch_size=batch_size)
    of_device = jax.jit(jax.vmap(lambda s: batch_indices(key, s, num_examples=num_examples, batch_size=batch_size)))
    found = np.stack([order(step, np.arange(batch_size)) for step in steps])
    np.testing.assert_array_equal(found, of_device(np.asarray(steps)))
    rows = np.asarray([0, batch_size - 1])
    np.testing.assert_array_equal(order(40, rows), found[40 - 17][rows])


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_records_are_the_images_that_memory_would_hold(data_dir, split):
    found, expected = (read("digits", split, data_dir=data_dir) for read in (open_records, load))
    assert (found.shape, found.nbytes) == (expected.shape, expected.nbytes)
    places = np.asarray([3, 0, 3, len(expected) - 1])
    np.testing.assert_array_equal(found.read(places), expected[places])
    assert found.summary.fingerprint == fingerprint(expected)
    for binarization in ("none", "threshold"):
        of_records, of_array = (mean_image(images, binarization=binarization) for images in (found, expected))
        np.testing.assert_array_equal(of_records, of_array)
        bright = expected >= 128 if binarization == "threshold" else expected / 255
        np.testing.assert_allclose(of_records, bright.mean(axis=0), atol=1e-7)


def test_all_records_are_looked_through_once(digits_copy, monkeypatch):
    def summary():
        return open_records("digits", "train", data_dir=digits_copy).summary

    first = summary()
    monkeypatch.setattr(records, "pixel_sums", None)
    second = summary()
    assert second.fingerprint == first.fingerprint
    np.testing.assert_array_equal(second.sums, first.sums)


@pytest.fixture
def digits_copy(data_dir, tmp_path):
    shutil.copytree(Path(data_dir) / "digits", tmp_path / "data" / "digits")
    return str(tmp_path / "data")


def trained(config, directory):
    """(leaves of the state, metrics.jsonl) of a finished training."""
    run, images = opening.prepare_run(config, directory)
    assert run.streamed == (config.data.streaming == "always")
    state = train_loop.fit(run, images).state
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(state._replace(key=jax.random.key_data(state.key)))]
    return leaves, (Path(directory) / recorder.METRICS_FILE).read_text()


@pytest.mark.parametrize(
    "settings",
    [
        {"train__evaluate_every": 5},
        {"data__workers": 2, "data__binarization": "dynamic", "model__likelihood": "bernoulli"},
        {"mesh__data": 2, "mesh__fsdp": 2, "train__microbatches": 2},
    ],
    ids=["threads", "processes", "devices and parts"],
)
def test_a_streamed_run_is_that_of_memory_bit_for_bit(small, tmp_path, settings):
    """Over more than an epoch, with a last dispatch that is shorter."""
    config = small(train__steps=23, train__batch_size=128, data__streaming="always", **settings)
    found = trained(config, tmp_path / "streamed")
    expected = trained(override(config, data__streaming="never", data__workers=0), tmp_path / "held")
    assert len(found[0]) == len(expected[0])
    for one, other in zip(found[0], expected[0], strict=True):
        np.testing.assert_array_equal(one, other)
    assert found[1] == expected[1]
    assert found[1].count('"bound"') == 5


@pytest.mark.fault
def test_a_streamed_run_goes_on_from_any_step_and_either_way(small, tmp_path):
    """Streamed, interrupted, streamed on, interrupted, ended from memory: as the run that was left alone."""
    streamed = small(train__steps=30, train__save_every=5, data__streaming="always")
    held = override(streamed, data__streaming="never")
    expected = trained(held, tmp_path / "alone")
    for step in (10, 15):
        run, images = opening.prepare_run(streamed, tmp_path / "run")
        asked = iter(range(100))
        outcome = train_loop.fit(
            run, images, stop=lambda asked=asked, step=step: next(asked) == (2 if step == 10 else 1)
        )
        assert (outcome.status, outcome.step) == ("interrupted", step)
    found = trained(held, tmp_path / "run")
    for one, other in zip(found[0], expected[0], strict=True):
        np.testing.assert_array_equal(one, other)
    assert found[1] == expected[1]


def test_images_are_streamed_where_they_would_fill_half_of_the_memory(small, monkeypatch, tmp_path):
    config = small()
    size = dataset.training_images(config).nbytes
    for room, streams in ((2 * size, False), (2 * size - 2, True), (None, False)):
        monkeypatch.setattr(host, "available_memory", lambda room=room: room)
        monkeypatch.setattr(plan.machine, "memory_limit", lambda sharers: None)
        run, images = opening.prepare_run(config, tmp_path / "run")
        assert run.streamed == isinstance(images, Records) == streams
        if room is not None:
            validation = run.images("validation")  # held out of the same records
            np.testing.assert_array_equal(validation, load("digits", "validation", data_dir=config.data.data_dir))
    monkeypatch.setattr(host, "available_memory", lambda: 2 * size - 2)
    assert not opening.prepare_run(override(config, data__streaming="never"), tmp_path / "run")[0].streamed
    kept = override(config, data__binarization="static", model__likelihood="bernoulli")
    assert not opening.prepare_run(kept, tmp_path / "run")[0].streamed


def test_a_streamed_run_needs_the_memory_of_two_dispatches_of_images(small, tmp_path):
    config = small(train__log_every=2, mesh__data=4)
    needed = {}
    for streaming_of in ("always", "never"):
        run, _ = opening.prepare_run(override(config, data__streaming=streaming_of), tmp_path / streaming_of)
        needed[streaming_of] = plan.memory_lower_bound(run)
    assert needed["never"] - needed["always"] == 1294 * 64 - 2 * (2 * 16 * 64 // 4)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"data__binarization": "static", "model__likelihood": "bernoulli"}, "binarization=static must be"),
        ({"data__streaming": "never", "data__workers": 2}, "data.workers=2 must be 0 where"),
        ({"data__workers": -1}, "data.workers=-1 must be 0 or more"),
        ({"data__name": "images.npy"}, "data.streaming=always must be auto or never where data.name is a path"),
    ],
)
def test_what_cannot_be_streamed_is_refused(small, tmp_path, monkeypatch, settings, line):
    monkeypatch.chdir(tmp_path)
    np.save("images.npy", np.zeros((40, 8, 8), np.uint8))
    with pytest.raises(InputError, match=line):
        opening.prepare_run(small(**{"data__streaming": "always"} | settings), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", ["sweep", "bench"])
def test_what_needs_all_images_at_hand_refuses_a_streamed_run(call, data_dir, tmp_path, command):
    argv = ["--data.data-dir", data_dir, "--data.streaming", "always", "--workdir", tmp_path / "out"]
    called = call(command, *argv, *(["--vary", "seed=0,1"] if command == "sweep" else []))
    assert (called.code, len(called.err)) == (2, 1 + (command == "sweep"))
    assert "data.streaming: always given, " in called.err[-1]


def test_each_process_holds_the_rows_of_its_devices(monkeypatch):
    """Of a process with the devices 2, 3, 6 and 7 of 8."""
    mesh = sharding.make_mesh(4, 2)
    spread = sharding.batch_sharding(mesh)
    own = {d: i for d, i in spread.addressable_devices_indices_map((16,)).items() if d.id in (2, 3, 6, 7)}
    monkeypatch.setattr(type(spread), "addressable_devices_indices_map", lambda *_: own)
    rows = sharding.local_rows(mesh, 16)
    assert rows.tolist() == [4, 5, 6, 7, 12, 13, 14, 15]
    asked = {}
    monkeypatch.setattr(jax, "make_array_from_callback", lambda shape, _, part: asked.update(part=part, shape=shape))
    local = np.arange(3 * 8).reshape(3, 8)
    sharding.rows_to_global_array(local, sharding.steps_sharding(mesh), (3, 16), rows)
    np.testing.assert_array_equal(asked["part"]((slice(None), slice(12, 14))), local[:, 4:6])


@pytest.mark.fault
@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_is_damaged_under_a_streamed_run_is_named(small, damaged, tmp_path, call, workers):
    folder, shard = damaged
    argv = ["--workdir", tmp_path / "run", "--data.data-dir", folder, "--data.streaming", "always"]
    argv += ["--data.workers", workers, "--train.steps", 40, "--train.batch-size", 8, "--train.log-every", 1]
    argv += ["--train.save-every", 1, "--train.evaluate-every", 0, "--model.hidden", 8]
    called = call("train", *argv, "--compilation-cache", "None")
    assert called.code == 5
    assert called.err[-1].startswith(f"vae-jax: data.name='digits': {shard!r} is damaged or incomplete (")
    assert "prepare it again" in called.err[-1]


@pytest.mark.fault
def test_a_reader_that_is_killed_ends_the_stream_in_one_line(data_dir):
    records, steps = open_records("digits", "train", data_dir=data_dir), range(20_000)
    order = BatchOrder(jax.random.key(0), steps, num_examples=len(records), batch_size=64)
    before = children()
    with streaming.stream_batches(records, order, steps, np.arange(64), workers=1) as stream:
        next(stream)
        (reader,) = [pid for pid in children() - before if "spawn_main" in command_line(pid)]
        os.kill(reader, signal.SIGKILL)
        with pytest.raises(StorageError, match=r"^data.name='digits': cannot be read \(Worker process was terminated"):
            for _ in stream:
                pass


def children():
    tasks = Path("/proc/self/task").glob("*/children")
    return {int(pid) for task in tasks for pid in task.read_text().split()}


def command_line(pid):
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode()


LIMITED = """
import resource
from vae_jax import host
free = host.available_memory()
used = int(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmData:'))) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (used + 2**26, -1))
print(free, host.available_memory())
"""


def test_the_memory_left_obeys_the_limits_of_the_process():
    printed = subprocess.run([sys.executable, "-c", LIMITED], check=True, capture_output=True, text=True).stdout
    free, limited = map(int, printed.split())
    assert limited <= 2**26 < free
    assert limited > 2**25
