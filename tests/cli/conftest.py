"""Runs that the tests of the commands share."""

import contextlib
import io
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import SMALL, check_refusal

from vae_jax.cli.main import main


@pytest.fixture(scope="session")
def trained(data_dir, tmp_path_factory):
    """Train a small run on one device; return (run directory, arguments, stdout, stderr)."""
    directory = tmp_path_factory.mktemp("cli") / "run"
    argv = ["train", "--workdir", str(directory), "--data.data-dir", data_dir, "--train.steps", "20", *SMALL]
    argv += ["--mesh.data", "1"]
    done = subprocess.run([Path(sys.executable).with_name("vae-jax"), *argv], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return directory, argv, done.stdout, done.stderr


@pytest.fixture
def copied(trained, tmp_path):
    """Copy the run of `trained`; return (run directory, arguments)."""
    directory, argv, *_ = trained
    shutil.copytree(directory, tmp_path / "run")
    return tmp_path / "run", [word if word != str(directory) else str(tmp_path / "run") for word in argv]


@pytest.fixture
def refuses(copied, call):
    """refuses([COMMAND, "RUN", ...], *words, code=2): check a refusal; RUN is a run, EMPTY an empty folder."""
    directory, _ = copied
    (directory.parent / "empty").mkdir()
    places = {"RUN": directory, "EMPTY": directory.parent / "empty"}

    def check(argv, *words, code=2):
        check_refusal(call, directory.parent, [places.get(word, word) for word in argv], *words, code=code)

    return check


@pytest.fixture
def trained_on_file(tmp_path, monkeypatch, call):
    """Train on images.npy in the working directory; return (run directory, arguments, result)."""
    monkeypatch.chdir(tmp_path)
    np.save("images.npy", np.random.default_rng(0).integers(0, 256, (60, 6, 6), dtype=np.uint8))
    argv = ["train", "--workdir", "run", "--data.name", "images.npy", "--train.steps", "10", *SMALL,
            "--mesh.data", "1"]  # fmt: skip
    return tmp_path / "run", argv, call(*argv).result


@pytest.fixture(scope="session")
def trained_on_counts(tmp_path_factory):
    """Train on a file of counts with labels; return the run's directory, which tests must not change."""
    folder = tmp_path_factory.mktemp("counts")
    labels = np.random.default_rng(0).integers(0, 3, 60)
    counts = np.random.default_rng(1).poisson(2 + 3 * labels[:, None], (60, 5)).astype(np.int32)
    np.savez(folder / "counts.npz", x=counts, y=labels)
    argv = ["train", "--workdir", str(folder / "run"), "--data.name", str(folder / "counts.npz"), "--preprocess",
            "identity", "--likelihood", "poisson", *SMALL, "--train.steps", "10", "--mesh.data", "1"]  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        assert main(argv) == 0
    return folder / "run"
