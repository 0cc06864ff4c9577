"""Experiments as modules: they are programs, and no package holds them."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
sys.path.append(str(EXPERIMENTS))  # as where one is run: experiments import their neighbours


def load(name: str) -> ModuleType:
    """The module of experiments/`name`.py, anew."""
    spec = importlib.util.spec_from_file_location(name.rpartition("/")[2], EXPERIMENTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
