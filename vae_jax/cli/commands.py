"""The commands of `vae-jax`: those of the modules in this folder, and those that a user's module registers.

    @register_command("nearest", "the training example nearest to each sample", arguments="RUN")
    def nearest(argv):
        run = open_run(argv[0])
        ...
        return {"distance": 3.2}

`vae-jax --import MODULE nearest RUN` then runs the function. `vae-jax --import MODULE --help` lists it.
"""

import importlib
import os
import pkgutil
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from vae_jax.errors import InputError, VaeJaxError

LAST = 1000  # the order of commands that state none

Run = Callable[[Sequence[str]], dict[str, Any]]
F = TypeVar("F", bound=Run)


class Command(NamedTuple):
    """A command.

    Attributes:
      name: the word after `vae-jax`.
      help: one line about it.
      arguments: its positional arguments, such as RUN, for the help.
      run: the arguments after the name -> the results, which are printed as a JSON object.
      order: its place in the help; commands of the same order are sorted by name.
    """

    name: str
    help: str
    arguments: str
    run: Run
    order: int


_commands: dict[str, Command] = {}


def register_command(name: str, help: str, *, arguments: str = "", order: int = LAST) -> Callable[[F], F]:
    """Return a decorator that makes a function a command of `vae-jax`.

    Args:
      name: the word after `vae-jax`.
      help: one line about the command, for `vae-jax --help`.
      arguments: its positional arguments, such as RUN, for the help.
      order: its place in the help; commands of the same order are sorted by name.

    Returns:
      The decorator of a function (arguments after the name) -> results, which are printed as a JSON object. An
      `InputError` of the function is printed in one line. The decorator raises InputError if another function has the
      name.
    """

    def decorate(function: F) -> F:
        other = _commands.get(name)
        if other is not None and _place(other.run) != _place(function):
            raise InputError(f"command {name} is already the name of {'.'.join(_place(other.run))}; rename it")
        _commands[name] = Command(name, help, arguments, function, order)
        return function

    return decorate


def commands() -> Mapping[str, Command]:
    """Return all commands by name, in the order of the help."""
    folder = importlib.import_module("vae_jax.cli")
    for info in pkgutil.iter_modules(folder.__path__):
        importlib.import_module(f"{folder.__name__}.{info.name}")
    return dict(sorted(_commands.items(), key=lambda item: (item[1].order, item[0])))


def import_modules(argv: Sequence[str]) -> list[str]:
    """Import the modules that the first arguments name, `--import MODULE`, and return the other arguments.

    The current directory is searched for them.

    Args:
      argv: the arguments of `vae-jax`.

    Raises:
      InputError: a module does not exist, or raises an error.
    """
    rest = list(argv)
    while rest and rest[0].partition("=")[0] == "--import":
        flag, equals, name = rest.pop(0).partition("=")
        if not equals:
            name = rest.pop(0) if rest else ""
        if not name or name.startswith("-"):
            raise InputError(f"{flag} needs a module; use `vae-jax --import MODULE COMMAND`")
        _import_module(name)
    return rest


def _import_module(name: str) -> None:
    """Import a user's module; every error is one line."""
    if name.endswith(".py") or os.sep in name:
        module = os.path.basename(name).removesuffix(".py")
        raise InputError(f"--import={name} must be the name of a module, without its folder and .py: {module}")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):  # of another module
            raise _import_error(name, error) from None
        raise InputError(
            f"--import={name} is not a module that Python finds; start in its folder, or install it"
        ) from None
    except VaeJaxError as error:
        raise InputError(f"--import={name}: {error}") from None
    except (Exception, SystemExit) as error:  # of the user's code
        raise _import_error(name, error) from None


def _import_error(name: str, error: BaseException) -> InputError:
    """Return the error for a module that raises one, with the line where it was raised."""
    if isinstance(error, SyntaxError):
        message, place = error.msg, (error.filename, error.lineno)
    else:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith("<frozen")]
        message, place = str(error), (frames[-1].filename, frames[-1].lineno)
    return InputError(
        f"--import={name} raises {type(error).__name__}: {message} ({place[0]}, line {place[1]}); correct the module"
    )


def _place(function: Run) -> tuple[str, str]:
    """Return the module and the name of a function."""
    return function.__module__, function.__qualname__
