"""Progress, metrics.jsonl, TensorBoard events and the JSON line, read back as their readers read them."""

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
from vae_jax.runs import loggers
from vae_jax.runs.loggers import MetricsFile, TensorBoard, print_json, read_metrics
from vae_jax.runs.progress import Progress


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
    whole = _write(tmp_path / "whole.jsonl", range(1, 10))
    path = tmp_path / "metrics.jsonl"
    _write(path, range(1, 7))
    with path.open("ab") as file:
        file.write(torn)
    assert [row["step"] for row in read_metrics(path)] == [1, 2, 3, 4, 5, 6]
    assert _write(path, range(5, 10), keep_through_step=4) == whole
    assert sorted(p.name for p in tmp_path.iterdir()) == ["metrics.jsonl", "whole.jsonl"]


@pytest.mark.fault
def test_row_that_lost_only_its_newline_is_kept(tmp_path):
    path = tmp_path / "metrics.jsonl"
    whole = _write(path, range(1, 6))
    path.write_bytes(b"".join(whole.splitlines(keepends=True)[:3])[:-1])
    assert len(read_metrics(path)) == 3
    assert _write(path, range(4, 6), keep_through_step=3) == whole


def test_metrics_are_rewritten_only_if_needed_and_dropped_by_a_new_run(tmp_path):
    path = tmp_path / "metrics.jsonl"
    whole = _write(path, range(1, 6))
    inode = path.stat().st_ino
    assert _write(path, [], keep_through_step=5) == whole
    assert path.stat().st_ino == inode
    assert _write(path, []) == b""
    assert path.stat().st_ino != inode


@pytest.mark.fault
@pytest.mark.parametrize("damage", [b"garbage\n", b"[1]\n", b'{"bound": 1.0}\n'])
def test_damage_in_the_middle_is_refused_with_its_line(tmp_path, damage):
    path = tmp_path / "metrics.jsonl"
    whole = _write(path, range(1, 3))
    path.write_bytes(whole + damage + whole)
    with pytest.raises(StorageError, match=r"metrics.jsonl, line 3"):
        read_metrics(path)
    with pytest.raises(StorageError, match=r"metrics.jsonl, line 3"):
        MetricsFile(path, keep_through_step=9)
    assert path.read_bytes() == whole + damage + whole


@pytest.mark.fault
def test_metrics_that_cannot_be_opened_are_a_storage_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot write"):
        MetricsFile(tmp_path / "file" / "metrics.jsonl", keep_through_step=-1)
    with pytest.raises(StorageError, match="cannot read"):
        read_metrics(tmp_path / "absent.jsonl")


@pytest.mark.fault
def test_failed_rewrite_leaves_the_metrics_as_they_were(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    whole = _write(path, range(1, 6))

    def refuse(*paths):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(StorageError, match="No space left"):
        MetricsFile(path, keep_through_step=3)
    assert path.read_bytes() == whole
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]


_FULL_DISK = """
import resource, signal, sys
import numpy as np
from vae_jax.runs.loggers import MetricsFile, TensorBoard
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
print("trained on")
"""


