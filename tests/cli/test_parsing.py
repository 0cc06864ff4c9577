"""vae_jax/cli/parsing.py: flags, and the one line of an error."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from vae_jax.cli import parsing, train as train_command
from vae_jax.config.presets import PRESETS
from vae_jax.errors import InputError


def test_the_last_of_two_equal_flags_is_used():
    with pytest.raises(InputError, match="--preset=nope"):
        train_command.parse_arguments(["--preset", "mnist", "--preset", "nope"])
    options, config = train_command.parse_arguments(["--preset", "mnist", "--preset=digits"])
    assert (options.preset, config) == ("digits", PRESETS["digits"])


def test_a_refusal_is_the_same_on_a_terminal_and_in_any_locale(tmp_path):
    """tyro prints in color on a terminal, and in ASCII if stdout is not UTF-8."""
    argv = [Path(sys.executable).with_name("vae-jax"), "train", "--modle.hidden", "3"]
    sections = "--network.hidden or --posterior.hidden or --prior.hidden"
    expected = f"vae-jax: Unrecognized options: --modle.hidden, 3; did you mean {sections}?"
    ascii_only = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    plain = subprocess.run(argv, capture_output=True, text=True, env=ascii_only, cwd=tmp_path)
    assert (plain.returncode, plain.stderr, plain.stdout) == (2, expected + "\n", "")
    parent, child = pty.openpty()
    try:
        on_terminal = os.environ | {"TERM": "xterm"}
        done = subprocess.run(argv, stdout=child, stderr=child, env=on_terminal, cwd=tmp_path)
        assert (done.returncode, os.read(parent, 4096).decode().strip()) == (2, expected)
    finally:
        os.close(parent)
        os.close(child)


def test_the_first_number_that_is_not_positive_is_named():
    parsing.require_positive(count=1)
    with pytest.raises(InputError, match="--pairs=0 must be greater than 0"):
        parsing.require_positive(count=1, pairs=0, frames=-1)


def test_a_run_command_needs_a_directory():
    with pytest.raises(InputError, match="evaluate: no run directory; use `vae-jax evaluate RUN`"):
        parsing.parse_run_command("evaluate", parsing.OutputOptions, ["--to", "here"])
    directory, options = parsing.parse_run_command("encode", parsing.OutputOptions, ["run", "--to", "here"])
    assert (str(directory), options.to) == ("run", "here")


def test_an_existing_run_is_the_base_of_the_flags_unless_a_preset_is_given(copied):
    directory, _ = copied
    workdir = ["--workdir", str(directory)]
    stored = train_command.parse_arguments([*workdir, "--objective", "renyi"])[1]
    assert (stored.train.steps, stored.network.hidden, stored.objective.name) == (20, (8,), "renyi")
    assert train_command.parse_arguments([*workdir, "--preset", "pca"])[1] == PRESETS["pca"]


def test_an_unknown_flag_of_a_command_without_settings_is_one_line():
    with pytest.raises(InputError, match=r"^Unrecognized options: --too, here; did you mean --to\?$"):
        parsing.parse_run_command("encode", parsing.OutputOptions, ["run", "--too", "here"])
