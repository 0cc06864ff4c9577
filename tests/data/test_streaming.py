"""Streaming: the same batches, results and errors as from memory, for threads, processes and resumed runs."""

import os
import shutil
import signal
from pathlib import Path

import jax
import numpy as np
import pytest
from damage import damage_unseen
from inputs import refused
from training_runs import final_digest, fit, without_key_type

from vae_jax.bench import plan
from vae_jax.config import override
from vae_jax.data import streaming
from vae_jax.data.loading import load, load_labels, open_records
from vae_jax.data.order import BatchOrder
from vae_jax.data.records import Records
from vae_jax.errors import StorageError
from vae_jax.runs import RunDirectory, prepare_experiment


@pytest.fixture
def damaged(data_dir, tmp_path):
    """(folder, file) of a dataset with a cached summary, one bit of which has been flipped since."""
    folder = tmp_path / "data"
    shutil.copytree(Path(data_dir) / "digits", folder / "digits")
    assert open_records("digits", "train", data_dir=folder).summary
    (shard,) = folder.rglob("*-train.array_record-*")
    damage_unseen(shard)
    return str(folder), str(shard)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_examples_at_the_order_of_the_steps(data_dir, workers):
    """More than one epoch, of chunks of 20 steps, the last of which is shorter; half of the rows of each batch."""
    records = open_records("digits", "train", data_dir=data_dir)
    steps, rows = range(5, 60), np.arange(0, 100, 2)
    assert streaming.CHUNK_EXAMPLES // len(rows) == 20
    order = BatchOrder(jax.random.key(0), steps, num_examples=len(records), batch_size=100)
    x, y = (read("digits", "train", data_dir=data_dir) for read in (load, load_labels))
    with streaming.stream_batches(records, order, steps, rows, workers=workers) as stream:
        batches = list(stream)
    assert len(batches) == len(steps)
    for step, batch in zip(steps, batches, strict=True):
        assert {name: array.dtype for name, array in batch.items()} == {"x": np.uint8, "y": np.int32}
        np.testing.assert_array_equal(batch["x"], x[order(step, rows)])
        np.testing.assert_array_equal(batch["y"], y[order(step, rows)])


@pytest.mark.fault
@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_is_damaged_under_a_stream_is_named(damaged, workers):
    folder, shard = damaged
    records, steps = open_records("digits", "train", data_dir=folder), range(200)
    order = BatchOrder(jax.random.key(0), steps, num_examples=len(records), batch_size=64)
    with (
        refused(StorageError, f"data.name='digits' is damaged or incomplete ({shard!r}: "),
        streaming.stream_batches(records, order, steps, np.arange(64), workers=workers) as stream,
    ):
        for _ in stream:
            pass


def trained(config, directory):
    """Return (leaves of the state, metrics.jsonl) of a finished run."""
    experiment, result = fit(config, directory)
    assert isinstance(experiment.training_data, Records) == (config.data.streaming == "always")
    leaves = [np.asarray(without_key_type(leaf)) for leaf in jax.tree.leaves(result.state)]
    return leaves, RunDirectory(directory).metrics.read_text()


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"train__evaluate_every": 5}, id="threads", marks=pytest.mark.thorough),
        pytest.param({"data__workers": 2, "train__evaluate_every": 5, "preprocess": "dynamic-binarization",
                      "likelihood": "bernoulli"}, id="processes"),
        pytest.param({"mesh__data": 2, "mesh__fsdp": 2, "train__microbatches": 2}, id="devices and microbatches",
                     marks=pytest.mark.thorough),
    ],
)  # fmt: skip
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
    fit(in_memory, tmp_path / "uninterrupted")
    for step in (10, 15):
        calls = iter(range(100))
        last = 2 if step == 10 else 1
        result = fit(streamed, tmp_path / "run", stop=lambda calls=calls, last=last: next(calls) == last)[1]
        assert (result.status, result.step) == ("interrupted", step)
    fit(in_memory, tmp_path / "run")
    assert final_digest(tmp_path / "run") == final_digest(tmp_path / "uninterrupted")


def test_a_streamed_run_needs_the_memory_of_two_dispatches_of_examples(small, tmp_path):
    config = small(train__log_every=2, mesh__data=4)
    needed = {}
    for choice in ("always", "never"):
        prepared = prepare_experiment(override(config, data__streaming=choice), tmp_path / choice)
        needed[choice] = plan.memory_lower_bound(*prepared)
    size = 64 + 4  # pixels and label of an example
    assert needed["never"] - needed["always"] == 1294 * size - 2 * (2 * 16 * size // 4)


@pytest.mark.parametrize("command", ["sweep", "bench"])
def test_commands_that_need_all_examples_refuse_a_streamed_run(call, data_dir, tmp_path, command):
    argv = ["--data.data-dir", data_dir, "--data.streaming", "always", "--workdir", tmp_path / "out"]
    called = call(command, *argv, *(["--vary", "seed=0,1"] if command == "sweep" else []))
    assert (called.code, len(called.err)) == (2, 1 + 2 * (command == "sweep"))
    assert "data.streaming" in called.err[-1]
    assert "does not work with " in called.err[-1]


@pytest.mark.fault
@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_is_damaged_under_a_streamed_run_is_named(damaged, tmp_path, call, workers):
    folder, shard = damaged
    argv = ["--workdir", tmp_path / "run", "--data.data-dir", folder, "--data.streaming", "always"]
    argv += ["--data.workers", workers, "--train.steps", 40, "--train.batch-size", 8, "--train.log-every", 1]
    argv += ["--train.save-every", 1, "--train.evaluate-every", 0, "--network.hidden", 8]
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
