"""Outputs of a run in training: `metrics.jsonl`, TensorBoard events, and the JSON line of results on stdout."""

import contextlib
import dataclasses
import io
import json
import math
import os
import socket
import struct
import sys
import time
from collections.abc import Callable, Mapping, Sequence
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


Row = dict[str, Any]  # with an integer "step"


@dataclasses.dataclass(frozen=True)
class SavedRows:
    """The rows of metrics that are saved with a checkpoint, from which a damaged file can be repaired.

    Attributes:
      count: the number of all rows up to the checkpoint.
      since: the step of the checkpoint before it; 0 for the first.
      rows: the rows after that step.
    """

    count: int
    since: int
    rows: list[Row]


def _parse_rows(content: bytes) -> tuple[list[tuple[bytes, Row]], list[int]]:
    """Return the lines of a metrics file as (bytes, row), and the numbers of damaged lines.

    After the last newline there may be nothing, a row, or the beginning of one, which is skipped.
    """
    lines = content.split(b"\n")
    rows = [(line, _parse_row(line)) for line in lines]
    damaged = [number for number, (_, row) in enumerate(rows[:-1], start=1) if row is None]
    return [(line, row) for line, row in rows if row is not None], damaged


def _parse_row(line: bytes) -> Row | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None


def _read(path: Path) -> bytes:
    try:
        return atomic_files.read_file(path)
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error


def read_metrics(path: str | os.PathLike) -> list[Row]:
    """Read the rows of a `metrics.jsonl`; an incomplete last line is skipped.

    Args:
      path: the file.

    Returns:
      A dictionary for each row, in order.

    Raises:
      StorageError: the file cannot be read, or a line before the last is damaged.
    """
    rows, damaged = _parse_rows(_read(Path(path)))
    if damaged:
        raise StorageError(f"{path}, line {damaged[0]} is not a JSON object with an integer step")
    return [row for _, row in rows]


def last_step(path: Path) -> int:
    """Return the last step of the intact rows of a metrics file; 0 if it has none or does not exist."""
    rows, _ = _parse_rows(_read(path)) if path.exists() else ([], [])
    return max((row["step"] for _, row in rows), default=0)


def _row_bytes(row: Mapping[str, Any]) -> bytes:
    """Return a row as a line: "step" first, the other keys sorted."""
    ordered = {"step": int(row["step"])} | {name: row[name] for name in sorted(row) if name != "step"}
    return _dumps(ordered).encode() + b"\n"


def as_saved(row: Mapping[str, Any]) -> Row:
    """Return a row as it is after it was written and read."""
    return json.loads(_row_bytes(row))


def _repaired(rows: list[tuple[bytes, Row]], saved: Sequence[SavedRows]) -> list[tuple[bytes, Row]]:
    """Return rows in order of their steps; those that a checkpoint knows replace all rows of its steps."""
    for part in filter(lambda part: part.rows, saved):
        last = part.rows[-1]["step"]
        rows = [(line, row) for line, row in rows if not part.since < row["step"] <= last]
        rows += [(_row_bytes(row)[:-1], row) for row in part.rows]
    return sorted(rows, key=lambda item: item[1]["step"])


class MetricsFile:
    """The file `metrics.jsonl`: one JSON object per line.

    A resumed run writes the same bytes as an uninterrupted one: opening the file removes an incomplete last line, and
    the rows after `keep_through_step` (the restored step; 0 for a new run). In each row "step" comes first and the
    other keys are sorted. Floats are exact after reading; those that are not finite become null.

    If lines up to that step are damaged or missing, they are restored from the rows of the checkpoints as far as these
    know them, and a warning states how many rows were restored and how many are lost.

    Args:
      path: the file.
      keep_through_step: the last step whose rows are kept.
      count: the number of rows that are kept; None for all up to that step. Then the last of them must have that step.
      saved: returns what the checkpoints know, oldest first; it is called if rows are missing.

    Raises:
      StorageError: the file cannot be opened. A `write` that fails later only warns, once.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        keep_through_step: int,
        count: int | None = None,
        saved: Callable[[], Sequence[SavedRows]] = tuple,
    ):
        path = Path(path)
        content = _read(path) if path.exists() else b""
        rows, damaged = _parse_rows(content)
        rows = [(line, row) for line, row in rows if row["step"] <= keep_through_step][:count]
        found, last = len(rows), rows[-1][1]["step"] if rows else 0
        if damaged or (max(last, 0) < keep_through_step if count is None else found < count):
            rows = _repaired(rows, saved())
            _warn_of_loss(path, keep_through_step, found=found, now=len(rows), count=count, damaged=len(damaged))
        kept = b"".join(line + b"\n" for line, _ in rows)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if kept != content:
                atomic_files.replace(path, lambda file: file.write(kept))
            self._file = _AppendOnly(path)
        except OSError as error:
            raise StorageError(f"cannot write {path}: {error.strerror}") from error

    def write(self, row: Mapping[str, Any]) -> None:
        """Append a row with an integer "step", without buffering in this process."""
        self._file.append(_row_bytes(row))

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _warn_of_loss(path: Path, step: int, *, found: int, now: int, count: int | None, damaged: int) -> None:
    """Print how many rows up to a step were damaged or missing, were restored, and are lost."""
    lost = "an unknown number of rows is" if count is None else f"{max(count - now, 0)} of {count} rows are"
    lines = f"{damaged} damaged line(s), " if damaged else ""
    _warn(
        f"{path} has {lines}{found} intact row(s) up to step {step}; {now - found} row(s) are restored from the "
        f"checkpoints, and {lost} lost"
    )


_OF_OPTIMIZER = ("learning_rate", "grad_norm", "skipped_steps")


def tensorboard_tag(name: str) -> str:
    """Return the tag of a number of a row of metrics: train/NAME, validation/NAME or optimizer/NAME."""
    if name.startswith("validation_"):
        return f"validation/{name.removeprefix('validation_')}"
    return name if "/" in name else f"{'optimizer' if name in _OF_OPTIMIZER else 'train'}/{name}"


def tensorboard_picture_tag(name: str) -> str:
    """Return the tag of a picture: figures/NAME."""
    return name if "/" in name else f"figures/{name}"


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
