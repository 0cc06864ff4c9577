"""vae_jax/cli/report.py: where the file is written, and refused arguments."""

import re
import shutil

import pytest

from vae_jax.cli import report

LIMIT = 3 * 2**20  # bytes of the report of a run on digits


def test_training_ends_with_a_report_and_the_command_repeats_it(copied, call, tmp_path):
    directory, _ = copied
    written = (directory / "report.html").read_bytes()
    assert len(written) < LIMIT
    text = written.decode()
    assert text.count('src="data:image/png;base64,') == len(list((directory / "figures").iterdir())) - 1
    assert not re.search(r"https?:|<script|<link", text)
    (directory / "report.html").unlink()
    assert call("report", directory).result == {"workdir": str(directory), "report": str(directory / "report.html")}
    again = (directory / "report.html").read_bytes()
    assert again == written
    result = call("report", directory, "--to", tmp_path / "to").result
    assert result["report"] == str(tmp_path / "to" / "report.html")


def test_several_runs_are_compared_in_the_folder_that_contains_them(copied, call, tmp_path):
    directory, _ = copied
    shutil.copytree(directory, tmp_path / "second")
    result = call("report", directory, tmp_path / "second").result
    assert result["report"] == str(tmp_path / "comparison.html")
    text = (tmp_path / "comparison.html").read_text()
    assert "Comparison of 2 runs" in text
    assert "is missing" not in text  # training writes the scores of the examples
    result = call("report", directory, tmp_path / "second", "--to", tmp_path / "to").result
    assert result["report"] == str(tmp_path / "to" / "comparison.html")


def test_a_run_that_is_given_twice_is_one_run(copied, call, tmp_path, monkeypatch):
    directory, _ = copied
    monkeypatch.chdir(directory.parent)
    result = call("report", directory.name, directory).result
    assert result == {"workdir": str(directory), "report": str(directory / "report.html")}
    assert not list(directory.glob("comparison.html"))
    shutil.copytree(directory, tmp_path / "second")
    result = call("report", tmp_path / "second", directory, tmp_path / "second/").result
    assert result["workdirs"] == [str(tmp_path / "second"), str(directory)]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["report"], ["no run directory", "vae-jax report RUN"]),
        (["report", "EMPTY"], ["contains no run (config.json is missing)"]),
        (["report", "RUN", "EMPTY"], ["contains no run (config.json is missing)"]),
        (["report", "RUN", "--form", "pdf"], ["--form"]),
    ],
)
def test_report_refuses(argv, words, refuses):
    refuses(argv, *words)


def test_the_help_lists_the_options(capsys):
    with pytest.raises(SystemExit) as stop:
        report.run(["--help"])
    assert not stop.value.code
    assert "--to" in capsys.readouterr().out
