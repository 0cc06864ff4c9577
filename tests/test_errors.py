"""Errors: exit codes, the class hierarchy, and what the command line prints."""

import pytest

from vae_jax import errors
from vae_jax.cli import commands

EXIT_CODES = {
    "VaeJaxError": 2,
    "InputError": 2,
    "NoExamplesError": 2,
    "NotFiniteError": 3,
    "CheckpointError": 4,
    "StorageError": 5,
    "LockedError": 6,
    "LostProcessError": 7,
}
CLASSES = {name: kind for name, kind in vars(errors).items() if isinstance(kind, type)}


def test_every_class_has_its_exit_code():
    assert {name: kind.exit_code for name, kind in CLASSES.items()} == EXIT_CODES


def test_one_except_clause_catches_all_and_no_other_errors():
    assert all(issubclass(kind, errors.VaeJaxError) for kind in CLASSES.values())
    assert not issubclass(errors.VaeJaxError, (ValueError, OSError, RuntimeError))


@pytest.mark.parametrize("name", [name for name in EXIT_CODES if name != "VaeJaxError"])
def test_the_docstring_states_the_exit_code(name):
    assert CLASSES[name].__doc__.endswith(f"Exit code {EXIT_CODES[name]}.")


@pytest.mark.fault
@pytest.mark.parametrize("name", [name for name in EXIT_CODES if name != "LostProcessError"])
def test_the_command_line_prints_one_line_and_returns_the_exit_code(name, call, monkeypatch):
    def fail(argv):
        raise CLASSES[name]("train.steps=0 must be greater than 0")

    monkeypatch.setitem(commands._commands, "train", commands.commands()["train"]._replace(run=fail))
    called = call("train")
    assert (called.code, called.out) == (EXIT_CODES[name], [])
    assert called.err == ["vae-jax: train.steps=0 must be greater than 0"]
