"""Messages for people, on stderr."""

import sys

from vae_jax.runtime import multihost


def log(line: str) -> None:
    """Print a line on stderr, in the first of several processes only."""
    if multihost.is_primary():
        print(line, file=sys.stderr, flush=True)
