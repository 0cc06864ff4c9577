"""The rules of the design that can be read off the source: imports, safety, docstrings, sizes and test files."""

import ast
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from scripts import ROOT, load_script

structure = load_script(".ci/structure.py")
PACKAGE = ROOT / "vae_jax"
SOURCES = sorted(PACKAGE.rglob("*.py"))

# A module imports only from the same folder and from lower layers; the last layer is on top.
LAYERS = (
    ("errors", "kernels"),
    ("random",),
    ("config", "distributions", "metrics"),
    ("inference", "runtime"),
    ("data", "models"),
    ("training",),
    ("runs",),
    ("report",),
    ("bench",),
    ("cli",),
    ("__main__",),
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
FOLDERS_OF_RUNS = ("storage", "experiment", "generation", "evaluation", "figures", "")  # "": the modules of `runs`
FORBIDDEN = {("training", "runtime"), ("models", "inference")}  # lower layers that may not be imported all the same
# Libraries that only one place may import.
ONLY_IN = {
    "flax": "models",
    "orbax": "runs/storage/checkpoints.py",
    "tensorflow_datasets": "data",
    "array_record": "data",
    "grain": "data",
    "tyro": "cli",
}
MAX_FILE_LINES, MAX_FUNCTION_LINES = 400, 50
FLAX_METHODS = ("setup", "close")  # methods whose contract is that of Flax, or of contextlib.closing
PICKLERS = ("pickle", "dill", "cloudpickle", "joblib", "shelve")
SAFE_LOADS = ("json.loads", "json.load", "np.load", "loading.load")


def room(path: Path) -> str:
    """The folder or module directly below the package; "" for the package's own `__init__`."""
    first = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "" if first == "__init__" else first


def imports(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """(module, name) of every import at any depth; the name is "" for `import module`. Types only do not count."""
    for node in structure.without_type_checking(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import hides its target"
            yield from ((node.module, alias.name) for alias in node.names)


@functools.cache
def public_names(folder: str) -> frozenset[str]:
    return frozenset(structure.exported_names(PACKAGE / folder / "__init__.py"))


def folder_of_runs(parts: Sequence[str]) -> int:
    """The rank of a folder in `runs`; `parts` are the names below `runs`."""
    name = parts[0] if parts and parts[0] in FOLDERS_OF_RUNS else ""
    return FOLDERS_OF_RUNS.index(name)


def is_allowed(path: Path, module: str, name: str) -> bool:
    """Whether a file of the package may import `name` from `module`."""
    here, top = room(path), module.partition(".")[0]
    if top in ONLY_IN:
        return (PACKAGE / ONLY_IN[top]) in (path, *path.parents)
    if top != "vae_jax":
        return top not in ("experiments", "tensorflow")
    parts = f"{module}.{name}".rstrip(".").split(".")
    if len(parts) < 2:
        return False  # `import vae_jax`
    target = parts[1]
    if target == here:
        return here != "runs" or folder_of_runs(parts[2:3]) <= folder_of_runs(path.relative_to(PACKAGE).parts[1:-1])
    lower = target in RANK and RANK[target] < RANK[here] and (here, target) not in FORBIDDEN
    if not (PACKAGE / target).is_dir() or (here == "__main__" and target == "cli"):
        return lower
    return lower and len(parts) == 3 and parts[2] in public_names(target)  # what its __init__ names


def wrong_imports(path: Path, tree: ast.AST) -> list[str]:
    return [f"{module}: {name}" for module, name in imports(tree) if not is_allowed(path, module, name)]


def unsafe(tree: ast.AST) -> list[str]:
    """Whatever would let a file from a stranger run code."""
    found = [module for module, _ in imports(tree) if module.partition(".")[0] in PICKLERS]
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
            if (
                ast.get_docstring(node) is None
                and not _is_property(node)
                and not (prefix and node.name in FLAX_METHODS)
            ):
                yield prefix + node.name
            if isinstance(node, ast.ClassDef):
                yield from look(node.body, f"{node.name}.")

    return ([] if ast.get_docstring(tree) else ["the module"]) + list(look(tree.body, ""))


def _is_property(node: ast.AST) -> bool:
    return any("property" in ast.unparse(d) for d in getattr(node, "decorator_list", ()))


@functools.cache
def trees() -> dict[Path, ast.Module]:
    """Return the parsed files of the package."""
    return {path: ast.parse(path.read_text()) for path in SOURCES}


def violations(check: Callable[[Path, ast.Module], object]) -> dict[str, object]:
    """Return what a check finds in the files of the package, {file: what}."""
    found = {str(path.relative_to(PACKAGE)): check(path, tree) for path, tree in trees().items()}
    return {name: what for name, what in found.items() if what}


def test_the_package_is_checked():
    assert len(trees()) > 200


def test_every_file_has_a_place_in_the_design():
    assert violations(lambda path, _: room(path) not in {*RANK, ""}) == {}


def test_imports_go_one_way():
    def check(path, tree):
        if path.name == "__init__.py":
            return [module for module, _ in imports(tree) if module != "lazy_loader"]
        return wrong_imports(path, tree)

    assert violations(check) == {}


def test_no_cycles_of_modules_or_folders():
    graph = structure.import_graph(ROOT)
    assert structure.cycles(graph) == []
    assert structure.cycles(structure.folder_graph(graph)) == []
    assert structure.cycles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]


def test_every_module_has_a_test_file_of_its_name():
    assert structure.untested_modules(ROOT) == []


@pytest.mark.fault
def test_no_file_from_a_stranger_can_run_code():
    assert violations(lambda _, tree: unsafe(tree)) == {}


def test_everything_public_has_a_docstring():
    assert violations(lambda _, tree: undocumented(tree)) == {}


def test_no_file_and_no_function_is_too_long():
    def check(path, _):
        too_long = [name for length, name in structure.functions(path) if length > MAX_FUNCTION_LINES]
        return too_long + ["the file"] * (len(path.read_text().splitlines()) > MAX_FILE_LINES)

    assert violations(check) == {}


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("inference/terms.py", "import flax"),
        ("inference/terms.py", "from flax import struct"),
        ("inference/terms.py", "from vae_jax.models import VAE"),
        ("inference/bound.py", "import flax.linen as nn"),
        ("models/vae.py", "from vae_jax.inference import elbo"),
        ("models/vae.py", "from vae_jax.inference.elbos import elbo"),
        ("models/vae.py", "from vae_jax import inference"),
        ("runs/experiment/experiment.py", "def f():\n    import orbax.checkpoint"),
        ("runs/progress.py", "from vae_jax.training.step import make_train_step"),  # not through the folder's __init__
        ("runs/experiment/experiment.py", "from vae_jax.training import scale_by_adam"),  # a name that it does not have
        ("runs/storage/directory.py", "from vae_jax.runs.experiment.labels import num_classes"),
        ("runs/figures/plots.py", "from vae_jax.runs.sweep import fit_sweep"),
        ("runs/generation/codes.py", "from vae_jax.runs import progress"),
        ("training/step.py", "from vae_jax.runs import Experiment"),
        ("training/step.py", "from vae_jax.runtime import sharding"),
        ("training/step.py", "import vae_jax"),
        ("config/schema.py", "from vae_jax.training import TrainState"),
        ("data/order.py", "from vae_jax.runs import Progress"),
        ("runs/train_loop.py", "from vae_jax.cli.main import main"),
        ("runs/train_loop.py", "import tyro"),
        ("runs/train_loop.py", "import grain"),
        ("cli/main.py", "from experiments import benchmarks"),
        ("cli/main.py", "import tensorflow as tf"),
        ("cli/main.py", "import tensorflow_datasets"),
    ],
)
def test_the_check_of_imports_refuses(file, line):
    assert wrong_imports(PACKAGE / file, ast.parse(line)) != []


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("models/vae.py", "from vae_jax.models.mlp import MLPEncoder"),
        ("config/schema.py", "if TYPE_CHECKING:\n    from vae_jax.models import ModelConfig"),
        ("models/vae.py", "import flax.linen as nn"),
        ("runs/storage/checkpoints.py", "import orbax.checkpoint as ocp"),
        ("runs/experiment/experiment.py", "from vae_jax.runtime import sharding"),
        ("runs/experiment/experiment.py", "from vae_jax.training import TrainState"),
        ("runs/experiment/experiment.py", "from vae_jax import random"),
        ("runs/figures/plots.py", "from vae_jax.runs.storage.loggers import read_metrics"),
        ("runs/sweep.py", "from vae_jax.runs.members import Member"),
        ("runs/sweep.py", "from vae_jax.runs.experiment.labels import num_classes"),
        ("cli/train.py", "from vae_jax.runs import fit"),
        ("cli/train.py", "import tyro"),
    ],
)
def test_the_check_of_imports_accepts(file, line):
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
def test_the_check_of_safety_refuses(line):
    assert unsafe(ast.parse(line)) != []


def test_the_check_of_docstrings_refuses():
    assert undocumented(ast.parse("def f(): ...\nclass C:\n    def g(self): ...\ndef _h(): ...")) == [
        "the module", "f", "C", "C.g",
    ]  # fmt: skip


def test_the_check_of_test_files_sees_a_missing_one(tmp_path):
    for name in ("vae_jax/__init__.py", "vae_jax/a/__init__.py", "vae_jax/a/b.py", "vae_jax/c.py", "tests/a/test_b.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert structure.untested_modules(tmp_path) == ["vae_jax.c"]
