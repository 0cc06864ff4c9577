"""The entry point of `vae-jax`: lists the commands, runs one of them, and turns errors into exit codes.

Text for people goes to stderr. The last line on stdout is one JSON object with the results.
"""

import errno
import os
import platform
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib.metadata import version

from vae_jax.cli.commands import commands, import_modules
from vae_jax.cli.examples import examples_text, presets_text
from vae_jax.config import suggestion
from vae_jax.errors import InputError, StorageError, VaeJaxError
from vae_jax.runtime import host, multihost, streams

_PACKAGES = ("vae-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint")  # versions that a bug report needs


def help_text() -> str:
    """Return the text of `vae-jax --help`."""
    return "\n".join(
        (
            examples_text(),
            "",
            "usage: vae-jax [--import MODULE] COMMAND [ARGUMENTS]",
            "",
            "Variational autoencoders in JAX.",
            "",
            *(f"  {f'{c.name} {c.arguments}':<21} {c.help}" for c in commands().values()),
            "",
            "`vae-jax COMMAND --help` lists the options of a command, `vae-jax --version` prints the versions in use.",
            "`--import MODULE` first imports a Python module, which may register objectives, data sets, commands.",
            "",
            presets_text(),
            "",
            "The last line on stdout is a JSON object with the results.",
            "Exit codes: 0 finished, or interrupted and saved; 2 invalid input; 3 not finite; 4 no usable checkpoint;",
            "5 input or output failed; 6 the run is in use; 7 another process of the run has ended;",
            "129 SIGHUP with nothing to save; 130 SIGINT with nothing to save, or a second SIGINT; 134 as 7, if JAX",
            "detects it first; 143 SIGTERM with nothing to save.",
            "",
        )
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; a user's error is one line on stderr, never a traceback."""
    with streams.tolerant_streams():
        return _run(sys.argv[1:] if argv is None else argv, is_process=argv is None)


def _run(argv: Sequence[str], *, is_process: bool) -> int:
    try:
        argv = import_modules(argv)
        if not argv or argv[0] in ("-h", "--help", "help"):
            return _write_stdout(lambda: print(help_text(), end=""))
        if argv[0] in ("-V", "--version"):
            versions = [*(f"{name} {version(name)}" for name in _PACKAGES), f"Python {platform.python_version()}"]
            return _write_stdout(lambda: print(", ".join(versions)))
        known = commands()
        if argv[0] not in known:
            names = f"use one of {', '.join(known)}, or `vae-jax --import MODULE COMMAND` for one of a module"
            raise InputError(f"{argv[0]!r} is not a command; {names}{suggestion(argv[0], known)}")
        result = known[argv[0]].run(argv[1:])
    except VaeJaxError as error:
        _print_error(error)
        if not multihost.is_single_process():
            multihost.exit_process(error.exit_code, with_all=True)
        return error.exit_code
    except KeyboardInterrupt:
        print("vae-jax: interrupted", file=sys.stderr, flush=True)
        os._exit(128 + signal.SIGINT)  # immediately: XLA's compilation threads do not survive a normal exit
    except Exception as error:
        if not multihost.is_single_process():
            return _exit_alone(error)
        if (problem := host.platform_error()) is None:
            raise
        _print_error(problem)
        return problem.exit_code
    from vae_jax.runs import print_json

    code = _write_stdout(lambda: print_json(result)) if multihost.is_primary() else 0
    interrupted = isinstance(result, dict) and result.get("status") == "interrupted"
    if is_process and interrupted and code == 0 and multihost.is_single_process():
        multihost.exit_process(code)  # a normal exit waits for a batch of the evaluation that the devices compute
    return code


def _exit_alone(error: Exception) -> int:
    """End this process of several, so that the next exchange of the others fails."""
    if isinstance(error, multihost.LocalError) and isinstance(error.__cause__, VaeJaxError):
        _print_error(error.__cause__)
        multihost.exit_process(error.__cause__.exit_code)
    traceback.print_exception(error)
    lost = multihost.lost_process_error(error)
    if lost:
        _print_error(lost)
    multihost.exit_process(lost.exit_code if lost else 1)


def _write_stdout(write: Callable[[], None]) -> int:
    """Call `write`, which prints on stdout; return the exit code, after one line on stderr if stdout fails."""
    try:
        if sys.stdout is None:
            raise OSError(errno.EBADF, "it is closed")
        write()
        sys.stdout.flush()
    except OSError as error:
        if sys.stdout is not None:  # the buffered output needs a valid descriptor at exit
            streams.discard(sys.stdout)
        failure = StorageError(f"stdout: cannot write the results ({error.strerror})")
        _print_error(failure)
        return failure.exit_code
    return 0


def _print_error(error: VaeJaxError) -> None:
    print(f"vae-jax: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
