"""`python -m vae_jax`: the command `vae-jax`, where the package is on the path but not installed."""

import sys

from vae_jax.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
