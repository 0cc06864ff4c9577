"""Training runs of tests: their command lines, their metrics, a digest of their final state, and poisoned losses."""

import hashlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax.config import flatten
from vae_jax.runs import open_run, prepare_run, programs, read_metrics, restore, train_loop
from vae_jax.runs.checkpoints import Checkpoints
from vae_jax.runs.recorder import METRICS_FILE
from vae_jax.training import make_loss


def fit(config, directory, **kwargs):
    """Train a config in a directory; return (run, TrainResult)."""
    run, images = prepare_run(config, directory)
    return run, train_loop.fit(run, images, **kwargs)


def metric_rows(run):
    """Return the rows of a run's metrics.jsonl."""
    return read_metrics(run.directory / METRICS_FILE)


def without_key_type(leaf):
    """Return a leaf as numbers: the data of a typed PRNG key, any other leaf unchanged."""
    return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


def assert_finite(tree):
    for leaf in jax.tree.leaves(tree):
        assert np.isfinite(np.asarray(without_key_type(leaf))).all()


def flags(config):
    """Return the command line of `vae-jax train` that sets every setting of a config."""
    argv = []
    for path, value in flatten(config).items():
        if isinstance(value, bool):
            argv.append(f"--{path}" if value else f"--{'.no-'.join(path.rsplit('.', 1))}")
        elif isinstance(value, tuple):
            argv += [f"--{path}", *map(str, value)]
        else:
            argv += [f"--{path}", str(value)]
    return argv


def final_digest(directory):
    """Return (newest step, SHA-256 over every leaf of its restored state and the bytes of metrics.jsonl)."""
    run = open_run(directory)
    with Checkpoints(directory, read_only=True) as checkpoints:
        restored = restore(run, checkpoints)
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(restored.state):
        digest.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}".encode())
        digest.update(np.asarray(without_key_type(leaf)).tobytes())
    digest.update((Path(directory) / METRICS_FILE).read_bytes())
    return restored.step, digest.hexdigest()


def poison_loss(monkeypatch, steps):
    """Make the training loss and its gradient NaN at these steps."""

    def make(*args):
        loss = make_loss(*args)

        def poisoned(params, key, batch, step):
            value, metrics = loss(params, key, batch, step)
            factor = jnp.where(jnp.isin(step, jnp.asarray(steps)), jnp.nan, 1.0)
            return value * factor, metrics

        return poisoned

    monkeypatch.setattr(programs, "make_loss", make)
