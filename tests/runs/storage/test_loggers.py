"""metrics.jsonl, TensorBoard events and the JSON line, parsed as their users parse them."""

import io
import json
import math
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from vae_jax.errors import StorageError
from vae_jax.runs.storage import loggers
from vae_jax.runs.storage.loggers import (
    MetricsFile,
    NullLogger,
    SavedRows,
    TensorBoard,
    print_json,
    read_metrics,
    tensorboard_picture_tag,
    tensorboard_tag,
)


def _row(step):
    return {"kl": np.float32(step / 3), "step": step, "bound": -100 - 1 / step}


def _write(path, steps, keep_through_step=-1):
    metrics = MetricsFile(path, keep_through_step=keep_through_step)
    for step in steps:
        metrics.write(_row(step))
    metrics.close()
    return path.read_bytes()


def _strict(text):
    def refuse(constant):
        raise ValueError(constant)

    return json.loads(text, parse_constant=refuse)


def test_metrics_lines_are_deterministic_and_exact(tmp_path):
    path = tmp_path / "run" / "metrics.jsonl"
    value = 0.1 + 0.2
    metrics = MetricsFile(path, keep_through_step=-1)
    metrics.write({"b": value, "step": np.int64(7), "a": np.float32(0.1), "c": math.nan, "d": [math.inf, 1]})
    line = path.read_text()  # before close: every write is flushed
    metrics.close()
    assert line == '{"step": 7, "a": 0.10000000149011612, "b": 0.30000000000000004, "c": null, "d": [null, 1]}\n'
    row = _strict(line)
    assert row["b"] == value
    assert np.float32(row["a"]) == np.float32(0.1)


@pytest.mark.fault
@pytest.mark.parametrize("torn", [b"", b'{"step": 7, "bou', b"\0\0\0"])
def test_resumed_metrics_have_the_bytes_of_an_uninterrupted_run(tmp_path, torn):
    expected = _write(tmp_path / "expected.jsonl", range(1, 10))
    path = tmp_path / "metrics.jsonl"
    _write(path, range(1, 7))
    with path.open("ab") as file:
        file.write(torn)
    assert [row["step"] for row in read_metrics(path)] == [1, 2, 3, 4, 5, 6]
    assert _write(path, range(5, 10), keep_through_step=4) == expected
    assert sorted(p.name for p in tmp_path.iterdir()) == ["expected.jsonl", "metrics.jsonl"]


@pytest.mark.fault
def test_a_row_without_its_newline_is_kept(tmp_path):
    path = tmp_path / "metrics.jsonl"
    complete = _write(path, range(1, 6))
    path.write_bytes(b"".join(complete.splitlines(keepends=True)[:3])[:-1])
    assert len(read_metrics(path)) == 3
    assert _write(path, range(4, 6), keep_through_step=3) == complete


def test_metrics_are_rewritten_only_if_needed_and_removed_by_a_new_run(tmp_path):
    path = tmp_path / "metrics.jsonl"
    complete = _write(path, range(1, 6))
    inode = path.stat().st_ino
    assert _write(path, [], keep_through_step=5) == complete
    assert path.stat().st_ino == inode
    assert _write(path, []) == b""
    assert path.stat().st_ino != inode


@pytest.mark.fault
@pytest.mark.parametrize("damage", [b"garbage\n", b"[1]\n", b'{"bound": 1.0}\n'])
def test_damage_in_the_middle_is_refused_with_its_line_number(tmp_path, damage):
    path = tmp_path / "metrics.jsonl"
    complete = _write(path, range(1, 3))
    path.write_bytes(complete + damage + complete)
    with pytest.raises(StorageError, match=r"metrics.jsonl, line 3"):
        read_metrics(path)
    assert path.read_bytes() == complete + damage + complete


