"""vae_jax/cli/main.py: the help, versions, exit codes, and errors outside of a command."""

import subprocess
import sys
from pathlib import Path

import jax
import pytest

import vae_jax
from vae_jax.cli.commands import commands
from vae_jax.cli.main import main
from vae_jax.config.presets import PRESETS

IMPORTS = """
import contextlib, io, sys
from vae_jax.cli.commands import commands
from vae_jax.cli.main import main
SETTINGS = "train", "sweep", "bench", "plan", "fit-prior"  # choices stand next to their functions, which need JAX
WRONG = ["trian"], ["evaluate"], ["evaluate", "absent", "--chnk", "3"]
wrong_settings = [["train", "--modle.hidden", "3"], ["train", "--workdir", "absent", "--modle.hidden", "3"]]
plain = [[], ["--help"], ["--version"], *([name, "--help"] for name in commands() if name not in SETTINGS), *WRONG]
large = {"jax", "flax", "orbax", "tensorflow_datasets", "matplotlib", "sklearn"}
for argv in (*plain, None, *([name, "--help"] for name in SETTINGS), *wrong_settings):
    if argv is None:
        assert not large & set(sys.modules), large & set(sys.modules)
        large -= {"jax", "flax"}
        continue
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            main(argv)
        except SystemExit as stop:
            assert not stop.code
print(*sorted(large & set(sys.modules)))
"""


def test_help_and_a_wrong_flag_import_no_large_library(tmp_path):
    done = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout == "\n"


@pytest.mark.fault
def test_ctrl_c_with_nothing_to_save_prints_one_line():
    work = "import os, signal, time; from vae_jax.cli import commands, main; "
    work += "signal.signal(signal.SIGINT, signal.default_int_handler); "  # background jobs of a shell ignore it
    work += "wait = lambda argv: (os.kill(os.getpid(), signal.SIGINT), time.sleep(60)); "
    work += "commands.register_command('wait', 'waits')(wait); main.main(['wait'])"
    done = subprocess.run([sys.executable, "-c", work], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "vae-jax: interrupted\n")


@pytest.mark.fault
def test_results_that_cannot_be_written_are_reported_in_one_line(tmp_path):
    with open("/dev/full", "w") as full:
        argv = [Path(sys.executable).with_name("vae-jax"), "data", "list"]
        done = subprocess.run(argv, stdout=full, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
        helped = subprocess.run([argv[0], "--help"], stdout=full, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    for result in (done, helped):
        assert result.returncode == 5
        message = "vae-jax: stdout: cannot write the results (No space left on device)"
        assert result.stderr.splitlines()[-1] == message
        assert "Traceback" not in result.stderr
    closed = subprocess.run(f"{argv[0]} data list >&-", shell=True, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    assert closed.returncode == 5
    assert closed.stderr.splitlines()[-1] == "vae-jax: stdout: cannot write the results (it is closed)"


def test_help_names_every_command_and_preset(call):
    for argv in ([], ["--help"], ["-h"], ["help"]):
        shown = call(*argv)
        assert (shown.code, shown.err) == (0, [])
        text = "\n".join(shown.out)
        assert all(f"  {name} " in text for name in commands())
        assert all(name in text for name in PRESETS)


def test_the_version_lists_all_versions_that_a_result_depends_on(call):
    for argv in (["--version"], ["-V"]):
        shown = call(*argv)
        assert (shown.code, shown.err) == (0, [])
        assert shown.out[0].startswith(f"vae-jax {vae_jax.__version__}, jax {jax.__version__}, jaxlib ")
        assert shown.out[0].endswith(f", Python {sys.version.split()[0]}")


@pytest.mark.parametrize("command", commands())
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
        "fit-prior": "--learning-rate",
        "sample": "--count",
        "interpolate": "--frames",
        "export": "exported/*.jax",
        "report": "comparison.html",
    }
    assert expected.get(command, "--split") in text


def test_an_unknown_command_is_refused(call):
    result = call("trian")
    assert (result.code, result.out, len(result.err)) == (2, [], 1)
    assert result.err[0].startswith("vae-jax: 'trian' is not a command; use one of train, ")
    assert result.err[0].endswith("did you mean 'train'?")
