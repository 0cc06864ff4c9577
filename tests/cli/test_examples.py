"""The help begins with examples that the commands accept, and describes every preset."""

import shlex

import pytest

from vae_jax.cli import examples
from vae_jax.cli.evaluate import Evaluate
from vae_jax.cli.main import help_text, main
from vae_jax.cli.parsing import parse_run_command
from vae_jax.cli.train import parse_arguments
from vae_jax.config import PRESETS


def test_every_preset_is_described():
    assert list(examples.PRESETS) == list(PRESETS)
    lines = [*examples.examples_text().splitlines(), *examples.presets_text().splitlines()]
    assert all(line.isascii() and len(line) <= 100 for line in lines)


def test_the_commands_accept_the_examples():
    for command, _ in examples.EXAMPLES:
        program, name, *argv = shlex.split(command)
        assert program == "vae-jax"
        if name == "train":
            parse_arguments(argv)
        else:
            assert name == "evaluate"
            parse_run_command(name, Evaluate, argv)
    assert len(examples.EXAMPLES) == 3


def test_the_help_begins_with_the_examples(capsys):
    assert help_text().startswith(examples.examples_text())
    assert examples.presets_text() in help_text()
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    assert capsys.readouterr().out.startswith(f"{examples.examples_text()}\n\n{examples.presets_text()}\n\nusage:")
