"""vae_jax/cli/commands.py: commands are found, and `--import` makes those and the choices of a module known."""

import importlib
import sys
from pathlib import Path

import pytest
from commands import SMALL
from own_choices import own_choices

from vae_jax.cli import commands
from vae_jax.data import catalog
from vae_jax.errors import InputError

MODULE = '''
"""A module of a user."""

import dataclasses

import numpy as np

from vae_jax.cli.commands import register_command
from vae_jax.config import register, setting
from vae_jax.data import register_dataset
from vae_jax.inference import ObjectiveConfig, elbo


@register("objective", "part-of-elbo")
@dataclasses.dataclass(frozen=True)
class PartConfig(ObjectiveConfig):
    part: float = setting(0.5, "The part.", above=0)

    def at(self, step, num_examples):
        return lambda terms: self.part * elbo(terms)


@register_dataset("own-counts")
def own_counts():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 300)
    return {"train": {"x": rng.poisson(3 + 2 * y[:, None], (300, 6)), "y": y}}


@register_command("own-command", "prints its arguments", arguments="WORD ...")
def own_command(argv):
    return {"argv": list(argv)}
'''


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    """own_module(name, text): write a module into the working directory; all that it registers is forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(commands, "_commands", dict(commands.commands()))
    written, datasets = [], dict(catalog.REGISTERED)

    def write(name, text):
        Path(f"{name}.py").write_text(text)
        importlib.invalidate_caches()
        written.append(name)

    with own_choices():
        yield write
    catalog.REGISTERED.clear()
    catalog.REGISTERED.update(datasets)
    for name in written:
        sys.modules.pop(name, None)


def test_every_command_of_the_folder_is_found_in_the_order_of_the_help():
    found = list(commands.commands())
    assert found[:3] == ["train", "sweep", "bench"]
    folder = Path(commands.__file__).parent
    modules = {path.stem for path in folder.glob("*.py") if "@register_command(" in path.read_text()} - {"commands"}
    assert {name.replace("-", "_") for name in found} == modules
    for command in commands.commands().values():
        assert command.help
        assert "\n" not in command.help
        assert command.run.__module__ == f"vae_jax.cli.{command.name.replace('-', '_')}"


def test_a_registered_command_is_the_last_of_the_help_and_receives_the_other_arguments(own_module, call):
    own_module("own_a", MODULE)
    assert list(commands.commands())[-1] == "data"
    assert call("--import", "own_a", "own-command", "one", "--two").result == {"argv": ["one", "--two"]}
    assert list(commands.commands())[-1] == "own-command"
    shown = call("--import=own_a", "--help")
    assert shown.code == 0
    assert "  own-command WORD ...  prints its arguments" in shown.out


def test_choices_and_data_sets_of_a_module_are_known_to_every_command(own_module, call, capsys):
    own_module("own_b", MODULE)
    first = ["--import", "own_b"]
    assert "own-counts" in [entry["name"] for entry in call(*first, "data", "list").result["datasets"]]
    flags = ["--data.name", "own-counts", "--preprocess", "identity", "--likelihood", "poisson"]
    own = ["--objective", "part-of-elbo", "--objective.part", "0.25", "--mesh.data", 1]
    result = call(*first, "train", "--workdir", "run", *flags, *own, *SMALL, "--train.steps", 10).result
    assert (result["status"], result["num_examples"], result["likelihood"]) == ("done", 30, "poisson")
    again = call(*first, "evaluate", "run").result
    assert again["elbo"] == pytest.approx(result["elbo"], rel=1e-5)
    with pytest.raises(SystemExit):
        call(*first, "train", "--objective", "part-of-elbo", "--help")
    assert "--objective.part FLOAT" in capsys.readouterr().out


@pytest.mark.fault
def test_a_run_whose_choice_is_unknown_reports_that_a_module_may_be_needed(own_module, call, copied):
    directory, _ = copied
    path = directory / "config.json"
    path.write_text(path.read_text().replace('"objective": "elbo"', '"objective": "mine"'))
    for argv in (["evaluate", directory], ["train", "--workdir", directory], ["train", "--objective", "mine"]):
        refused = call(*argv)
        assert len(refused.err) == 1
        assert "objective='mine' must be one of " in refused.err[0]
        assert "`vae-jax --import MODULE`" in refused.err[0]
    unknown = call("own-command")
    assert (unknown.code, len(unknown.err)) == (2, 1)
    assert "`vae-jax --import MODULE COMMAND`" in unknown.err[0]


@pytest.mark.fault
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import nothing_of_this_name", "raises ModuleNotFoundError: No module named 'nothing_of_this_name' ("),
        ("x = 1\ny = 1 / 0", "raises ZeroDivisionError: division by zero ("),
        ("x = (", "raises SyntaxError: '(' was never closed ("),
        ("raise SystemExit('no')", "raises SystemExit: no ("),
        ("from vae_jax.config import register\nregister('prio', 'x')", ": section='prio' must be one of preprocess"),
        ("from vae_jax.cli.commands import register_command as r\nr('train', 'x')(lambda argv: {})",
         ": command train is already the name of vae_jax.cli.train.run; rename it"),
    ],
)  # fmt: skip
def test_a_module_that_raises_is_one_line(text, message, own_module, call):
    own_module("own_broken", text)
    refused = call("--import", "own_broken", "data", "list")
    assert (refused.code, refused.out, len(refused.err)) == (2, [], 1)
    separator = "" if message.startswith(":") else " "
    assert refused.err[0].startswith(f"vae-jax: --import=own_broken{separator}{message}")
    if message.endswith("("):
        line = text.count("\n") + 1
        assert refused.err[0].endswith(f"own_broken.py, line {line}); correct the module")


@pytest.mark.fault
@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--import", "absent_module", "data"], "--import=absent_module is not a module that Python finds; start in"),
        (["--import", "absent_module.part"], "--import=absent_module.part is not a module that Python finds; start in"),
        (["--import"], "--import needs a module; use `vae-jax --import MODULE COMMAND`"),
        (["--import="], "--import needs a module"),
        (["--import", "--help"], "--import needs a module"),
        (["--import", "folder/own.py"], "--import=folder/own.py must be the name of a module, without its folder and"
                                        " .py: own"),
        (["train", "--import", "own"], "--import must precede the command: vae-jax --import MODULE train"),
    ],
)  # fmt: skip
def test_an_import_that_cannot_be_done_is_one_line(argv, message, own_module, call):
    refused = call(*argv)
    assert (refused.code, refused.out, len(refused.err)) == (2, [], 1)
    assert refused.err[0].startswith(f"vae-jax: {message}")


def test_modules_are_imported_from_the_current_directory_in_order(own_module):
    own_module("own_first", "ORDER = ['first']")
    own_module("own_second", "import own_first\nown_first.ORDER.append('second')")
    assert commands.import_modules(["--import", "own_first", "--import=own_second", "train", "--import", "x"]) == [
        "train", "--import", "x",
    ]  # fmt: skip
    assert sys.modules["own_first"].ORDER == ["first", "second"]
    path = list(sys.path)
    assert commands.import_modules(["train"]) == ["train"]
    assert commands.import_modules(["--import", "own_first"]) == []
    assert sys.path == path


def test_a_command_can_be_registered_again_by_the_same_function_only(monkeypatch):
    monkeypatch.setattr(commands, "_commands", {})

    def one(argv):
        return {}

    def two(argv):
        return {}

    assert commands.register_command("b", "Help.")(one) is one
    commands.register_command("b", "Other help.", arguments="RUN", order=3)(one)
    assert commands._commands["b"] == commands.Command("b", "Other help.", "RUN", one, 3)
    with pytest.raises(InputError, match=r"^command b is already the name of .*test_commands\..*one; rename it$"):
        commands.register_command("b", "Help.")(two)