@pytest.mark.fault
@pytest.mark.parametrize(
    ("damage", "found", "restored"),
    [
        (lambda lines: None, 0, 4),  # deleted
        (lambda lines: [*lines[:3], lines[3][:9]], 3, 3),  # cut
        (lambda lines: [*lines[:3], b"garbage\n", b"[" * 10_000 + b"\n", *lines[5:]], 4, 2),
        (lambda lines: lines[:4] + lines[5:], 5, 1),  # a hole
    ],
)
def test_lost_rows_are_restored_from_the_checkpoints_or_reported(tmp_path, capsys, damage, found, restored):
    """Checkpoints exist of the steps 4 and 6; what the one of step 2 stored is gone."""
    path = tmp_path / "metrics.jsonl"
    complete = _write(path, range(1, 7))
    saved = [SavedRows(4, 2, read_metrics(path)[2:4]), SavedRows(6, 4, read_metrics(path)[4:])]
    damaged = damage(complete.splitlines(keepends=True))
    path.unlink()
    if damaged is not None:
        path.write_bytes(b"".join(damaged))
    MetricsFile(path, keep_through_step=6, count=6, saved=lambda: saved).close()
    lost = 2 if damaged is None else 0
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{found} intact row(s) up to step 6; {restored} row(s) are restored from the checkpoints" in line
    assert line.endswith(f"and {lost} of 6 rows are lost")
    assert path.read_bytes() == (complete if damaged is not None else b"".join(complete.splitlines(True)[2:]))
    MetricsFile(path, keep_through_step=6, count=6 - lost, saved=None).close()
    assert capsys.readouterr().err == ""


@pytest.mark.fault
def test_a_file_that_ends_before_the_restored_step_is_reported(tmp_path, capsys):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 2}\n{"st')
    MetricsFile(path, keep_through_step=8).close()
    assert "metrics.jsonl has 1 intact row(s) up to step 8" in capsys.readouterr().err


@pytest.mark.fault
def test_metrics_that_are_a_pipe_are_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "metrics.jsonl")
    for read in (read_metrics, lambda path: MetricsFile(path, keep_through_step=0)):
        with pytest.raises(StorageError, match=r"cannot read .*metrics\.jsonl: it is no regular file"):
            read(tmp_path / "metrics.jsonl")


@pytest.mark.fault
def test_metrics_that_cannot_be_opened_are_a_storage_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot write"):
        MetricsFile(tmp_path / "file" / "metrics.jsonl", keep_through_step=-1)
    with pytest.raises(StorageError, match="cannot read"):
        read_metrics(tmp_path / "absent.jsonl")


@pytest.mark.fault
def test_a_failed_rewrite_does_not_change_the_metrics(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    complete = _write(path, range(1, 6))

    def refuse(*paths):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(StorageError, match="No space left"):
        MetricsFile(path, keep_through_step=3)
    assert path.read_bytes() == complete
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]


_FULL_DISK = """
import resource, signal, sys
import numpy as np
from vae_jax.runs.storage.loggers import MetricsFile, TensorBoard
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
metrics = MetricsFile(sys.argv[1] + "/metrics.jsonl", keep_through_step=-1)
board = TensorBoard(sys.argv[1])
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
for step in range(100):
    if step in (10, 50):
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000 if step == 10 else hard, hard))
    metrics.write({"step": step, "bound": step / 3})
    board.scalars(step, {"bound": step / 3})
metrics.close()
board.close()
print("trained")
"""


