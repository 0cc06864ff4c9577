"""Outputs of a run in training: `metrics.jsonl`, TensorBoard events, and the JSON line of results on stdout."""

import contextlib
import io
import json
import math
import os
import socket
import struct
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vae_jax.errors import StorageError
from vae_jax.runtime import atomic_files


def _jsonable(value: Any) -> Any:
    """Return `value` with arrays as lists, and with None for numbers that JSON cannot represent."""
    if isinstance(value, Mapping):
        return {str(name): _jsonable(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    if hasattr(value, "tolist"):  # arrays and scalars of NumPy and JAX
        return _jsonable(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _dumps(value: Any) -> str:
    return json.dumps(_jsonable(value), allow_nan=False, default=os.fspath)


def print_json(value: Any) -> None:
    """Print a value on stdout as one line of JSON.

    Args:
      value: mappings, sequences, arrays, paths and scalars; numbers that are not finite become null.
    """
    print(_dumps(value), flush=True)


class _AppendOnly:
    """A file that grows by complete records; a record that cannot be written is dropped, with one warning per file."""

    def __init__(self, path: Path):
        self._path = path
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115
        self._end = os.fstat(self._file.fileno()).st_size  # of the last complete record
        self._incomplete = self._warned = False

    def append(self, record: bytes) -> None:
        try:
            if self._incomplete:
                self._file.truncate(self._end)
            self._incomplete, rest = True, memoryview(record)
            while rest:  # a disk that is almost full accepts a part of the record, and raises at the next part
                rest = rest[self._file.write(rest) :]
            self._incomplete, self._end = False, self._end + len(record)
        except OSError as error:
            with contextlib.suppress(OSError):  # if this fails too, the next `append` truncates
                self._file.truncate(self._end)
            self._warn(error)

    def close(self) -> None:
        try:
            self._file.close()
        except OSError as error:  # some network file systems report a full disk only here
            self._warn(error)

    def _warn(self, error: OSError) -> None:
        if not self._warned:
            _warn(f"cannot write {self._path}: {error.strerror}; training continues without these records")
        self._warned = True


def _warn(message: str) -> None:
    print(f"vae-jax: warning: {message}", file=sys.stderr, flush=True)


def _rows(path: Path) -> list[tuple[bytes, dict[str, Any]]]:
    """Return the lines of a metrics file as (bytes, parsed row); an incomplete last line is skipped."""
    try:
        *lines, tail = path.read_bytes().split(b"\n")
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error
    rows = []
    for number, line in enumerate([*lines, tail], start=1):
        row = _parse_row(line)
        if row is not None:
            rows.append((line, row))
        elif number <= len(lines):  # after the last newline there may be nothing, or the beginning of a row
            raise StorageError(f"{path}, line {number} is not a JSON object with an integer step")
    return rows


def _parse_row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None


def read_metrics(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Read the rows of a `metrics.jsonl`; an incomplete last line is skipped.

    Args:
      path: the file.

    Returns:
      A dictionary for each row, in order.

    Raises:
      StorageError: the file cannot be read, or a line before the last is damaged.
    """
    return [row for _, row in _rows(Path(path))]


class MetricsFile:
    """The file `metrics.jsonl`: one JSON object per line.

    A resumed run writes the same bytes as an uninterrupted one: opening the file removes an incomplete last line, and
    the rows after `keep_through_step` (the restored step; 0 for a new run). In each row "step" comes first and the
    other keys are sorted. Floats are exact after reading; those that are not finite become null.

    Raises:
      StorageError: the file cannot be opened. A `write` that fails later only warns, once.
    """

    def __init__(self, path: str | os.PathLike, *, keep_through_step: int):
        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                kept = b"".join(line + b"\n" for line, row in _rows(path) if row["step"] <= keep_through_step)
                if kept != path.read_bytes():
                    atomic_files.replace(path, lambda file: file.write(kept))
            self._file = _AppendOnly(path)
        except OSError as error:
            raise StorageError(f"cannot write {path}: {error.strerror}") from error

    def write(self, row: Mapping[str, Any]) -> None:
        """Append a row with an integer "step", without buffering in this process."""
        ordered = {"step": int(row["step"])} | {name: row[name] for name in sorted(row) if name != "step"}
        self._file.append(_dumps(ordered).encode() + b"\n")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


_OF_OPTIMIZER = ("learning_rate", "grad_norm", "skipped_steps")


def tensorboard_tag(name: str) -> str:
    """Return the tag of a number of a row of metrics: train/NAME, validation/NAME or optimizer/NAME."""
    if name.startswith("validation_"):
        return f"validation/{name.removeprefix('validation_')}"
    return name if "/" in name else f"{'optimizer' if name in _OF_OPTIMIZER else 'train'}/{name}"


class TensorBoard:
    """Scalars and images as TensorBoard events in `directory`; a write that fails only warns, once.

    Events are written in the calling thread, because the queue of `tensorboardX.SummaryWriter` blocks forever after its
    thread met a full disk. `purge_step` is the first step that a resumed run writes again: TensorBoard hides earlier
    events from that step on. It is None for a new run.
    """

    def __init__(self, directory: str | os.PathLike, *, purge_step: int | None = None):
        self._event, session_log, self._summary = _protobuf_classes()
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self._file = None
        try:
            Path(directory).mkdir(parents=True, exist_ok=True)
            self._file = _AppendOnly(Path(directory) / name)
        except OSError as error:
            _warn(f"cannot write {Path(directory) / name}: {error.strerror}; training continues without TensorBoard")
        self._write(self._event(file_version="brain.Event:2"))
        if purge_step is not None:
            self._write(self._event(step=purge_step, session_log=session_log(status=session_log.START)))

    def settings(self, values: Mapping[str, Any]) -> None:
        """Write settings by name as text, and as hyper-parameters, by which the bounds of runs can be compared."""
        from tensorboardX import summary

        plain = {n: v if isinstance(v, bool | int | float | str) else str(v) for n, v in values.items()}
        text = "\n".join(f"    {name} = {value}" for name, value in values.items())  # indented: a block of code
        metrics = dict.fromkeys(map(tensorboard_tag, ("bound", "validation_bound")))
        for part in (summary.text("config", text), *summary.hparams(plain, metrics)):
            self._write(self._event(step=0, summary=part))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write one scalar for each tag; None is skipped."""
        parts = [self._summary.Value(tag=n, simple_value=float(v)) for n, v in values.items() if v is not None]
        self._write(self._event(step=int(step), summary=self._summary(value=parts)))

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """Write a uint8 image `[H, W, C]` with C = 1 or 3."""
        from PIL import Image

        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] not in (1, 3):
            raise ValueError(f"image has shape {list(image.shape)} and dtype {image.dtype}; pass uint8 [H, W, 1 or 3]")
        height, width, channels = image.shape
        png = io.BytesIO()
        Image.fromarray(image[:, :, 0] if channels == 1 else image).save(png, "png")
        encoded = self._summary.Image(
            height=height, width=width, colorspace=channels, encoded_image_string=png.getvalue()
        )
        value = self._summary.Value(tag=name, image=encoded)
        self._write(self._event(step=int(step), summary=self._summary(value=[value])))

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _write(self, event: Any) -> None:
        """Append one TFRecord: length, CRC of the length, data, CRC of the data."""
        from tensorboardX.record_writer import masked_crc32c

        if self._file is not None:
            event.wall_time = time.time()
            data = event.SerializeToString()
            length = struct.pack("<Q", len(data))
            crcs = [struct.pack("<I", masked_crc32c(part)) for part in (length, data)]
            self._file.append(length + crcs[0] + data + crcs[1])


def _protobuf_classes() -> tuple[Any, Any, Any]:
    """Return the message classes Event, SessionLog and Summary, which protobuf creates when it is imported."""
    from tensorboardX.proto.event_pb2 import (
        Event,  # pyright: ignore[reportAttributeAccessIssue]  # created at import, so it is not in the source
        SessionLog,  # pyright: ignore[reportAttributeAccessIssue]  # as above
    )
    from tensorboardX.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]  # as above

    return Event, SessionLog, Summary


class NullLogger:
    """A MetricsFile, TensorBoard or Progress that writes nothing, for processes whose output another process writes."""

    def __enter__(self) -> "NullLogger":
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def close(self) -> None:
        """Do nothing: no file is open."""

    def write(self, *_: Any) -> None:
        """Ignore the arguments."""

    scalars = settings = image = print = write

    def update(self, step: int, **bounds: float | None) -> None:
        """Ignore the progress."""
        del step, bounds

    begin = update
