"""Preparation: a dataset is complete or absent, and only the official archives are accepted."""

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
from vae_jax.data.preparation import available, prepare
from vae_jax.errors import InputError, StorageError


def test_available_lists_the_built_in_datasets(tmp_path):
    entries = available(tmp_path / "nowhere")
    assert [(e["name"], e["version"], e["prepared"]) for e in entries] == [
        ("digits", "1.0.0", False),
        ("mnist", "3.0.1", False),
        ("moons", "1.0.0", False),
        ("moons_full_half", "1.0.0", False),
        ("moons_gap", "1.0.0", False),
        ("sprites", "1.0.0", False),
    ]


def test_two_processes_can_prepare_at_once(tmp_path):
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
def test_files_that_a_killed_process_left_are_removed(tmp_path):
    unfinished = tmp_path / catalog.CACHE_FOLDER / "staging" / "digits" / "1.0.0"
    unfinished.mkdir(parents=True)
    (unfinished / "dataset_info.json").write_text("{")
    assert prepare("digits", data_dir=tmp_path)["splits"] == {"train": 1438, "test": 359}
    assert not (tmp_path / catalog.CACHE_FOLDER / "staging").exists()


@pytest.mark.fault
def test_a_full_disk_is_one_line_and_no_file_remains(tmp_path):
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
    assert run.stdout.startswith(f"data.data_dir={str(tmp_path)!r} cannot store digits (")
    assert [p.name for p in tmp_path.rglob("*")] == [catalog.CACHE_FOLDER, "prepare.lock"]


@pytest.mark.fault
def test_a_data_dir_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with refused(StorageError, "data.data_dir", "file"):
        load("digits", "train", data_dir=tmp_path / "file")


@pytest.fixture
def source(archives, tmp_path):
    """A copy of the official archives that a test can damage."""
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
        "has 60000 images in ",
    ),
    "one pixel": (lambda p: alter(p, 5000), "wrong SHA-256"),  # only the SHA-256 detects it
}


@pytest.mark.fault
@pytest.mark.parametrize("damage", DAMAGES)
def test_archives_that_are_not_the_official_ones_are_refused(source, tmp_path, damage, capfd):
    change, word = DAMAGES[damage]
    change(source / "t10k-images-idx3-ubyte.gz")
    before = {path.name: path.read_bytes() for path in source.iterdir()}
    with refused(InputError, f"--from='{source}' has ", "t10k-images-idx3-ubyte.gz", word):
        prepare("mnist", source=source, data_dir=tmp_path / "data")
    assert {path.name: path.read_bytes() for path in source.iterdir()} == before
    remaining = [p.relative_to(tmp_path / "data").as_posix() for p in (tmp_path / "data").rglob("*")]
    assert set(remaining) <= {catalog.CACHE_FOLDER, f"{catalog.CACHE_FOLDER}/prepare.lock"}
    assert capfd.readouterr() == ("", "")


def test_preparing_again_does_nothing(mnist_dir, tmp_path):
    folder = mnist_dir / "mnist" / "3.0.1"
    before = cache.file_stats(folder)
    assert prepare("mnist", source=tmp_path, data_dir=mnist_dir) == {
        "name": "mnist",
        "version": "3.0.1",
        "prepared": True,
        "splits": {"train": 60000, "test": 10000},
        "shape": [28, 28, 1],
        "directory": str(folder),
        "already_prepared": True,
    }
    assert cache.file_stats(folder) == before
    assert sorted(p.name for p in mnist_dir.iterdir()) == [catalog.CACHE_FOLDER, "mnist"]
    assert not (mnist_dir / catalog.CACHE_FOLDER / "staging").exists()


@contextmanager
def served(folder, monkeypatch):
    """Serve a folder over HTTP in place of the official address of MNIST."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    handler.func.log_message = lambda *args: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        builtin = replace(catalog.BUILTIN["mnist"], url=f"http://127.0.0.1:{server.server_port}/")
        monkeypatch.setitem(catalog.BUILTIN, "mnist", builtin)
        yield
        server.shutdown()


@pytest.mark.fault
def test_downloads_are_checked_and_removed(source, tmp_path, monkeypatch):
    with served(source, monkeypatch):
        preparation._download("mnist", tmp_path / "archives")
        assert {p.name: p.read_bytes() for p in (tmp_path / "archives").iterdir()} == {
            p.name: p.read_bytes() for p in source.iterdir()
        }
        alter(source / "t10k-images-idx3-ubyte.gz", 5000)
        with refused(InputError, "name='mnist' has ", "wrong SHA-256"):
            prepare("mnist", data_dir=tmp_path / "other")
        (source / "t10k-images-idx3-ubyte.gz").unlink()
        with refused(InputError, "cannot be downloaded", "404", "--from"):
            prepare("mnist", data_dir=tmp_path / "other")
    with refused(InputError, "cannot be downloaded", "refused", "--from"):  # the server is gone
        prepare("mnist", data_dir=tmp_path / "other")
    assert [p.name for p in (tmp_path / "other").rglob("*")] == [catalog.CACHE_FOLDER, "prepare.lock"]
