"""The Python blocks of the documentation run, in order; the reference lists what exists."""

import ast
import dataclasses
import re
import typing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vae_jax.cli.main import COMMANDS, command
from vae_jax.config import PRESETS, RESUMABLE, Config, flatten
from vae_jax.config.flat import FIELD_TYPES

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def run_blocks(text: str, name: str) -> dict[str, Any]:
    """Run the Python blocks of a document; the traceback of an error contains the line of the document."""
    namespace: dict[str, Any] = {"__name__": "tutorial"}
    for block in BLOCK.finditer(text):
        above = text.count("\n", 0, block.start(1))
        exec(compile("\n" * above + block[1], name, "exec"), namespace)
    return namespace


def run_document(path: str) -> dict[str, Any]:
    document = DOCS / path
    return run_blocks(document.read_text(), str(document))


@pytest.fixture(autouse=True)
def _datasets_in_a_temporary_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def test_every_block_of_the_tutorial_runs(capsys):
    namespace = run_document("tutorial.md")
    assert namespace["mesh"].size == 8
    assert capsys.readouterr().out.count("NLL") == 2


@pytest.mark.parametrize("page", ["index", "guides/data", "guides/objective", "guides/model"])
def test_every_block_of_a_page_runs(page):
    namespace = run_document(f"{page}.md")
    assert "vj" in namespace


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


def test_the_reference_lists_every_setting_with_its_default_its_choices_and_whether_it_may_change():
    rows, defaults = table_rows("Settings"), flatten(Config())
    assert set(rows) == set(defaults)
    for path, default in defaults.items():
        shown, meaning = rows[path]
        assert meaning.startswith("* ") == (path in RESUMABLE), path
        plain = "" if default in (None, ()) else " ".join(map(str, default)) if type(default) is tuple else default
        if path == "model.likelihood_scale":
            assert shown == "√½"
        elif isinstance(default, float):
            assert float(shown) == default, path
        else:
            assert shown == str(plain), path
        if typing.get_origin(FIELD_TYPES[path]) is typing.Literal:
            assert [choice for choice in typing.get_args(FIELD_TYPES[path]) if f"`{choice}`" not in meaning] == [], path


def test_the_reference_lists_every_preset():
    assert list(table_rows("Presets")) == list(PRESETS)


def test_the_reference_lists_every_command_and_every_flag():
    text = (DOCS / "reference/cli.md").read_text()
    for name in COMMANDS:
        assert f"vae-jax {name}" in text
        classes = [value for value in vars(command(name)).values() if dataclasses.is_dataclass(value)]
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