@pytest.mark.fault
def test_a_full_disk_warns_once_and_writes_no_partial_record(tmp_path):
    command = [sys.executable, "-W", "error", "-c", _FULL_DISK, str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(Path(loggers.__file__).parents[3])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=100)
    assert (done.returncode, done.stdout) == (0, "trained\n"), done.stderr
    warnings = done.stderr.splitlines()
    assert len(warnings) == 2
    assert all(line.startswith("vae-jax: warning: cannot write ") for line in warnings)
    steps = [_strict(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    event_steps = [event.step for event in _events(tmp_path)[1:]]
    for written in (steps, event_steps):
        assert written == sorted(written)
        assert {*range(10), *range(50, 100)} < {*written} < {*range(100)}


@pytest.mark.fault
def test_tensorboard_that_cannot_be_written_is_a_warning(tmp_path, capsys):
    (tmp_path / "file").touch()
    board = TensorBoard(tmp_path / "file")
    board.scalars(1, {"bound": 1.0})
    board.close()
    assert len(capsys.readouterr().err.splitlines()) == 1


def _events(directory):
    """Return the events of the only event file; checks the lengths and checksums of its TFRecords."""
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import masked_crc32c

    (path,) = directory.glob("events.out.tfevents.*")
    data, events = path.read_bytes(), []
    while data:
        length, crc_of_length = struct.unpack_from("<QI", data)
        record, (crc,) = data[12 : 12 + length], struct.unpack_from("<I", data, 12 + length)
        assert (crc_of_length, crc) == (masked_crc32c(data[:8]), masked_crc32c(record))
        events.append(Event.FromString(record))
        data = data[16 + length :]
    return events


@pytest.mark.parametrize("channels", [1, 3])
def test_tensorboard_records_can_be_parsed(tmp_path, channels):
    from PIL import Image
    from tensorboardX.proto.event_pb2 import SessionLog

    image = np.random.default_rng(0).integers(0, 256, (8, 6, channels), np.uint8)
    board = TensorBoard(tmp_path / "run", purge_step=101)
    board.scalars(200, {"bound": np.float32(-98.5), "kl": math.nan, "validation_bound": None})
    board.image(300, "samples", image)
    first, purge, scalars, image_event = _events(tmp_path / "run")  # before close: nothing is queued
    board.close()
    assert first.file_version == "brain.Event:2"
    assert (purge.step, purge.session_log.status) == (101, SessionLog.START)
    assert scalars.step == 200
    bound, kl = scalars.summary.value
    assert (bound.tag, bound.simple_value, kl.tag) == ("bound", -98.5, "kl")
    assert math.isnan(kl.simple_value)
    (value,) = image_event.summary.value
    assert (image_event.step, value.tag) == (300, "samples")
    assert (value.image.height, value.image.width, value.image.colorspace) == image.shape
    pixels = np.asarray(Image.open(io.BytesIO(value.image.encoded_image_string)))
    np.testing.assert_array_equal(pixels.reshape(image.shape), image)


def test_tensorboard_has_the_settings_as_text_and_hyper_parameters(tmp_path):
    from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

    board = TensorBoard(tmp_path)
    board.settings({"optimizer.learning_rate": 1e-3, "network": "mlp", "network.hidden": (8, 4), "a": None, "b": True})
    board.close()
    values = {value.tag: value for event in _events(tmp_path)[1:] for value in event.summary.value}
    assert b"    network.hidden = (8, 4)\n" in values["config/text_summary"].tensor.string_val[0]
    start = HParamsPluginData.FromString(values["_hparams_/session_start_info"].metadata.plugin_data.content)
    found = start.session_start_info.hparams
    assert (found["optimizer.learning_rate"].number_value, found["network"].string_value) == (1e-3, "mlp")
    assert found["b"].bool_value
    content = values["_hparams_/experiment"].metadata.plugin_data.content
    metrics = HParamsPluginData.FromString(content).experiment.metric_infos
    assert [metric.name.tag for metric in metrics] == ["train/bound", "validation/bound"]


def test_tags_are_grouped():
    tags = {"bound": "train/bound", "validation_kl": "validation/kl", "learning_rate": "optimizer/learning_rate",
            "grad_norm": "optimizer/grad_norm", "mine/norm": "mine/norm"}  # fmt: skip
    assert {name: tensorboard_tag(name) for name in tags} == tags
    pictures = {"samples": "figures/samples", "mine/square": "mine/square"}
    assert {name: tensorboard_picture_tag(name) for name in pictures} == pictures


def test_tensorboard_refuses_float_images(tmp_path):
    board = TensorBoard(tmp_path)
    with pytest.raises(ValueError, match="uint8"):
        board.image(1, "samples", np.zeros((4, 4, 1)))
    board.close()


def test_a_null_logger_accepts_every_call_and_writes_nothing(capsys):
    with NullLogger() as logger:
        logger.write({"step": 1})
        logger.scalars(1, {"bound": 1.0})
        logger.image(1, "samples", np.zeros((4, 4, 1), np.uint8))
        logger.update(1, bound=-2.0)
        logger.print("line")
    logger.close()
    assert capsys.readouterr() == ("", "")


def test_print_json_is_one_strict_line(capsys):
    print_json({"nll": np.float32(2.5), "bad": [math.nan, -math.inf], "z": np.arange(2), "dir": Path("a")})
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert _strict(out) == {"nll": 2.5, "bad": [None, None], "z": [0, 1], "dir": "a"}


def test_the_import_loads_no_heavy_package():
    heavy = "{'rich', 'matplotlib', 'tensorboardX', 'PIL', 'jax', 'flax'}"
    modules = ("storage.loggers", "figures.image_grids", "figures.curves", "progress")
    imports = ", ".join(f"vae_jax.runs.{name}" for name in modules)
    code = f"import sys, {imports}; print(sorted({heavy} & set(sys.modules)))"
    environment = os.environ | {"PYTHONPATH": str(Path(loggers.__file__).parents[3])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout == "[]\n"
