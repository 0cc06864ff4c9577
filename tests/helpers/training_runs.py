"""Training runs of tests: their command lines, their metrics, a digest of their final state, and poisoned losses."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax.config import flatten
from vae_jax.runs import (
    RunDirectory,
    default_callbacks,
    open_run,
    prepare_experiment,
    read_metrics,
    restore,
    train_loop,
)
from vae_jax.runs.experiment import experiment
from vae_jax.runs.storage.checkpoints import Checkpoints
from vae_jax.training import make_loss


def fit(config, directory, *, stop=lambda: False, allow_change=(), **kwargs):
    """Train a config in a directory; return (experiment, TrainResult)."""
    prepared, placement = prepare_experiment(config, directory, allow_change=allow_change)
    kwargs = {"callbacks": default_callbacks(stop), "allow_change": allow_change} | kwargs
    return prepared, train_loop.fit(prepared, directory, placement, **kwargs)


def metric_rows(directory):
    """Return the rows of a run's metrics.jsonl."""
    return read_metrics(RunDirectory(directory).metrics)


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


def restored_state(directory, **kwargs):
    """Return what `restore` returns for the newest intact step in a directory; nothing is written."""
    opened = open_run(directory)
    with Checkpoints(opened.directory.path, read_only=True) as checkpoints:
        return restore(opened.experiment, checkpoints, opened.placement, changed=opened.changed, **kwargs)


def digest_of(state, directory):
    """Return SHA-256 over every leaf of a state and the bytes of metrics.jsonl."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        digest.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}".encode())
        digest.update(np.asarray(without_key_type(leaf)).tobytes())
    digest.update(RunDirectory(directory).metrics.read_bytes())
    return digest.hexdigest()


def final_digest(directory):
    """Return (newest step, digest of its restored state and of metrics.jsonl)."""
    restored = restored_state(directory)
    return restored.step, digest_of(restored.state, directory)


def poison_loss(monkeypatch, steps):
    """Make the training loss and its gradient NaN at these steps."""

    def make(*args, **kwargs):
        loss = make_loss(*args, **kwargs)

        def poisoned(params, statistics, key, batch, step):
            value, others = loss(params, statistics, key, batch, step)
            factor = jnp.where(jnp.isin(step, jnp.asarray(steps)), jnp.nan, 1.0)
            return value * factor, others

        return poisoned

    monkeypatch.setattr(experiment, "make_loss", make)
