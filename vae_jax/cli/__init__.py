"""The command `vae-jax`: one module for each subcommand, with its arguments and its function."""
