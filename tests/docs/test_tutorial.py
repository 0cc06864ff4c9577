"""The Python blocks of the documentation run, in order; the reference lists what exists."""

import ast
import dataclasses
import re
import shutil
import sys
import typing
from pathlib import Path

import numpy as np
import pytest
from documents import BLOCK, DOCS, ROOT, own_registrations, run_blocks, run_document

from vae_jax.bench import probes, timing
from vae_jax.cli.commands import commands
from vae_jax.config import (
    PRESETS,
    SECTIONS,
    Config,
    Setting,
    all_settings,
    choices,
    flatten,
    resumable_settings,
)


@pytest.fixture(autouse=True)
def _datasets_in_a_temporary_folder(data_dir, tmp_path, monkeypatch):
    shutil.copytree(Path(data_dir) / "digits", tmp_path / "digits")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def test_every_block_of_the_tutorial_runs(capsys):
    namespace = run_document("tutorial.md")
    assert namespace["mesh"].size == 8
    assert capsys.readouterr().out.count("NLL") == 2


GUIDES = ["data", "objective", "model", "priors", "ladder", "labels", "codes", "evaluation"]


@pytest.mark.parametrize("page", ["index", *(f"guides/{name}" for name in GUIDES)])
def test_every_block_of_a_page_runs(page):
    namespace = run_document(f"{page}.md")
    assert "vj" in namespace


def test_every_block_of_the_guide_to_experiments_runs(monkeypatch):
    monkeypatch.setattr(timing, "BLOCK_SECONDS", 0.01)
    monkeypatch.setattr(probes, "matrix_probe", lambda dtype, probe=probes.matrix_probe: probe(dtype, size=64))
    assert run_document("guides/experiment.md")["report"]["rounds"] == 1


@pytest.mark.parametrize(("page", "registered"), [("guides/registered_parts", "nearest"), ("reference/cli", "size")])
def test_every_block_of_a_page_that_registers_parts_runs(page, registered):
    with own_registrations():
        run_document(f"{page}.md")
        assert registered in commands()
    assert registered not in commands()


