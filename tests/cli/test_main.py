"""The command: what it prints, writes and refuses, as a user or a script sees it."""

import hashlib
import json
import math
import os
import pty
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from inputs import SHARED
from jax.export import deserialize
from PIL import Image

import vae_jax
from vae_jax.cli import train as train_command
from vae_jax.cli.main import COMMANDS, main
from vae_jax.config.presets import PRESETS
from vae_jax.errors import InputError
from vae_jax.runs import decoding, opening, plots, programs, recorder, restoring
from vae_jax.runs.loggers import read_metrics
from vae_jax.training import evaluator

CIFAR = SHARED / "cifar10_4k.npz"
SMALL = [
    "--compilation-cache", "None", "--model.hidden", "8", "--model.latent-dim", "2", "--train.batch-size", "16",
    "--train.log-every", "5", "--train.evaluate-every", "10", "--train.save-every", "10",
    "--evaluation.num-samples", "4", "--evaluation.chunk", "3",
]  # fmt: skip
FIGURES = {"samples", "reconstructions", "interpolations", "traversals", "manifold", "curves"}


@pytest.fixture(scope="session")
def trained(data_dir, tmp_path_factory):
    """(run directory, its command line, what the process printed, what it said) of a small run on one device."""
    directory = tmp_path_factory.mktemp("cli") / "run"
    argv = ["train", "--workdir", str(directory), "--data.data-dir", data_dir, "--train.steps", "20", *SMALL]
    argv += ["--mesh.data", "1"]
    done = subprocess.run([Path(sys.executable).with_name("vae-jax"), *argv], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return directory, argv, done.stdout, done.stderr


@pytest.fixture
def copied(trained, tmp_path):
    """(a copy of that run, its command line)."""
    directory, argv, *_ = trained
    shutil.copytree(directory, tmp_path / "run")
    return tmp_path / "run", [word if word != str(directory) else str(tmp_path / "run") for word in argv]


def snapshot(folder):
    """{path: SHA-256 of a file, None for a folder} of everything below a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
        for path in sorted(Path(folder).rglob("*"))
    }


def picture(path):
    with Image.open(path) as image:
        image.verify()  # checksums
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def test_training_ends_with_numbers_and_pictures(trained):
    directory, _, out, err = trained
    result = json.loads(out.splitlines()[-1])
    assert len(out.splitlines()) == 1
    assert (result["status"], result["step"], result["split"], result["num_examples"]) == ("done", 20, "test", 359)
    assert all(math.isfinite(result[name]) for name in ("elbo", "nll", "nll_se", "reconstruction", "kl"))
    assert result["elbo"] == pytest.approx(result["reconstruction"] - result["kl"])
    stored = json.loads((directory / "evaluation.json").read_text())
    assert stored["elbo"] == result["elbo"]
    assert {path.stem for path in (directory / "figures").iterdir()} == FIGURES
    for path in (directory / "figures").iterdir():
        assert path.suffix == ".png"
        assert len(np.unique(picture(path))) > 2  # not a blank
    assert [row["step"] for row in read_metrics(directory / "metrics.jsonl")] == [5, 10, 10, 15, 20, 20]
    assert sorted(path.name for path in (directory / "checkpoints").iterdir()) == ["10", "20"]
    assert "step 20/20" in err
    assert "Traceback" not in err


def test_the_same_command_again_prints_the_same_results(trained, call):
    directory, argv, out, _ = trained
    before = snapshot(directory)
    again = call(*argv)
    assert "all 20 steps are done" in again.err[-1]
    first = json.loads(out.splitlines()[-1])
    assert again.result == {name: value for name, value in first.items() if name not in ("train_seconds", "seconds")}
    after = snapshot(directory)
    changed = {path for path in {*before, *after} if before.get(path) != after.get(path)}
    assert all(path == "lock" or path.startswith("events.") for path in changed), changed


def test_a_run_directory_is_enough_to_go_on(copied, call, monkeypatch):
    directory, _ = copied
    before = (directory / "metrics.jsonl").read_bytes()
    monkeypatch.setattr(plots, "draw_all", lambda *_: [])
    result = call("train", "--workdir", directory, "--train.steps", 30, "--compilation-cache", "None").result
    assert (result["status"], result["step"]) == ("done", 30)
    after = (directory / "metrics.jsonl").read_bytes()
    assert after.startswith(before)
    assert [row["step"] for row in read_metrics(directory / "metrics.jsonl")][6:] == [25, 30, 30]
    assert json.loads((directory / "evaluation.json").read_text())["step"] == 30


@pytest.mark.fault
def test_a_signal_in_the_evaluation_ends_it_and_the_same_command_repeats_it(copied, call, monkeypatch):
    directory, argv = copied
    expected = json.loads((directory / "evaluation.json").read_text())
    (directory / "evaluation.json").unlink()
    drawn = []
    monkeypatch.setattr(plots, "draw_all", lambda *_: drawn)
    likelihood = evaluator.Evaluator.likelihood

    def interrupted(self, *args, **kwargs):
        signal.raise_signal(signal.SIGTERM)
        return likelihood(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(evaluator.Evaluator, "likelihood", interrupted)
        stopped = call(*argv)
    assert stopped.result["status"] == "interrupted"
    assert "drawn: " in stopped.err  # before what may be interrupted, and is what says that all is done
    assert "elbo" not in stopped.result
    assert not (directory / "evaluation.json").exists()
    assert call(*argv).result["elbo"] == pytest.approx(expected["elbo"], rel=1e-6)


@pytest.mark.fault
@pytest.mark.parametrize(("where", "step"), [("begin", 20), ("dispatched", 25)])
def test_what_was_said_at_the_end_goes_when_more_steps_begin(where, step, copied, call, monkeypatch):
    """A script takes `evaluation.json` for the end of a run, also of one that has been interrupted after it."""
    directory, argv = copied
    method = getattr(recorder.Recorder, where)

    def interrupted(self, *args):
        signal.raise_signal(signal.SIGTERM)
        return method(self, *args)

    monkeypatch.setattr(recorder.Recorder, where, interrupted)
    stopped = call(*argv, "--train.steps", 40).result
    assert (stopped["status"], stopped["step"]) == ("interrupted", step)
    assert not (directory / "evaluation.json").exists()


def test_a_finished_run_is_evaluated_anew_where_another_evaluation_is_asked_for(copied, call, monkeypatch):
    directory, argv = copied
    monkeypatch.setattr(plots, "draw_all", lambda *_: [])
    again = call(*argv, "--evaluation.num-samples", 6).result
    assert again["num_samples"] == 6
    stored = json.loads((directory / "evaluation.json").read_text())
    assert (stored["num_samples"], stored["nll"]) == (6, again["nll"])
    assert "nll" not in call(*argv, "--evaluation.num-samples", 0).result


@pytest.mark.fault
def test_more_steps_under_a_schedule_that_spans_them_are_told_and_kept_and_fewer_are_refused(copied, call, monkeypatch):
    directory, argv = copied
    monkeypatch.setattr(plots, "draw_all", lambda *_: [])
    before = (directory / "config.json").read_bytes()
    fewer = call(*argv, "--train.steps", 10)
    assert (fewer.code, fewer.out) == (2, [])
    assert fewer.err[-1] == f"vae-jax: train.steps=10 must be at least the 20 of {directory}"
    assert (directory / "config.json").read_bytes() == before
    more = call(*argv, "--train.steps", 25)
    told = "train.steps: 20 until step 20, 25 from then on, which the schedule cosine of the learning rate spans"
    assert [line for line in more.err if line.startswith("train.steps: ")] == [told]
    kept = json.loads((directory / "config.json").read_text())["changes"]
    assert kept == [{"step": 20, "setting": "train.steps", "from": 20, "to": 25}]
    again = call(*argv, "--train.steps", 25)
    assert not any(line.startswith("train.steps: ") for line in again.err)
    assert again.result["step"] == 25


def test_evaluate(trained, call):
    directory, _, out, _ = trained
    first, before = json.loads(out.splitlines()[-1]), snapshot(directory)
    result = call("evaluate", directory).result  # on eight devices
    for name in ("reconstruction", "kl", "elbo", "nll", "nll_se", "ess"):
        assert result[name] == pytest.approx(first[name], rel=1e-5), name
    other = call("evaluate", directory, "--split", "validation", "--num-samples", 0).result
    assert (other["split"], other["num_examples"]) == ("validation", 144)
    assert "nll" not in other
    assert snapshot(directory) == before


def test_sample(copied, call):
    directory, _ = copied
    result = call("sample", directory, "--count", 7, "--seed", 3).result
    first = np.load(result["images"], allow_pickle=False)
    assert (first.shape, first.dtype) == ((7, 8, 8, 1), np.uint8)
    picture(result["figure"])
    again, other = (
        np.load(call("sample", directory, "--count", 7, "--seed", seed).result["images"]) for seed in (3, 4)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_reconstruct_interpolate_and_encode(copied, call):
    directory, _ = copied
    small = picture(call("reconstruct", directory, "--count", 2).result["figure"])
    assert small.size < picture(call("reconstruct", directory, "--count", 20).result["figure"]).size
    narrow = picture(call("interpolate", directory, "--pairs", 2, "--frames", 3).result["figure"])
    assert (
        narrow.shape[1] < picture(call("interpolate", directory, "--pairs", 2, "--frames", 9).result["figure"]).shape[1]
    )
    result = call("encode", directory, "--split", "validation").result
    with np.load(result["codes"], allow_pickle=False) as codes:
        assert set(codes) == {"mean", "scale"}
        assert codes["mean"].shape == codes["scale"].shape == (result["num_examples"], 2) == (144, 2)
        assert (codes["scale"] > 0).all()
        assert np.isfinite(codes["mean"]).all()


def test_export(copied, call):
    directory, _ = copied
    result = call("export", directory).result
    assert (result["step"], result["platforms"]) == (20, ["cpu", "cuda", "rocm", "tpu"])
    assert {name: (program["takes"], program["gives"]) for name, program in result["programs"].items()} == {
        "encoder": ("float32[B,8,8,1]", {"mean": "float32[B,2]", "scale": "float32[B,2]"}),
        "decoder": ("float32[B,2]", "float32[B,8,8,1]"),
        "sampler": ("uint32[B,2]", "float32[B,8,8,1]"),
    }
    assert json.loads((directory / "exported" / "programs.json").read_text()) == {
        "step": 20, "binarization": "dynamic", "platforms": result["platforms"], "programs": result["programs"],
    }  # fmt: skip
    decoder = deserialize(bytearray((directory / "exported" / result["programs"]["decoder"]["file"]).read_bytes()))
    run = opening.open_run(directory)
    z = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)
    with restoring.restored_params(run, print) as (_, params):
        np.testing.assert_allclose(decoder.call(z), decoding.decode_images(run, params, z), rtol=1e-5)


@pytest.mark.parametrize(("command", "written"), [
    ("sample", ["figures/samples.png", "samples.npy"]),
    ("reconstruct", ["figures/reconstructions.png"]),
    ("interpolate", ["figures/interpolations.png"]),
    ("encode", ["codes-test.npz"]),
    ("export", ["exported/decoder.jax", "exported/encoder.jax", "exported/programs.json", "exported/sampler.jax"]),
])  # fmt: skip
def test_what_a_command_writes_can_go_elsewhere(command, written, trained, tmp_path, call):
    directory, *_ = trained
    before = snapshot(directory)
    call(command, directory, "--to", tmp_path / "out").result  # noqa: B018
    found = sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*") if p.is_file())
    assert found == written
    assert snapshot(directory) == before
    (tmp_path / "file").write_text("mine")
    refused = call(command, directory, "--to", tmp_path / "file")
    assert (refused.code, len(refused.err)) == (5, 1)
    assert refused.err[0].startswith(f"vae-jax: --to: {tmp_path / 'file'} cannot be made or written to")


# Images that change or move.


@pytest.fixture
def of_a_file(tmp_path, monkeypatch, call):
    """(run directory, its command line, what it printed) of a run on pictures.npy in the working directory."""
    monkeypatch.chdir(tmp_path)
    np.save("pictures.npy", np.random.default_rng(0).integers(0, 256, (60, 6, 6), dtype=np.uint8))
    argv = ["train", "--workdir", "run", "--data.name", "pictures.npy", "--train.steps", "10", *SMALL,
            "--mesh.data", "1"]  # fmt: skip
    return tmp_path / "run", argv, call(*argv).result


@pytest.mark.fault
def test_a_finished_run_that_is_given_other_images_is_judged_by_them(of_a_file, call, monkeypatch):
    directory, argv, first = of_a_file
    monkeypatch.setattr(plots, "draw_all", lambda *_: [])
    again = call(*argv).result
    assert (again["nll"], again["seed"]) == (first["nll"], 0)
    np.save("pictures.npy", np.full((60, 6, 6), 255, np.uint8))
    other = call(*argv, "--allow-change", "data.name").result
    assert (other["step"], other["status"]) == (10, "done")
    assert abs(other["nll"] - first["nll"]) > 1e-3
    assert other["nll"] == pytest.approx(call("evaluate", directory).result["nll"], rel=1e-5)
    seeded = call(*argv, "--seed", 5, "--allow-change", "seed").result
    assert seeded["seed"] == 5
    assert seeded["elbo"] != other["elbo"]


@pytest.mark.fault
def test_no_command_takes_other_images_for_those_of_the_run(of_a_file, call):
    directory, *_ = of_a_file
    np.save("pictures.npy", np.full((60, 6, 6), 255, np.uint8))
    for command in ("evaluate", "encode", "reconstruct", "interpolate"):
        refused(call, directory, [command, directory], "are no longer those that", "--allow-change data.name")
    call("sample", directory).result  # noqa: B018  which reads none


@pytest.mark.fault
def test_a_run_finds_its_images_from_another_place_and_takes_them_from_elsewhere(
    of_a_file, tmp_path, call, monkeypatch
):
    directory, _, first = of_a_file
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    assert call("evaluate", directory).result["nll"] == pytest.approx(first["nll"], rel=1e-5)
    shutil.move(tmp_path / "pictures.npy", tmp_path / "other" / "moved.npy")
    words = ("pictures.npy", "config.json that names it", "--data.name NAME` says where the same images are now")
    refused(call, directory, ["evaluate", directory], *words)
    monkeypatch.setattr(plots, "draw_all", lambda *_: [])
    found = call("train", "--workdir", directory, "--data.name", "moved.npy", "--compilation-cache", "None").result
    assert found["nll"] == first["nll"]  # the same images: nothing is judged anew
    assert "changes" not in json.loads((directory / "config.json").read_text())
    monkeypatch.chdir(tmp_path)
    assert call("evaluate", directory).result["nll"] == pytest.approx(first["nll"], rel=1e-5)
    more = call("train", "--workdir", directory, "--train.steps", 15, "--compilation-cache", "None").result
    assert (more["status"], more["step"]) == ("done", 15)


@pytest.mark.parametrize(("images", "count", "pairs"), [(60, 6, 3), (30, 3, 1)])
def test_there_may_be_fewer_images_than_are_usually_drawn(images, count, pairs, tmp_path, monkeypatch, call):
    monkeypatch.chdir(tmp_path)
    np.save("few.npy", np.random.default_rng(0).integers(0, 256, (images, 6, 6), dtype=np.uint8))
    argv = ["train", "--workdir", "run", "--data.name", "few.npy", "--train.steps", "10", *SMALL, "--mesh.data", "1"]
    call(*argv).result  # noqa: B018
    shown = {}
    for name in ("reconstructions", "interpolations"):
        monkeypatch.setattr(plots.figures, name, lambda path, first, *rest, name=name: shown.update({name: len(first)}))
    call("reconstruct", "run").result  # noqa: B018
    call("interpolate", "run").result  # noqa: B018
    assert shown == {"reconstructions": count, "interpolations": pairs}


def test_data_list(data_dir, trained, call):
    found = {entry["name"]: entry for entry in call("data", "list", "--data-dir", data_dir).result["datasets"]}
    assert found["digits"]["prepared"] is True
    assert found["digits"]["splits"] == {"train": 1438, "test": 359}
    assert found["mnist"]["prepared"] is False


def test_output_that_cannot_be_written_is_one_line_and_exit_code_5(copied, call):
    directory, _ = copied
    (directory / "samples.npy").mkdir()
    refused = call("sample", directory, "--count", 2)
    assert (refused.code, refused.out) == (5, [])
    assert refused.err == [f"vae-jax: cannot write {directory / 'samples.npy'}: Is a directory"]


def test_the_last_of_two_equal_flags_counts():
    with pytest.raises(InputError, match="--preset: nope given"):
        train_command.parse_arguments(["--preset", "mnist", "--preset", "nope"])
    found = train_command.parse_arguments(["--preset", "mnist", "--preset=digits"])
    assert (found[0].preset, found[1]) == ("digits", PRESETS["digits"])


# Help.

IMPORTS = """
import contextlib, io, sys
from vae_jax.cli.main import help_text, main
WRONG = ["train", "--modle.hidden", "3"], ["train", "--workdir", "absent", "--modle.hidden", "3"]
for argv in ([], ["--help"], ["--version"], *([name, "--help"] for name in COMMANDS), *WRONG):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            main(argv)
        except SystemExit as stop:
            assert not stop.code
print(*sorted({"jax", "flax", "orbax", "tensorflow_datasets", "matplotlib", "sklearn"} & set(sys.modules)))
"""


def test_help_and_a_typing_error_import_nothing_heavy(tmp_path):
    done = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout == "\n"


def test_the_package_is_the_command_too(tmp_path):
    argv = [sys.executable, "-m", "vae_jax", "trian"]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("vae-jax: 'trian': no such command")


@pytest.mark.fault
def test_ctrl_c_where_nothing_is_to_be_saved_is_one_line():
    work = "import os, signal, time; from vae_jax.cli.main import main; from vae_jax.cli import data; "
    work += "signal.signal(signal.SIGINT, signal.default_int_handler); "  # a shell's background jobs ignore it
    work += "data.run = lambda argv: (os.kill(os.getpid(), signal.SIGINT), time.sleep(60)); main(['data'])"
    done = subprocess.run([sys.executable, "-c", work], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "vae-jax: interrupted\n")


@pytest.mark.fault
def test_results_that_cannot_be_written_are_one_line(tmp_path):
    with open("/dev/full", "w") as full:
        argv = [Path(sys.executable).with_name("vae-jax"), "data", "list"]
        done = subprocess.run(argv, stdout=full, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
        helped = subprocess.run([argv[0], "--help"], stdout=full, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    for found in (done, helped):
        assert found.returncode == 5
        told = "vae-jax: stdout: the results cannot be written (No space left on device)"
        assert found.stderr.splitlines()[-1] == told
        assert "Traceback" not in found.stderr
    closed = subprocess.run(f"{argv[0]} data list >&-", shell=True, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    assert closed.returncode == 5
    assert closed.stderr.splitlines()[-1] == "vae-jax: stdout: the results cannot be written (it is closed)"


def test_a_refusal_says_the_same_on_a_terminal_and_in_any_locale(tmp_path):
    """tyro draws in colour on a terminal, and in ASCII where stdout is not UTF-8."""
    argv = [Path(sys.executable).with_name("vae-jax"), "train", "--modle.hidden", "3"]
    expected = "vae-jax: Unrecognized options: --modle.hidden, 3; did you mean --model.hidden?"
    ascii_only = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    plain = subprocess.run(argv, capture_output=True, text=True, env=ascii_only, cwd=tmp_path)
    assert (plain.returncode, plain.stderr, plain.stdout) == (2, expected + "\n", "")
    ours, theirs = pty.openpty()
    try:
        on_terminal = os.environ | {"TERM": "xterm"}
        seen = subprocess.run(argv, stdout=theirs, stderr=theirs, env=on_terminal, cwd=tmp_path)
        assert (seen.returncode, os.read(ours, 4096).decode().strip()) == (2, expected)
    finally:
        os.close(ours)
        os.close(theirs)


def test_help_names_every_command_and_preset(call):
    for argv in ([], ["--help"], ["-h"], ["help"]):
        shown = call(*argv)
        assert (shown.code, shown.err) == (0, [])
        text = "\n".join(shown.out)
        assert all(f"  {name} " in text for name in COMMANDS)
        assert all(name in text for name in PRESETS)


def test_the_version_names_what_a_result_depends_on(call):
    for argv in (["--version"], ["-V"]):
        shown = call(*argv)
        assert (shown.code, shown.err) == (0, [])
        assert shown.out[0].startswith(f"vae-jax {vae_jax.__version__}, jax {jax.__version__}, jaxlib ")
        assert shown.out[0].endswith(f", Python {sys.version.split()[0]}")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert not stop.value.code
    text = capsys.readouterr().out
    assert f"vae-jax {command}" in text
    expected = {
        "train": "--optimizer.learning-rate",
        "sweep": "--vary",
        "bench": "--variants",
        "plan": "--memory",
        "data": "prepare",
        "sample": "--count",
        "interpolate": "--frames",
        "export": "exported/*.jax",
    }
    assert expected.get(command, "--split") in text


# Wrong inputs: one line, exit code 2 (5 where the file system refuses), and nothing on disk has changed.


def refused(call, folder, argv, *words, code=2):
    before = snapshot(folder)
    found = call(*argv)
    assert (found.code, found.out, len(found.err)) == (code, [], 1), (found.out, found.err)
    assert found.err[0].startswith("vae-jax: ")
    assert all(word in found.err[0] for word in words), found.err[0]
    assert snapshot(folder) == before


@pytest.mark.fault
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--preset", "mnits"], ["--preset: mnits given", "did you mean 'mnist'?"]),
        (["--modle.hidden", "3"], ["--modle.hidden", "did you mean --model.hidden?"]),
        (["--optimizer.learning-rate", "-1"], ["optimizer.learning_rate: -1.0 given", "greater than 0"]),
        (["--optimizer.learning-rate", "nan"], ["optimizer.learning_rate: nan given", "finite"]),
        (["--optimizer.learning-rate", "fast"], ["--optimizer.learning-rate", "fast"]),
        (["--train.steps", "1.5"], ["--train.steps", "1.5"]),
        (["--objective.name", "elbow"], ["--objective.name", "elbow", "elbo"]),
        (["--train.batch-size", "1296"], ["train.batch_size: 1296 given", "at most the 1294 training images"]),
        (["--train.batch-size", "21"], ["train.batch_size: 21 given", "multiple of the 8 devices", "example 24"]),
        (["--mesh.data", "9"], ["mesh.data: 9 given", "at most the 8 devices"]),
        (["--data.name", "mnist"], ["data.name='mnist': not prepared", "run `vae-jax data prepare mnist`"]),
        (["--data.name", "digitz"], ["data.name='digitz'", "did you mean 'digits'?"]),
        (["--model.posterior", "deterministic"], ["objective.name: elbo given", "model.posterior is deterministic"]),
        (["--model.likelihood", "logistic-mixture", "--data.binarization", "dynamic"], ["data.binarization: dynamic"]),
        (["--model.network", "conv", "--model.tied"], ["model.tied: True given"]),
        (["--train.patience", "2", "--train.evaluate-every", "0"], ["train.patience: 2 given"]),
        (["--seed", "4294967296"], ["seed: 4294967296 given"]),
        (
            ["--model.tied", "--model.likelihood", "logistic-mixture", "--data.binarization", "none"],
            ["model.tied: True"],
        ),
        (["--allow-change", "seed", "--allow-change", "data.name"], ["--allow-change: given twice, must be once"]),
        (["--allow-change", "seed", "--allow_change=data.name"], ["--allow-change: given twice, must be once"]),
        (["--workdir", ""], ["--workdir: '' given"]),
        (["extra"], ["extra"]),
    ],
)
def test_train_refuses(flags, words, data_dir, tmp_path, monkeypatch, call):
    monkeypatch.chdir(tmp_path)
    argv = ["train", "--workdir", tmp_path / "run", "--data.data-dir", data_dir, "--compilation-cache", "None"]
    refused(call, tmp_path, [*argv, *flags], *words)


class Unpickled:
    def __reduce__(self):
        return (Path.touch, (Path("unpickled"),))


@pytest.mark.fault
def test_train_refuses_files_that_are_no_images(tmp_path, monkeypatch, call):
    monkeypatch.chdir(tmp_path)
    np.savez("floats.npz", images=np.full((20, 4, 4), 1.5, np.float32))
    np.savez("objects.npz", images=np.array([Unpickled()] * 20, dtype=object))
    argv = ["train", "--workdir", "run", "--compilation-cache", "None", "--data.name"]
    refused(call, tmp_path, [*argv, "floats.npz"], "data.name='floats.npz'", "from 1.5 to 1.5", "must lie in [0, 1]")
    refused(call, tmp_path, [*argv, "objects.npz"], "data.name='objects.npz'", "pickled Python objects, never loaded")
    refused(call, tmp_path, [*argv, "absent.npz"], "data.name='absent.npz': no such file")
    np.savez("bytes.npz", images=np.zeros((20, 4, 4), np.uint8))
    without = [*argv, "bytes.npz", "--data.holdout", "0", "--train.batch-size", "8"]
    refused(call, tmp_path, without, "data.holdout=0.0: no test examples")


@pytest.mark.fault
def test_train_refuses_the_directory_of_another_config(copied, call):
    directory, argv = copied
    refused(call, directory, [*argv, "--seed", "1"], f"seed: 0 in {directory}, 1 asked", "another --workdir")
    words = ["model.latent_dim: 2 in ", ", 3 asked", "model.hidden: [8] in ", ", [9] asked"]
    refused(call, directory, [*argv, "--model.latent-dim", "3", "--model.hidden", "9"], *words)


@pytest.mark.fault
@pytest.mark.parametrize("workdir", ["file", "file/below/it", "/proc/nonexistent", "a" * 300])
def test_a_directory_that_cannot_be_is_refused_before_anything_is_compiled(
    workdir, data_dir, tmp_path, monkeypatch, call
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(programs, "fit", None)
    Path("file").write_text("mine")
    argv = ["train", "--workdir", workdir, "--data.data-dir", data_dir, "--compilation-cache", "None"]
    refused(call, tmp_path, argv, workdir, code=5)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["trian"], ["'trian': no such command", "did you mean 'train'?"]),
        (["evaluate"], ["the run's directory is missing"]),
        (["evaluate", "EMPTY"], ["no run here (config.json is missing)"]),
        (["sample", "EMPTY"], ["no run here"]),
        (["export", "EMPTY"], ["no run here"]),
        (["export", "RUN", "--cout", "3"], ["--cout"]),
        (["evaluate", "RUN", "--split", "tset"], ["split='tset': no such split", "train, validation, test"]),
        (["reconstruct", "RUN", "--split", "tset"], ["split='tset': no such split"]),
        (["encode", "RUN", "--split", "tset"], ["split='tset': no such split"]),
        (["evaluate", "RUN", "--num-samples", "-1"], ["evaluation.num_samples: -1 given"]),
        (["evaluate", "RUN", "--chunk", "-1"], ["evaluation.chunk: -1 given"]),
        (["reconstruct", "RUN", "--count", "360"], ["--count: 360 given", "at most 359: the split test has 359 image"]),
        (["reconstruct", "RUN", "--count", "0"], ["--count: 0 given"]),
        (["interpolate", "RUN", "--pairs", "180"], ["--pairs: 180 given", "at most 179: the split test has 359 image"]),
        (["sample", "RUN", "--count", "0"], ["--count: 0 given"]),
        (["sample", "RUN", "--seed", "9" * 20], ["--seed: 9999"]),
        (["interpolate", "RUN", "--frames", "1"], ["--frames=1 must be 2 or more"]),
        (["encode", "RUN", "--splt", "test"], ["--splt", "--split"]),
        (["data"], ["list,prepare"]),
        (["data", "lst"], ["lst", "list"]),
        (["data", "prepare", "minst"], ["'minst': not built in", "did you mean 'mnist'?"]),
    ],
)
def test_the_other_commands_refuse(argv, words, copied, call):
    directory, _ = copied
    (directory.parent / "empty").mkdir()
    places = {"RUN": directory, "EMPTY": directory.parent / "empty"}
    refused(call, directory.parent, [places.get(word, word) for word in argv], *words)


# Images that are not digits.


def blobs(count, height, width):
    """Grey images, each of one bright blob at a random place, uint8 [N, H, W]."""
    place = np.random.default_rng(0).uniform(0.2, 0.8, (count, 2, 1, 1)) * [[[height]], [[width]]]
    row, column = np.mgrid[:height, :width]
    return np.rint(255 * np.exp(-((row - place[:, 0]) ** 2 + (column - place[:, 1]) ** 2) / 20)).astype(np.uint8)


@pytest.mark.parametrize("kind", ["grey 28x20", "colour 32x32"])
def test_a_file_of_images_trains_by_the_8_bit_preset(kind, tmp_path, monkeypatch, call):
    if kind == "grey 28x20":
        images = blobs(100, 28, 20)
        assert images.shape == (100, 28, 20)
    elif CIFAR.exists():
        with np.load(CIFAR, allow_pickle=False) as stored:
            images = stored["images" if "images" in stored else stored.files[0]][:200]
        assert images.shape == (200, 32, 32, 3)
    else:
        pytest.skip("cifar10_4k.npz is not in ../shared/data")
    monkeypatch.chdir(tmp_path)
    np.savez("images.npz", images=images)
    result = call(
        "train", "--preset", "conv-8bit", "--data.name", "images.npz", "--model.hidden", 4, 8, "--model.latent-dim", 4,
        "--train.steps", 3, "--train.batch-size", 16, "--train.log-every", 3, "--train.evaluate-every", 0,
        "--train.save-every", 3, "--evaluation.num-samples", 2, "--compilation-cache", "None", "--mesh.data", 1,
    ).result  # fmt: skip
    assert (result["workdir"], result["step"]) == ("runs/conv-8bit", 3)
    assert result["num_examples"] == len(images) // 10
    assert result["bits_per_dim"] == pytest.approx(result["nll"] / (images[0].size * math.log(2)))
    assert 0 < result["bits_per_dim"] < 12
    for name in FIGURES - {"manifold"}:
        picture(tmp_path / "runs" / "conv-8bit" / "figures" / f"{name}.png")
