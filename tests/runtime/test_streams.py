"""Streams that take nothing: the command goes on, and its result reaches stdout."""

import io
import json
import subprocess
import sys

import pytest

from vae_jax.runtime.streams import TolerantStream, tolerant_streams

pytestmark = pytest.mark.fault

# A command that prints messages and writes a file, without JAX.
NOISY = """
import sys, warnings
from vae_jax.cli import commands, main

def prints(argv):
    for _ in range(100):
        print("a message", file=sys.stderr, flush=True)
    warnings.warn("a warning")
    with open("file", "w") as file:
        print("another message", file=sys.stderr)
        file.write("content")
    return {"done": True}

commands.register_command("print", "prints")(prints)
sys.exit(main.main(["print"]))
"""


@pytest.mark.parametrize("form", ["2>/dev/full", "2> >(head -c 1 >/dev/null)", "2>&-", "2>&1 >out | head -1 >first"])
def test_a_command_goes_on_when_its_messages_cannot_be_written(form, tmp_path):
    (tmp_path / "noisy.py").write_text(NOISY)
    output = "" if "out" in form else ">out"
    line = f"set -o pipefail; {sys.executable} noisy.py {output} {form}"
    done = subprocess.run(["bash", "-c", line], cwd=tmp_path, timeout=60)
    assert done.returncode == 0
    assert json.loads((tmp_path / "out").read_text()) == {"done": True}
    assert (tmp_path / "file").read_text() == "content"  # not what was printed on a closed descriptor


def test_a_stream_that_fails_once_is_not_tried_again(tmp_path):
    with open("/dev/full", "w") as full:
        stream = TolerantStream(full)
        assert stream.write("lost") == 4
        stream.flush()
        stream.flush()
        assert stream.encoding == full.encoding
    stream.write("closed")
    stream.flush()


def test_stdout_prints_what_it_cannot_encode(monkeypatch):
    for encoding in ("ascii", "latin-1", "cp1252"):
        printed = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(printed, encoding=encoding, errors="strict"))
        with tolerant_streams():
            print("σ and 日本", flush=True)
        assert printed.getvalue() == b"\\u03c3 and \\u65e5\\u672c\n"
