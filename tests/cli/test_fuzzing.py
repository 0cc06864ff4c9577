"""Thousands of damaged inputs: each command ends with a listed exit code and one line, without a traceback or a hang.

`pytest tests/cli/test_fuzzing.py --fuzz-inputs 100000 --fuzz-seed 1` tries more, and others.
"""

import random
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from commands import SMALL
from mutations import damage, damaged_bytes, damaged_flags, damaged_json, damaged_lines
from PIL import Image
from prepared_datasets import write_dataset

from vae_jax.cli.main import main
from vae_jax.config import PRESETS, flatten
from vae_jax.config.registry import SECTIONS, choices

pytestmark = pytest.mark.fault

SETTINGS, DATA, RUN = 280, 80, 40  # inputs of each kind by default, 400 together
EXIT_CODES = {0, 2, 3, 4, 5, 6, 7}
HANG = 60  # seconds; most inputs take some milliseconds
CASES = 4  # test items of each kind, so that processes share the work


@pytest.fixture
def attempt(capsys):
    """attempt(argv): run a command in this process; check its exit code and what it prints."""

    def hang(*_):
        raise AssertionError(f"no end after {HANG} s")

    def run(argv, what):
        capsys.readouterr()
        previous = signal.signal(signal.SIGALRM, hang)
        signal.alarm(HANG)
        try:
            code = main(argv)
        except (Exception, SystemExit) as error:
            if isinstance(error, SystemExit) and error.code == 0:  # --help
                return 0
            raise AssertionError(f"{what}: {argv}") from error
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, previous)
        lines = capsys.readouterr().err.splitlines()
        errors = [line for line in lines if line.startswith("vae-jax: ") and not line.startswith("vae-jax: warning")]
        assert code in EXIT_CODES, (what, argv, code)
        assert bool(errors) == (code != 0), (what, argv, code, errors)
        return code

    return run


@pytest.fixture
def inputs(request):
    """inputs(total, case) -> the sources of randomness of one case's share of the inputs of a kind."""
    seed, count = request.config.getoption("--fuzz-seed"), request.config.getoption("--fuzz-inputs")

    def make(total, case):
        share = (total if count is None else count // 3) // CASES
        return [random.Random(f"{seed} {request.node.originalname} {case} {i}") for i in range(share)]

    return make


@pytest.mark.parametrize("case", range(CASES))
def test_damaged_settings(attempt, inputs, tmp_path, case):
    settings = [(path, str(value)) for preset in PRESETS.values() for path, value in flatten(preset).items()]
    names = [name for section in SECTIONS for name in choices(section)]
    codes = set()
    for i, rng in enumerate(inputs(SETTINGS, case)):
        argv = [rng.choice(("train", "train", "sweep")), "--preset", rng.choice(list(PRESETS))]
        argv += damaged_flags(rng, settings, names)
        if argv[0] == "sweep":
            argv += ["--vary", rng.choice(settings)[0], "0", "1"]
        argv += ["--workdir", str(tmp_path / "run"), "--compilation-cache", "None", "--data.name", "missing.npy"]
        codes.add(attempt(argv, f"settings {i}"))
    assert codes <= {0, 2}  # 0: --help
    assert not any(tmp_path.iterdir())


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """(kind, path) of intact data of each kind that a stranger may send: files, folders, prepared data sets."""
    folder, rng = tmp_path_factory.mktemp("files"), np.random.default_rng(0)
    images = rng.integers(0, 256, (12, 5, 4, 3), dtype=np.uint8)
    np.save(folder / "images.npy", images)
    np.savez(folder / "images.npz", x=images[..., 0], y=np.arange(12) % 3)
    np.savez_compressed(folder / "counts.npz", x_train=rng.poisson(3, (12, 5)), x_test=rng.poisson(3, (6, 5)))
    for suffix in ("png", "jpg", "gif", "bmp", "tiff", "webp", "ppm"):
        (folder / suffix).mkdir()
        for i in range(3):
            Image.fromarray(images[i]).save(folder / suffix / f"{i}.{suffix}")
    (folder / "idx").mkdir()
    for split, count in (("train", 9), ("t10k", 3)):
        header = (0x803).to_bytes(4) + count.to_bytes(4) + (4).to_bytes(4) + (5).to_bytes(4)
        (folder / "idx" / f"{split}-images-idx3-ubyte").write_bytes(header + images[:count, ..., 0].tobytes())
        labels = (0x801).to_bytes(4) + count.to_bytes(4) + bytes(range(count))
        (folder / "idx" / f"{split}-labels-idx1-ubyte").write_bytes(labels)
    (folder / "tfds").mkdir()
    features = lambda tfds: {"image": tfds.features.Tensor(shape=(5, 4, 3), dtype=np.uint8)}  # noqa: E731
    write_dataset(folder / "tfds", "other", features, lambda i: {"image": images[i]})
    return folder


@pytest.mark.parametrize("case", range(CASES))
def test_damaged_files_of_data(attempt, inputs, files, tmp_path, case):
    entries = sorted(files.iterdir())
    for i, rng in enumerate(inputs(DATA, case)):
        entry = rng.choice(entries)
        copy = tmp_path / str(i) / entry.name
        copy.parent.mkdir()
        shutil.copytree(entry, copy) if entry.is_dir() else shutil.copy(entry, copy)
        target = rng.choice(sorted(path for path in copy.parent.rglob("*") if path.is_file()))
        damage(target, rng, damaged_json if target.suffix == ".json" else damaged_bytes)
        name = "other" if entry.name == "tfds" else str(copy)
        argv = ["train", "--workdir", str(tmp_path / "run"), "--data.name", name, "--data.data-dir", str(copy), *SMALL]
        # The batch is refused after the data are read.
        code = attempt([*argv, "--train.batch-size", "100000"], f"{entry.name} {i}")
        assert code in (2, 5), (code, target)
        shutil.rmtree(copy.parent)
    assert not any(tmp_path.iterdir())


@pytest.fixture(scope="module")
def finished(data_dir, tmp_path_factory):
    """(directory, arguments) of a finished run."""
    directory = tmp_path_factory.mktemp("fuzzed") / "run"
    argv = ["train", "--data.data-dir", data_dir, *SMALL, "--mesh.data", "1", "--train.steps", "10",
            "--evaluation.num-samples", "1", "--evaluation.chunk", "1", "--network.hidden", "4"]  # fmt: skip
    assert main([*argv, "--workdir", str(directory)]) == 0
    return directory, argv


@pytest.mark.parametrize("case", range(CASES))
def test_damaged_files_of_a_run(attempt, inputs, finished, tmp_path, monkeypatch, case):
    monkeypatch.setattr("vae_jax.bench.check_memory", lambda *_: None)  # reads no file, and takes most of the time
    directory, argv = finished
    codes = set()
    for i, rng in enumerate(inputs(RUN, case)):
        run = Path(shutil.copytree(directory, tmp_path / str(i)))
        target = rng.choice(sorted(path for path in run.rglob("*") if path.is_file() and path.suffix != ".png"))
        change = {".json": damaged_json, ".jsonl": damaged_lines}.get(target.suffix, damaged_bytes)
        damage(target, rng, change)
        command = rng.choice(([*argv, "--workdir", str(run)], ["encode", str(run), "--split", "test"]))
        codes.add(attempt(command, f"{target.relative_to(run)} {i}"))
        shutil.rmtree(run)
    assert {0, 4} <= codes
