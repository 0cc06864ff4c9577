"""Runs that tests train, the flags that describe them, and a digest of how one ended."""

import hashlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax.config import flatten
from vae_jax.runs import open_run, prepare_run, restore, train_loop
from vae_jax.runs.checkpoints import Checkpoints
from vae_jax.runs.recorder import METRICS_FILE


def fit(config, directory, **kwargs):
    run, images = prepare_run(config, directory)
    return run, train_loop.fit(run, images, **kwargs)


def raw(leaf):
    return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


def flags(config):
    """The command line of `vae-jax train` that asks for every setting of a config."""
    argv = []
    for path, value in flatten(config).items():
        if isinstance(value, bool):
            argv.append(f"--{path}" if value else f"--{'.no-'.join(path.rsplit('.', 1))}")
        elif isinstance(value, tuple):
            argv += [f"--{path}", *map(str, value)]
        else:
            argv += [f"--{path}", str(value)]
    return argv


def end_of(directory):
    """SHA-256 over every leaf of the newest state as restored, and over the bytes of metrics.jsonl."""
    run = open_run(directory)
    with Checkpoints(directory, read_only=True) as checkpoints:
        restored = restore(run, checkpoints)
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(restored.state):
        digest.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}".encode())
        digest.update(np.asarray(raw(leaf)).tobytes())
    digest.update((Path(directory) / METRICS_FILE).read_bytes())
    return restored.step, digest.hexdigest()
