"""The Python blocks of the documentation, and registrations that other tests do not see."""

import contextlib
import importlib
import re
import sys
from pathlib import Path
from typing import Any

from own_choices import own_choices

from vae_jax.cli import commands
from vae_jax.data import catalog

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def python_blocks(page: str) -> list[str]:
    """Return the Python blocks of a page, a path below docs/."""
    return BLOCK.findall((DOCS / page).read_text())


def run_blocks(text: str, name: str) -> dict[str, Any]:
    """Run the Python blocks of a document; the traceback of an error contains the line of the document."""
    namespace: dict[str, Any] = {"__name__": "tutorial"}
    for block in BLOCK.finditer(text):
        above = text.count("\n", 0, block.start(1))
        exec(compile("\n" * above + block[1], name, "exec"), namespace)
    return namespace


def run_document(page: str) -> dict[str, Any]:
    """Run the Python blocks of a page, a path below docs/."""
    return run_blocks((DOCS / page).read_text(), str(DOCS / page))


@contextlib.contextmanager
def own_registrations():
    """Forget the choices, data sets and commands that are registered inside of the context."""
    before = [(catalog.REGISTERED, dict(catalog.REGISTERED)), (commands._commands, dict(commands.commands()))]
    try:
        with own_choices():
            yield
    finally:
        for known, old in before:
            known.clear()
            known.update(old)


@contextlib.contextmanager
def importable_module(folder: Path, name: str, text: str):
    """Write a module that `vae-jax --import NAME` finds; afterwards the import is forgotten."""
    (folder / f"{name}.py").write_text(text)
    importlib.invalidate_caches()
    sys.path.insert(0, str(folder))
    try:
        with own_registrations():
            yield
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop(name, None)