@pytest.mark.fault
def test_full_disk_warns_once_and_leaves_no_torn_record(tmp_path):
    command = [sys.executable, "-W", "error", "-c", _FULL_DISK, str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(Path(loggers.__file__).parents[2])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=100)
    assert (done.returncode, done.stdout) == (0, "trained on\n"), done.stderr
    warnings = done.stderr.splitlines()
    assert len(warnings) == 2
    assert all(line.startswith("vae-jax: warning: cannot write ") for line in warnings)
    steps = [_strict(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    event_steps = [event.step for event in _events(tmp_path)[1:]]
    for written in (steps, event_steps):
        assert written == sorted(written)
        assert {*range(10), *range(50, 100)} < {*written} < {*range(100)}


@pytest.mark.fault
def test_storage_that_refuses_tensorboard_only_warns(tmp_path, capsys):
    (tmp_path / "file").touch()
    board = TensorBoard(tmp_path / "file")
    board.scalars(1, {"bound": 1.0})
    board.close()
    assert len(capsys.readouterr().err.splitlines()) == 1


def _events(directory):
    """Reads the TFRecords of the only event file, checking lengths and checksums."""
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
def test_tensorboard_records_read_back(tmp_path, channels):
    from PIL import Image
    from tensorboardX.proto.event_pb2 import SessionLog

    image = np.random.default_rng(0).integers(0, 256, (8, 6, channels), np.uint8)
    board = TensorBoard(tmp_path / "run", purge_step=101)
    board.scalars(200, {"bound": np.float32(-98.5), "kl": math.nan, "validation_bound": None})
    board.image(300, "samples", image)
    first, purge, scalars, picture = _events(tmp_path / "run")  # before close: nothing waits in a queue
    board.close()
    assert first.file_version == "brain.Event:2"
    assert (purge.step, purge.session_log.status) == (101, SessionLog.START)
    assert scalars.step == 200
    bound, kl = scalars.summary.value
    assert (bound.tag, bound.simple_value, kl.tag) == ("bound", -98.5, "kl")
    assert math.isnan(kl.simple_value)
    (value,) = picture.summary.value
    assert (picture.step, value.tag) == (300, "samples")
    assert (value.image.height, value.image.width, value.image.colorspace) == image.shape
    pixels = np.asarray(Image.open(io.BytesIO(value.image.encoded_image_string)))
    np.testing.assert_array_equal(pixels.reshape(image.shape), image)


def test_tensorboard_refuses_float_images(tmp_path):
    board = TensorBoard(tmp_path)
    with pytest.raises(ValueError, match="uint8"):
        board.image(1, "samples", np.zeros((4, 4, 1)))
    board.close()


def test_print_json_is_one_strict_line(capsys):
    print_json({"nll": np.float32(2.5), "bad": [math.nan, -math.inf], "z": np.arange(2), "dir": Path("a")})
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert _strict(out) == {"nll": 2.5, "bad": [None, None], "z": [0, 1], "dir": "a"}


class _Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 1000.0

    class Time:
        monotonic = staticmethod(lambda: Clock.now)

    monkeypatch.setattr(loggers, "time", Time)
    return Clock


def test_plain_progress_prints_seldom_and_last(clock):
    stream = io.StringIO()
    with Progress(10_000, images_per_step=100, stream=stream) as progress:
        for step in range(1, 26):
            clock.now += 1
            progress.update(100 * step, bound=-step)
            if step == 5:
                progress.print("saved [bold]5[/bold]")
    lines = stream.getvalue().splitlines()
    steps = [line.split()[1] for line in lines]
    assert steps == ["100/10000", "[bold]5[/bold]", "1100/10000", "2100/10000", "2500/10000"]
    for part in ["(25 %)", "bound -25.00 nats", "100 steps/s", "10,000 images/s", "0:00:25", "left 0:01:15"]:
        assert part in lines[-1]


def test_progress_does_not_repeat_its_last_line(clock):
    stream = io.StringIO()
    with Progress(10, images_per_step=1, stream=stream) as progress:
        clock.now += 5
        progress.update(10, validation_bound=-2)
    (line,) = stream.getvalue().splitlines()
    assert "2.00 steps/s" in line
    assert "validation bound -2.00 nats" in line
    assert "left" not in line


def test_rates_of_a_resumed_run_count_its_own_steps_without_compilation(clock):
    stream = io.StringIO()
    with Progress(2000, images_per_step=10, initial_step=1000, stream=stream) as progress:
        clock.now += 20  # compiles, then 40 steps
        progress.update(1040)
        clock.now += 2
        progress.update(1040, validation_bound=-1)
        clock.now += 8
        progress.update(1140)
    first, last = stream.getvalue().splitlines()
    assert "step 1040/2000 (52 %), 2.00 steps/s, 20 images/s" in first
    assert "10.00 steps/s, 100 images/s, elapsed 0:00:30, left 0:01:26" in last


@pytest.mark.parametrize("term", ["xterm", "dumb"])
def test_progress_on_a_terminal(monkeypatch, capsys, term):
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", term)
    monkeypatch.setenv("COLUMNS", "200")
    stream = _Terminal()
    with Progress(100, images_per_step=4, stream=stream) as progress:
        progress.update(50, bound=-3.5)
        progress.print("saved [bold]50[/bold]")
        print_json({"result": 1})
    shown = stream.getvalue()
    assert "step 50/100 (50 %), bound -3.50 nats" in shown
    assert "saved [bold]50[/bold]" in shown
    assert ("━" in shown) == (term == "xterm")
    assert capsys.readouterr().out == '{"result": 1}\n'


def test_import_leaves_heavy_packages_alone():
    heavy = "{'rich', 'matplotlib', 'tensorboardX', 'PIL', 'jax', 'flax'}"
    code = f"import sys, vae_jax.runs.loggers, vae_jax.runs.image_grids, vae_jax.runs.curves; print(sorted({heavy} & set(sys.modules)))"
    environment = os.environ | {"PYTHONPATH": str(Path(loggers.__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout == "[]\n"
