"""Import scripts as modules: experiments and those of .ci, which are in no package."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]
EXPERIMENTS = ROOT / "experiments"
for _folder in (EXPERIMENTS, EXPERIMENTS / "benchmarks"):
    sys.path.append(str(_folder))  # as when a script in this folder is run: scripts import each other


def load(name: str) -> ModuleType:
    """Import experiments/`name`.py as a new module."""
    return load_script(f"experiments/{name}.py")


def load_script(path: str) -> ModuleType:
    """Import the script at a path below the repository's root as a new module."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
