"""Measure the structure of the package: modules, folders, import chains and cycles, sizes, and test files.

Usage: python .ci/structure.py [ROOT]        ROOT is a checkout, by default the one that holds this file
"""

import ast
import functools
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

PACKAGE = "vae_jax"


def module_names(root: Path) -> dict[str, Path]:
    """Return {dotted module name: file} of the package; a folder's `__init__` has the folder's name."""
    found = {}
    for path in sorted((root / PACKAGE).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def exported_names(init: Path) -> dict[str, str]:
    """Return {public name: module that a folder's `__init__` imports it from}, its stub `__init__.pyi` first."""
    stub = init.with_suffix(".pyi")
    source = stub if stub.exists() else init
    folder = ".".join(init.parent.parts[init.parent.parts.index(PACKAGE) :])
    found = {}
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = f"{folder}.{node.module}" if node.level and node.module else folder if node.level else node.module
            found |= {alias.asname or alias.name: base or "" for alias in node.names}
    return found


def without_type_checking(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes of a tree except those below `if TYPE_CHECKING:`, which no program executes."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield from without_type_checking(child)
        else:
            for other in child.orelse:
                yield from without_type_checking(other)


def imported_modules(path: Path, modules: Mapping[str, Path]) -> Iterator[str]:
    """Yield the modules of the package that a file imports, names of a folder resolved to the defining module."""

    def resolve(module: str, name: str) -> str | None:
        if f"{module}.{name}" in modules:
            return f"{module}.{name}"
        if module in modules and modules[module].name == "__init__.py":
            source = exported_names(modules[module]).get(name)
            if source is not None and source != module:
                return resolve(source, name) or source
        return module if module in modules else None

    for node in without_type_checking(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").split(".")[0] == PACKAGE:
            for alias in node.names:
                target = resolve(node.module or "", alias.name)
                if target is not None:
                    yield target
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)


def import_graph(root: Path) -> dict[str, set[str]]:
    """Return {module: modules it imports}, without the folders' `__init__` files."""
    modules = module_names(root)
    plain = {name: path for name, path in modules.items() if path.name != "__init__.py"}
    return {
        name: {target for target in imported_modules(path, modules) if target in plain and target != name}
        for name, path in plain.items()
    }


def cycles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Return the strongly connected components of more than one module (Tarjan, 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in graph[node]:
            if target not in index:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], index[target])
        if low[node] == index[node]:
            component = []
            while not component or component[-1] != node:
                component.append(stack.pop())
            if len(component) > 1:
                found.append(sorted(component))

    for node in graph:
        if node not in index:
            visit(node)
    return found


def longest_chain(graph: Mapping[str, set[str]]) -> list[str]:
    """Return the longest path of imports in a graph without cycles."""

    @functools.cache
    def chain(node: str) -> tuple[str, ...]:
        return (node, *max((chain(target) for target in sorted(graph[node])), key=len, default=()))

    return list(max((chain(node) for node in sorted(graph)), key=len))


def folder_graph(graph: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """Return the same imports between the parts directly below the package: folders, and modules outside of them."""
    part = lambda module: module.split(".")[1]  # noqa: E731
    found: dict[str, set[str]] = {}
    for module, targets in graph.items():
        found.setdefault(part(module), set()).update(part(target) for target in targets if part(target) != part(module))
    return found


def functions(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (number of lines, name) of each function in a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield (node.end_lineno or node.lineno) - node.lineno + 1, node.name


def untested_modules(root: Path) -> list[str]:
    """Return the modules without a file test_NAME.py in the same folder of tests/."""
    modules = [name for name, path in module_names(root).items() if path.name != "__init__.py"]
    tests = root / "tests"

    def test_file(module: str) -> Path:
        _, *folders, name = module.split(".")
        return tests.joinpath(*folders, f"test_{name.strip('_')}.py")

    return [module for module in modules if not test_file(module).exists()]


def measure(root: Path) -> dict[str, object]:
    """Return every measurement of a checkout as a dictionary that JSON can hold."""
    modules = module_names(root)
    graph = import_graph(root)
    parts = folder_graph(graph)
    found_cycles = cycles(graph)
    files = {name: len(path.read_text().splitlines()) for name, path in modules.items()}
    longest = max(
        (length, f"{name}:{function}") for name, path in modules.items() for length, function in functions(path)
    )
    largest = max((length, name) for name, length in files.items())
    top = [path for path in (root / PACKAGE).iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()]
    chain = longest_chain(graph) if not found_cycles else []
    return {
        "modules": len(graph),
        "folders directly below the package": sum(path.is_dir() for path in top),
        "modules directly below the package": sum(path.suffix == ".py" for path in top),
        "imports between modules": sum(map(len, graph.values())),
        "imports between folders": sum(map(len, parts.values())),
        "cycles of modules": found_cycles,
        "cycles of folders": cycles(parts),
        "longest import chain": len(chain),
        "longest import chain of folders": len(longest_chain(parts)) if not cycles(parts) else None,
        "largest file": f"{largest[1]}, {largest[0]} lines",
        "longest function": f"{longest[1]}, {longest[0]} lines",
        "modules without a test file of their name": len(untested_modules(root)),
        "names of those modules": untested_modules(root)[:20],
    }


if __name__ == "__main__":
    checkout = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else Path(__file__).resolve().parents[1]
    print(json.dumps(measure(checkout), indent=1))
