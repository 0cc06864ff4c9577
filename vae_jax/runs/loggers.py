"""What a run tells while it trains: progress, `metrics.jsonl`, TensorBoard events, a JSON line of results."""

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
    """`value` with arrays as lists and numbers that JSON cannot hold as null."""
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
    """Prints `value` on stdout as one line of JSON; numbers that are not finite become null."""
    print(_dumps(value), flush=True)


class _AppendOnly:
    """A file that grows by whole records: one that does not fit leaves only a warning, given once."""

    def __init__(self, path: Path):
        self._path = path
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115
        self._end = os.fstat(self._file.fileno()).st_size  # of the last whole record
        self._torn = self._warned = False

    def append(self, record: bytes) -> None:
        try:
            if self._torn:
                self._file.truncate(self._end)
            self._torn, rest = True, memoryview(record)
            while rest:  # a disk that fills up takes a part first, and raises at the next part
                rest = rest[self._file.write(rest) :]
            self._torn, self._end = False, self._end + len(record)
        except OSError as error:
            with contextlib.suppress(OSError):  # else before the next record
                self._file.truncate(self._end)
            self._warn(error)

    def close(self) -> None:
        try:
            self._file.close()
        except OSError as error:  # some network file systems tell of a full disk only here
            self._warn(error)

    def _warn(self, error: OSError) -> None:
        if not self._warned:
            _warn(f"cannot write {self._path}: {error.strerror}; going on without what does not fit")
        self._warned = True


def _warn(message: str) -> None:
    print(f"vae-jax: warning: {message}", file=sys.stderr, flush=True)


def _rows(path: Path) -> list[tuple[bytes, dict[str, Any]]]:
    """The lines of a metrics file, as written and as parsed, without a torn last line."""
    try:
        *lines, tail = path.read_bytes().split(b"\n")
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error
    rows = []
    for number, line in enumerate([*lines, tail], start=1):
        try:
            row = json.loads(line)
            valid = isinstance(row, dict) and isinstance(row.get("step"), int)
        except ValueError:
            valid = False
        if valid:
            rows.append((line, row))
        elif number <= len(lines):  # what follows the last newline may be nothing, or the beginning of a row
            raise StorageError(f"{path}, line {number}: not a JSON object with a whole number as its step")
    return rows


def read_metrics(path: str | os.PathLike) -> list[dict[str, Any]]:
    """The rows of a `metrics.jsonl`, in order; a torn last line is skipped.

    Raises `StorageError` where the file cannot be read or another line is damaged.
    """
    return [row for _, row in _rows(Path(path))]


class MetricsFile:
    """`metrics.jsonl`: one JSON object a line, the same bytes whether or not the run was interrupted.

    Opening drops the rows past `keep_through_step` (the step that was restored; 0 for a new run) and a torn
    last line. Keys are sorted after "step"; floats read back exactly, those not finite become null.
    Raises `StorageError` where the file cannot be opened; a `write` that fails later only warns, once.
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
        """Appends `row`, which holds an integer "step", and hands it to the operating system at once."""
        ordered = {"step": int(row["step"])} | {name: row[name] for name in sorted(row) if name != "step"}
        self._file.append(_dumps(ordered).encode() + b"\n")

    def close(self) -> None:
        self._file.close()


class TensorBoard:
    """Scalars and images as TensorBoard events in `directory`; storage that fails only warns, once.

    Writes in the calling thread: the queue of `tensorboardX.SummaryWriter` blocks for good once its thread
    met a full disk. `purge_step`, the first step that a resumed run writes anew, hides what was written from
    there on before; None for a new run.
    """

    def __init__(self, directory: str | os.PathLike, *, purge_step: int | None = None):
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self._file = None
        try:
            Path(directory).mkdir(parents=True, exist_ok=True)
            self._file = _AppendOnly(Path(directory) / name)
        except OSError as error:
            _warn(f"cannot write {Path(directory) / name}: {error.strerror}; going on without TensorBoard")
        self._write(Event(file_version="brain.Event:2"))
        if purge_step is not None:
            self._write(Event(step=purge_step, session_log=SessionLog(status=SessionLog.START)))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Writes one scalar for each name; a None is left out."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        parts = [Summary.Value(tag=n, simple_value=float(v)) for n, v in values.items() if v is not None]
        self._write(Event(step=int(step), summary=Summary(value=parts)))

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """Writes a uint8 image `[H, W, C]`, C = 1 or 3."""
        from PIL import Image
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] not in (1, 3):
            raise ValueError(f"image must be uint8 [H, W, 1 or 3], got {image.dtype} {image.shape}")
        height, width, channels = image.shape
        png = io.BytesIO()
        Image.fromarray(image[:, :, 0] if channels == 1 else image).save(png, "png")
        encoded = Summary.Image(height=height, width=width, colorspace=channels, encoded_image_string=png.getvalue())
        self._write(Event(step=int(step), summary=Summary(value=[Summary.Value(tag=name, image=encoded)])))

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _write(self, event: Any) -> None:
        """Appends one TFRecord: length, CRC of the length, data, CRC of the data."""
        from tensorboardX.record_writer import masked_crc32c

        if self._file is not None:
            event.wall_time = time.time()
            data = event.SerializeToString()
            length = struct.pack("<Q", len(data))
            crcs = [struct.pack("<I", masked_crc32c(part)) for part in (length, data)]
            self._file.append(length + crcs[0] + data + crcs[1])


class NullLogger:
    """Takes what a MetricsFile, a TensorBoard or a Progress takes, and writes nothing: what another writes already."""

    def __enter__(self) -> "NullLogger":
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def close(self) -> None:
        """Has nothing to close."""

    def write(self, *_: Any) -> None:
        """Drops what it is given, as all of these do."""

    scalars = image = print = write

    def update(self, step: int, **bounds: float) -> None:
        """Drops what it is told."""
        del step, bounds
