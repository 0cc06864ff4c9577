"""Streaming: the same batches, results and errors as from memory, for threads, processes and resumed runs."""

import os
import shutil
import signal
from pathlib import Path

import jax
import numpy as np
import pytest
from damage import damage_unseen

from vae_jax.bench import plan
from vae_jax.config.building import override
from vae_jax.data import streaming
from vae_jax.data.loading import open_records
from vae_jax.data.order import BatchOrder
from vae_jax.errors import StorageError
from vae_jax.runs import opening, recorder, train_loop


@pytest.fixture
def damaged(data_dir, tmp_path):
    """(folder, file) of a dataset with a cached summary, one bit of which has been flipped since."""
    folder = tmp_path / "data"
    shutil.copytree(Path(data_dir) / "digits", folder / "digits")
    assert open_records("digits", "train", data_dir=folder).summary
    (shard,) = folder.rglob("*-train.array_record-*")
    damage_unseen(shard)
    return str(folder), str(shard)


def trained(config, directory):
    """Return (leaves of the state, metrics.jsonl) of a finished run."""
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
    ids=["threads", "processes", "devices and microbatches"],
)
def test_a_streamed_run_equals_one_from_memory_bit_for_bit(small, tmp_path, settings):
    """The run has more than one epoch, and its last dispatch is shorter."""
    config = small(train__steps=23, train__batch_size=128, data__streaming="always", **settings)
    found = trained(config, tmp_path / "streamed")
    expected = trained(override(config, data__streaming="never", data__workers=0), tmp_path / "memory")
    assert len(found[0]) == len(expected[0])
    for one, other in zip(found[0], expected[0], strict=True):
        np.testing.assert_array_equal(one, other)
    assert found[1] == expected[1]
    assert found[1].count('"bound"') == 5


@pytest.mark.fault
def test_a_streamed_run_resumes_from_any_step_and_either_way(small, tmp_path):
    """A run that is streamed, interrupted twice, and finished from memory equals an uninterrupted run."""
    streamed = small(train__steps=30, train__save_every=5, data__streaming="always")
    in_memory = override(streamed, data__streaming="never")
    expected = trained(in_memory, tmp_path / "uninterrupted")
    for step in (10, 15):
        run, images = opening.prepare_run(streamed, tmp_path / "run")
        calls = iter(range(100))
        outcome = train_loop.fit(
            run, images, stop=lambda calls=calls, step=step: next(calls) == (2 if step == 10 else 1)
        )
        assert (outcome.status, outcome.step) == ("interrupted", step)
    found = trained(in_memory, tmp_path / "run")
    for one, other in zip(found[0], expected[0], strict=True):
        np.testing.assert_array_equal(one, other)
    assert found[1] == expected[1]


def test_a_streamed_run_needs_the_memory_of_two_dispatches_of_images(small, tmp_path):
    config = small(train__log_every=2, mesh__data=4)
    needed = {}
    for choice in ("always", "never"):
        run, _ = opening.prepare_run(override(config, data__streaming=choice), tmp_path / choice)
        needed[choice] = plan.memory_lower_bound(run)
    assert needed["never"] - needed["always"] == 1294 * 64 - 2 * (2 * 16 * 64 // 4)


@pytest.mark.parametrize("command", ["sweep", "bench"])
def test_commands_that_need_all_images_refuse_a_streamed_run(call, data_dir, tmp_path, command):
    argv = ["--data.data-dir", data_dir, "--data.streaming", "always", "--workdir", tmp_path / "out"]
    called = call(command, *argv, *(["--vary", "seed=0,1"] if command == "sweep" else []))
    assert (called.code, len(called.err)) == (2, 1 + (command == "sweep"))
    assert "data.streaming=always does not work with " in called.err[-1]


@pytest.mark.fault
@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_is_damaged_under_a_streamed_run_is_named(small, damaged, tmp_path, call, workers):
    folder, shard = damaged
    argv = ["--workdir", tmp_path / "run", "--data.data-dir", folder, "--data.streaming", "always"]
    argv += ["--data.workers", workers, "--train.steps", 40, "--train.batch-size", 8, "--train.log-every", 1]
    argv += ["--train.save-every", 1, "--train.evaluate-every", 0, "--model.hidden", 8]
    called = call("train", *argv, "--compilation-cache", "None")
    assert called.code == 5
    assert called.err[-1].startswith(f"vae-jax: data.name='digits' is damaged or incomplete ({shard!r}: ")
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
        with pytest.raises(StorageError, match=r"^data\.name='digits' cannot be read \(Worker process was terminated"):
            for _ in stream:
                pass


def children():
    tasks = Path("/proc/self/task").glob("*/children")
    return {int(pid) for task in tasks for pid in task.read_text().split()}


def command_line(pid):
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode()
