"""The rules of the design that are read off the source: who may import whom, what never appears, how long a file is."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "vae_jax"
SOURCES = sorted(PACKAGE.rglob("*.py"))

# From top to bottom: a module imports only from rows above its own, and, in a folder, from that folder.
LAYERS = (
    ("errors",),
    ("config", "host", "processes", "random", "signals"),
    ("settings",),
    ("digests", "storage"),
    (
        "costs",
        "machine",
        "distributions",
        "objectives",
        "data",
        "sharding",
        "checkpoints",
        "writers",
        "figures",
        "presets",
    ),
    ("chains",),
    ("estimators", "models"),
    ("inference",),
    ("training", "evaluation", "exporting"),
    ("reading",),
    ("runs",),
    ("drawing", "feeding", "judging"),
    ("fitting",),
    ("planning",),
    ("variants",),
    ("benchmarking", "reporting", "sweeping"),
    ("arguments",),
    ("commands",),
    ("cli",),
    ("__main__",),
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
MAX_LINES = 400
HOOKS = ("setup", "close")  # methods whose contract is someone else's: Flax's, and that of contextlib.closing


PICKLERS = ("pickle", "dill", "cloudpickle", "joblib", "shelve")
SAFE_LOADS = ("json.loads", "json.load", "np.load", "data.load")


def room(path: Path) -> str:
    """The part of the package that a file belongs to: `data` for data/splits.py; "" for the package itself."""
    first = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "" if first == "__init__" else first


def imports(tree: ast.AST) -> Iterator[str]:
    """The dotted names that a source imports, at any depth; `from a import b` counts as a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import hides whom it names"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def wrong_imports(path: Path, tree: ast.AST) -> list[str]:
    """What a file of the package imports against the rules."""
    here = room(path)
    wrong = []
    for name in imports(tree):
        top, _, rest = name.partition(".")
        target = rest.partition(".")[0]
        refused = (
            top == "experiments"
            or (top == "orbax" and here != "checkpoints")
            or (f"{name}.".startswith("flax.linen.") and here != "models")
            or (top == "flax" and here == "objectives")
            or (target == "objectives" and here == "models")
            or (top == "tensorflow")
            or (top == "vae_jax" and target != here and not (target in RANK and RANK[target] < RANK[here]))
        )
        wrong += [name] if refused else []
    return wrong


def unsafe(tree: ast.AST) -> list[str]:
    """What would let a file from a stranger run code."""
    found = [name for name in imports(tree) if name.partition(".")[0] in PICKLERS]
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        call = ast.unparse(node.func)
        allowed = [ast.unparse(keyword.value) for keyword in node.keywords if keyword.arg == "allow_pickle"]
        loads = call.rpartition(".")[2] in ("load", "loads", "unsafe_load") and call not in SAFE_LOADS
        if loads or call in ("eval", "exec") or allowed not in ([], ["False"]) or (call == "np.load" and not allowed):
            found.append(ast.unparse(node))
    return found


def undocumented(tree: ast.Module) -> list[str]:
    """Public functions and classes, and the public methods of public classes, without a docstring."""

    def look(body: list[ast.stmt], prefix: str) -> Iterator[str]:
        for node in body:
            if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) or node.name.startswith("_"):
                continue
            if ast.get_docstring(node) is None and not _is_property(node) and not (prefix and node.name in HOOKS):
                yield prefix + node.name
            if isinstance(node, ast.ClassDef):
                yield from look(node.body, f"{node.name}.")

    return ([] if ast.get_docstring(tree) else ["the module"]) + list(look(tree.body, ""))


def _is_property(node: ast.AST) -> bool:
    return any("property" in ast.unparse(d) for d in getattr(node, "decorator_list", ()))


@pytest.fixture(params=SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def source(request) -> tuple[Path, ast.Module]:
    return request.param, ast.parse(request.param.read_text())


def test_every_file_has_a_place_in_the_design(source):
    path, _ = source
    assert room(path) in {*RANK, ""}


def test_imports_go_one_way(source):
    path, tree = source
    if not room(path):
        assert all(not name.startswith(("vae_jax", "jax", "flax")) for name in imports(tree))
    else:
        assert wrong_imports(path, tree) == []


@pytest.mark.fault
def test_nothing_can_run_a_stranger_s_code(source):
    assert unsafe(source[1]) == []


def test_everything_public_has_a_docstring(source):
    assert undocumented(source[1]) == []


def test_no_file_is_asking_to_be_two(source):
    path, _ = source
    assert len(path.read_text().splitlines()) <= MAX_LINES


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("objectives.py", "import flax"),
        ("objectives.py", "from flax import struct"),
        ("objectives.py", "from vae_jax.distributions import Normal"),
        ("inference.py", "from flax import linen as nn"),
        ("inference.py", "import flax.linen as nn"),
        ("models/vae.py", "from vae_jax.objectives import elbo"),
        ("models/vae.py", "from vae_jax import objectives"),
        ("runs.py", "def f():\n    import orbax.checkpoint"),
        ("training.py", "from vae_jax.evaluation import Evaluator"),
        ("training.py", "import vae_jax"),
        ("config.py", "from vae_jax.training import TrainState"),
        ("data/batches.py", "from vae_jax.writers import Progress"),
        ("fitting.py", "from vae_jax.cli import main"),
        ("cli.py", "from experiments import benchmarks"),
        ("cli.py", "import tensorflow as tf"),
    ],
)
def test_the_check_of_imports_sees(file, line):
    assert wrong_imports(PACKAGE / file, ast.parse(line)) != []


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("models/vae.py", "from vae_jax.models.networks import MLPEncoder"),
        ("models/vae.py", "import flax.linen as nn"),
        ("checkpoints.py", "import orbax.checkpoint as ocp"),
        ("runs.py", "from vae_jax import data, sharding"),
        ("cli.py", "from vae_jax import fitting"),
    ],
)
def test_the_check_of_imports_lets_pass(file, line):
    assert wrong_imports(PACKAGE / file, ast.parse(line)) == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from pickle import loads",
        "import dill",
        "def f():\n    import cloudpickle",
        "np.load(path, allow_pickle=True)",
        "np.load(path, allow_pickle=flag)",
        "np.load(path)",
        "yaml.load(text)",
        "torch.load(path)",
        "eval(text)",
    ],
)
def test_the_check_of_safety_sees(line):
    assert unsafe(ast.parse(line)) != []


def test_the_check_of_docstrings_sees():
    assert undocumented(ast.parse("def f(): ...\nclass C:\n    def g(self): ...\ndef _h(): ...")) == [
        "the module", "f", "C", "C.g",
    ]  # fmt: skip