def test_the_block_of_the_page_about_reliability_trains(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = run_document("reliability.md")
    assert (namespace["result"].status, namespace["result"].step) == ("done", 500)
    assert not namespace["stop"]()


def test_the_blocks_of_every_page_run_in_a_test():
    tested = {"tutorial", "guides/devices", "guides/experiment", "guides/registered_parts", "reference/cli",
              "reliability", "index", *(f"guides/{name}" for name in GUIDES)}  # fmt: skip
    pages = [path for path in DOCS.rglob("*.md") if BLOCK.search(path.read_text())]
    assert {page.relative_to(DOCS).with_suffix("").as_posix() for page in pages} == tested


def test_the_printed_communication_costs_are_those_of_the_guide(capsys):
    """The last two columns depend on XLA's count of operations, which differs between versions."""
    run_document("guides/devices.md")
    (expected,) = re.findall(
        r"^```text\n(.*?)^```$", (DOCS / "guides/devices.md").read_text(), re.MULTILINE | re.DOTALL
    )
    expected, printed = (
        [re.findall(r"[\d.]+", line.replace(",", "")) for line in text.splitlines()]
        for text in (expected, capsys.readouterr().out)
    )
    assert len(expected) == 13
    for line, found in zip(expected, printed, strict=True):
        assert line[:-2] == found[:-2]
        np.testing.assert_allclose(np.array(line[-2:], float), np.array(found[-2:], float), rtol=0.2)


def test_every_fence_of_the_tutorial_is_a_python_block():
    text = (DOCS / "tutorial.md").read_text()
    assert len(BLOCK.findall(text)) * 2 == text.count("```")


@pytest.mark.parametrize(
    ("text", "error", "line"),
    [
        ("# T\n\n```python\nx = 1\n```\n\ntext\n\n```python\nassert x == 2\n```\n", AssertionError, 10),
        ("```python\nimport vae_jax as vj\nvj.no_such_name\n```\n", AttributeError, 3),
        ("```python\nx = (\n```\n", SyntaxError, None),
    ],
)
def test_a_broken_block_fails_and_names_its_line(text, error, line):
    with pytest.raises(error) as caught:
        run_blocks(text, "broken.md")
    lines = [entry.lineno + 1 for entry in caught.traceback if str(entry.path).endswith("broken.md")]
    assert line is None or line in lines


# The reference.


def table_rows(section: str) -> dict[str, list[str]]:
    """Return the rows of the tables in a section of the command-line reference: first cell -> the other cells."""
    text = (DOCS / "reference/cli.md").read_text()
    (body,) = re.findall(rf"^## {section}$(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    lines = [line[1:-1] for line in body.splitlines() if line.startswith("| `")]
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)] for line in lines]
    return {first.strip("`"): rest for first, *rest in rows}


def shown_default(setting: Setting) -> str:
    if setting.path == "likelihood.scale":
        return "√½"
    if isinstance(setting.default, tuple):
        return " ".join(map(str, setting.default))
    return "" if setting.default is None else str(setting.default)


def test_the_reference_lists_every_setting_with_its_default_its_values_and_whether_it_may_change():
    rows, settings = table_rows("Settings"), [s for s in all_settings() if s.path not in SECTIONS]
    assert {path for path in rows if "=" not in path} == {setting.path for setting in settings}
    for path in {setting.path for setting in settings}:
        shown, meaning = rows[path]
        assert meaning.startswith("* ") == (path in resumable_settings()), path
        same_path = [setting for setting in settings if setting.path == path]
        defaults = {shown_default(setting) for setting in same_path}
        listed = re.sub(r" \(.*?\)", "", shown).split(", ")  # 200 200 (`mlp`), 32 64 (`conv`, `residual`)
        assert set(listed) == defaults, path
        for setting in same_path:
            if typing.get_origin(setting.annotation) is typing.Literal:
                assert [v for v in typing.get_args(setting.annotation) if f"`{v}`" not in meaning] == [], path


def test_the_reference_lists_every_choice_with_its_settings():
    rows = table_rows("Settings")
    names = {f"{section}={name}": cls for section in SECTIONS for name, cls in choices(section).items()}
    assert {path for path in rows if "=" in path} == set(names)
    for path, cls in names.items():
        listed, meaning, *_ = rows[path]
        assert re.findall(r"`(\w+)`", listed) == [field.name for field in dataclasses.fields(cls)], path
        section, _, name = path.partition("=")
        assert meaning.startswith("the default") == (flatten(Config())[section] == name), path


def test_the_reference_lists_every_preset():
    assert list(table_rows("Presets")) == list(PRESETS)


def test_the_reference_lists_every_command_and_every_flag():
    text = (DOCS / "reference/cli.md").read_text()
    for name, command in commands().items():
        assert f"vae-jax {name}" in text
        module = sys.modules[command.run.__module__]
        classes = [value for value in vars(module).values() if dataclasses.is_dataclass(value)]
        options = {field.name for cls in classes for field in dataclasses.fields(cls)} - {
            field.name for field in dataclasses.fields(Config)
        }
        flags = {option: rf"(--|\.){option.replace('_', '-')}\b" for option in options}
        missing = [option for option, flag in flags.items() if not re.search(flag, text)]
        assert missing == [], name


def test_the_api_reference_lists_every_module_once():
    listed = [
        module
        for page in sorted((DOCS / "reference/api").glob("*.md"))
        for module in re.findall(r"^::: (\S+)$", page.read_text(), re.MULTILINE)
    ]
    package = ROOT / "vae_jax"
    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in package.rglob("*.py")]
    public = [m for m in modules if not m.endswith(("__init__", "__main__")) and not m.startswith("vae_jax.cli.")]
    assert sorted(listed) == sorted(public)


def test_the_reference_lists_every_experiment():
    text = (DOCS / "reference/experiments.md").read_text()
    scripts = [
        path
        for folder in ("experiments", "experiments/benchmarks")
        for path in (ROOT / folder).glob("*.py")
        if f"python {path.relative_to(ROOT).as_posix()}" in (ast.get_docstring(ast.parse(path.read_text())) or "")
    ]
    assert len(scripts) > 10
    assert [path.name for path in scripts if path.relative_to(ROOT).as_posix() not in text] == []
