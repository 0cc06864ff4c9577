"""Preparing: a built-in data set is there whole or not at all, and no archive but the official one is taken."""

import functools
import gzip
import http.server
import shutil
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import replace

import pytest
from inputs import refused

from vae_jax.data import cache, catalog, preparation
from vae_jax.data.loading import load
from vae_jax.data.preparation import prepare
from vae_jax.errors import InputError, StorageError


def test_two_processes_may_prepare_at_once(tmp_path):
    code = (
        "import sys; from vae_jax import data; print(data.prepare('digits', data_dir=sys.argv[1])['already_prepared'])"
    )
    runs = [
        subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    answers = [run.communicate(timeout=120) for run in runs]
    assert sorted(out.split()[0] for out, _ in answers) == [b"False", b"True"]
    assert [err for _, err in answers] == [b"", b""]


@pytest.mark.fault
def test_what_a_killed_process_left_is_cleared(tmp_path):
    rubbish = tmp_path / catalog.HIDDEN / "staging" / "digits" / "1.0.0"
    rubbish.mkdir(parents=True)
    (rubbish / "dataset_info.json").write_text("{")
    assert prepare("digits", data_dir=tmp_path)["splits"] == {"train": 1438, "test": 359}
    assert not (tmp_path / catalog.HIDDEN / "staging").exists()


@pytest.mark.fault
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    code = """if True:
        import resource, signal, sys
        from vae_jax import data
        from vae_jax.errors import StorageError
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        try:
            data.prepare("digits", data_dir=sys.argv[1])
        except StorageError as error:
            print(error)
    """
    run = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.count("\n") == 1
    assert "data.data_dir" in run.stdout
    assert [p.name for p in tmp_path.rglob("*")] == [catalog.HIDDEN, "prepare.lock"]


@pytest.mark.fault
def test_a_data_dir_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with refused(StorageError, "data.data_dir", "file"):
        load("digits", "train", data_dir=tmp_path / "file")


# ------------------------------------------------------------------------------------------------- preparing MNIST


@pytest.fixture
def source(archives, tmp_path):
    shutil.copytree(archives, tmp_path / "source")
    for path in (tmp_path / "source", *(tmp_path / "source").iterdir()):
        path.chmod(0o755)
    return tmp_path / "source"


def alter(path, position):
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[position] ^= 1
    path.write_bytes(gzip.compress(content, 1))


DAMAGES = {
    "html": (lambda p: p.write_text("<html>Not found</html>"), "not the official archive"),
    "truncated": (lambda p: p.write_bytes(p.read_bytes()[:-9]), "not the official archive"),
    "short": (lambda p: p.write_bytes(gzip.compress(gzip.decompress(p.read_bytes())[:-1], 1)), "ends early"),
    "missing": (lambda p: p.unlink(), "has no file t10k-images-idx3-ubyte.gz"),
    "swapped": (lambda p: p.write_bytes((p.parent / "t10k-labels-idx1-ubyte.gz").read_bytes()), "magic number"),
    "counts": (
        lambda p: p.write_bytes((p.parent / "train-images-idx3-ubyte.gz").read_bytes()),
        "holds 60000 images, but",
    ),
    "one pixel": (lambda p: alter(p, 5000), "wrong SHA-256"),  # only the SHA-256 can tell
}


@pytest.mark.fault
@pytest.mark.parametrize("damage", DAMAGES)
def test_archives_that_are_not_the_official_ones_are_refused(source, tmp_path, damage, capfd):
    change, word = DAMAGES[damage]
    change(source / "t10k-images-idx3-ubyte.gz")
    before = {path.name: path.read_bytes() for path in source.iterdir()}
    with refused(InputError, "t10k-images-idx3-ubyte.gz", word):
        prepare("mnist", source=source, data_dir=tmp_path / "data")
    assert {path.name: path.read_bytes() for path in source.iterdir()} == before
    left = [p.relative_to(tmp_path / "data").as_posix() for p in (tmp_path / "data").rglob("*")]
    assert set(left) <= {catalog.HIDDEN, f"{catalog.HIDDEN}/prepare.lock"}
    assert capfd.readouterr() == ("", "")


def test_preparing_again_does_nothing(mnist_dir, tmp_path):
    folder = mnist_dir / "mnist" / "3.0.1"
    before = cache.stamp(folder)
    assert prepare("mnist", source=tmp_path, data_dir=mnist_dir) == {
        "name": "mnist",
        "version": "3.0.1",
        "prepared": True,
        "splits": {"train": 60000, "test": 10000},
        "shape": [28, 28, 1],
        "directory": str(folder),
        "already_prepared": True,
    }
    assert cache.stamp(folder) == before
    assert sorted(p.name for p in mnist_dir.iterdir()) == [catalog.HIDDEN, "mnist"]
    assert not (mnist_dir / catalog.HIDDEN / "staging").exists()


@contextmanager
def served(folder, monkeypatch):
    """Serves a folder over HTTP in the place of the mirror."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    handler.func.log_message = lambda *args: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        builtin = replace(catalog.BUILTIN["mnist"], url=f"http://127.0.0.1:{server.server_port}/")
        monkeypatch.setitem(catalog.BUILTIN, "mnist", builtin)
        yield
        server.shutdown()


@pytest.mark.fault
def test_downloads_are_checked_and_cleared_away(source, tmp_path, monkeypatch):
    with served(source, monkeypatch):
        preparation._download("mnist", tmp_path / "archives")
        assert {p.name: p.read_bytes() for p in (tmp_path / "archives").iterdir()} == {
            p.name: p.read_bytes() for p in source.iterdir()
        }
        alter(source / "t10k-images-idx3-ubyte.gz", 5000)
        with refused(InputError, "wrong SHA-256"):
            prepare("mnist", data_dir=tmp_path / "other")
        (source / "t10k-images-idx3-ubyte.gz").unlink()
        with refused(InputError, "cannot be downloaded", "404", "--from"):
            prepare("mnist", data_dir=tmp_path / "other")
    with refused(InputError, "cannot be downloaded", "refused", "--from"):  # the server is gone
        prepare("mnist", data_dir=tmp_path / "other")
    assert [p.name for p in (tmp_path / "other").rglob("*")] == [catalog.HIDDEN, "prepare.lock"]
