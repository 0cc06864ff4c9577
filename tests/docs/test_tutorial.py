"""docs/tutorial.md runs as it stands: every Python block, in order, in one namespace."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorial.md"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def run_blocks(text: str, name: str) -> dict[str, Any]:
    """Runs the Python blocks of a document; an error's traceback names the line of the document."""
    namespace: dict[str, Any] = {"__name__": "tutorial"}
    for block in BLOCK.finditer(text):
        above = text.count("\n", 0, block.start(1))
        exec(compile("\n" * above + block[1], name, "exec"), namespace)
    return namespace


@pytest.fixture(autouse=True)
def _digits_are_made_here(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))


def test_every_block_runs(capsys):
    namespace = run_blocks(TUTORIAL.read_text(), str(TUTORIAL))
    assert namespace["mesh"].size == 8
    assert capsys.readouterr().out.count("NLL") == 2


def test_what_scaling_prints_is_what_it_says(capsys):
    """But for what follows from the count of operations, which another XLA may take otherwise: the last two columns."""
    text = (TUTORIAL.parent / "scaling.md").read_text()
    run_blocks(text, "scaling.md")
    (said,) = re.findall(r"^```text\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    said, printed = (
        [re.findall(r"[\d.]+", line.replace(",", "")) for line in t.splitlines()]
        for t in (said, capsys.readouterr().out)
    )
    assert len(said) == 13
    for line, found in zip(said, printed, strict=True):
        assert line[:-2] == found[:-2]
        np.testing.assert_allclose(np.array(line[-2:], float), np.array(found[-2:], float), rtol=0.2)


def test_every_fence_is_a_python_block():
    text = TUTORIAL.read_text()
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
