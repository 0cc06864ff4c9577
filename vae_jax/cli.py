"""The command `vae-jax`: its help, its commands by name, and what becomes of an error.

Text for people goes to stderr; the last line on stdout is one JSON object with the results.
"""

import errno
import os
import platform
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

from vae_jax import commands, processes
from vae_jax.errors import InputError, StorageError, VaeJaxError
from vae_jax.presets import PRESETS
from vae_jax.settings import suggestion

_NAMES = (
    "train", "sweep", "bench", "plan", "evaluate", "sample", "reconstruct", "interpolate", "encode", "export", "data",
)  # fmt: skip
_PACKAGES = ("vae-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint")  # what a report of a fault should name
COMMANDS: dict[str, Callable[[Sequence[str]], dict[str, Any]]] = {name: getattr(commands, name) for name in _NAMES}

HELP = f"""usage: vae-jax COMMAND [ARGUMENTS]

Variational autoencoders in JAX.

  train                 train on a data set, evaluate, draw; --preset NAME, --workdir DIR, --section.field VALUE
  sweep --vary ...      many models side by side: seed=0,1,2 objective.beta=0.5,1,2; a table and a figure
  bench                 the speed of a model's step beside variants of it; --compare A.json B.json
  plan                  work, memory and least time of a step before a training runs, and the largest batch that fits
  evaluate RUN          ELBO and its parts, NLL with its error, active units, bits/dim
  sample RUN            images from the prior
  reconstruct RUN       test images and their reconstructions
  interpolate RUN       the images between test images, through the codes
  encode RUN            the codes of a split, as an .npz file
  export RUN            the encoder, the decoder and a sampler as programs for JAX without this package
  data list             the data sets at hand
  data prepare NAME     prepare mnist (--from DIR: from its official archives), digits or moons on disk

`vae-jax COMMAND --help` says more, `vae-jax --version` the versions in use. Presets: {", ".join(PRESETS)}.
The last line on stdout is a JSON object with the results. Exit codes: 0 done, or interrupted and saved;
2 wrong input; 3 not finite; 4 no usable checkpoint; 5 input or output failed; 6 the run is in use;
7 another process of the run has ended; 130 SIGINT where nothing is to be saved, or a second one; 134 as 7, where JAX
notices first; 143 SIGTERM where nothing is to be saved.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code: what a user can mend is one line on stderr, never a traceback."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help", "help"):
        return _put(lambda: print(HELP, end=""))
    if argv[0] in ("-V", "--version"):
        told = [*(f"{name} {version(name)}" for name in _PACKAGES), f"Python {platform.python_version()}"]
        return _put(lambda: print(", ".join(told)))
    try:
        if argv[0] not in COMMANDS:
            known = ", ".join(COMMANDS)
            raise InputError(f"{argv[0]!r}: no such command; one of {known}{suggestion(argv[0], COMMANDS)}")
        result = COMMANDS[argv[0]](argv[1:])
    except VaeJaxError as error:
        _tell(error)
        if not processes.is_alone():
            processes.leave(error.exit_code, with_all=True)
        return error.exit_code
    except KeyboardInterrupt:
        print("vae-jax: interrupted", file=sys.stderr, flush=True)
        os._exit(128 + signal.SIGINT)  # at once: threads of XLA that still compile do not survive an orderly end
    except Exception as error:
        if processes.is_alone():
            raise
        if isinstance(error, processes.OwnError):
            _tell(error.__cause__)
            processes.leave(error.__cause__.exit_code)
        traceback.print_exc()
        if lost := processes.lost(error):
            _tell(lost)
        processes.leave(lost.exit_code if lost else 1)  # which breaks the others' next exchange
    from vae_jax.writers import print_json

    return _put(lambda: print_json(result)) if processes.is_first() else 0


def _put(write: Callable[[], None]) -> int:
    """Lets `write` print on stdout, and returns the exit code: one line on stderr where stdout takes nothing."""
    try:
        if sys.stdout is None:
            raise OSError(errno.EBADF, "it is closed")
        write()
        sys.stdout.flush()
    except OSError as error:
        if sys.stdout is not None:  # what is buffered still has to go somewhere
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        lost = StorageError(f"stdout: the results cannot be written ({error.strerror})")
        _tell(lost)
        return lost.exit_code
    return 0


def _tell(error: VaeJaxError) -> None:
    print(f"vae-jax: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
