"""Small training states, saved steps, and the child processes of the checkpoint tests."""

import os
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from vae_jax.errors import StorageError
from vae_jax.runs.storage import checksums
from vae_jax.runs.storage.checkpoints import Checkpoints

ROOT = Path(__file__).parents[2]
CONFIG = {"model": {"latent_dim": 20, "hidden": (64, 64)}, "train": {"num_steps": 100, "learning_rate": 1e-3}}
DATA = {"fingerprint": "5f3a", "splits": {"train": 1000, "test": 200}, "classes": {2: "two", 10: "ten"}}


class State(NamedTuple):
    """The fields of a TrainState, with leaves of several dtypes."""

    step: Any
    params: Any
    opt_state: Any
    ema_params: Any
    key: Any
    skipped: Any


def make_state(seed=0, impl="threefry2x32"):
    kernel, noise = jax.random.normal(jax.random.key(seed), (2, 16, 24))
    params = {
        "encoder": {"kernel": kernel, "bias": noise[0].astype(jnp.bfloat16)},
        "scale": jnp.float32(seed),
    }
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3))
    opt_state = optimizer.update(params, optimizer.init(params))[1]
    key = jax.random.key(seed, impl=impl)
    return State(jnp.int32(seed), params, opt_state, jax.tree.map(jnp.copy, params), key, jnp.int32(0))


def target_of(state, sharding=None):
    """Return the restore target of a state: a ShapeDtypeStruct for each leaf."""

    def struct(x):
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding or x.sharding)

    return jax.tree.map(struct, state)


def spread_over(mesh):
    """Return a function from a leaf to its sharding: matrices are split over the axis `data`, others replicated."""

    def sharding(x):
        return NamedSharding(mesh, PartitionSpec("data") if x.ndim == 2 else PartitionSpec())

    return sharding


def assert_same(a, b):
    """Compare two states bit for bit, types and dtypes included."""
    chex.assert_trees_all_equal_structs(a, b)
    for (path, x), (_, y) in zip(checksums.named_leaves(a), checksums.named_leaves(b), strict=True):
        assert x.dtype == y.dtype, path
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes(), path


def save_steps(directory, *steps):
    with Checkpoints(directory) as checkpoints:
        for step in steps:
            assert checkpoints.save(step, make_state(step), config=CONFIG, data=DATA, metrics={"count": step})


def restore(directory, target=None, *, config=CONFIG, data=DATA, read_only=False, **kwargs):
    target = target_of(make_state()) if target is None else target
    with Checkpoints(directory, read_only=read_only) as checkpoints:
        return checkpoints.restore(target, config=config, data=data, **kwargs)


def remove_state(directory, step):
    shutil.rmtree(directory / "checkpoints" / str(step) / "state")


def remove_config(directory, step):
    shutil.rmtree(directory / "checkpoints" / str(step) / "config")


# Child processes.


def in_subprocess(script, *args, **kwargs):
    """Start a script in a process that can import these helpers; the arguments are in sys.argv."""
    prelude = f"import sys; sys.path.insert(0, {str(ROOT / 'tests' / 'helpers')!r})\n"
    return subprocess.Popen(
        [sys.executable, "-c", prelude + textwrap.dedent(script), *map(str, args)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **kwargs,
    )


def save_on_a_slow_disk(directory):
    """Save step 300 in more than half a second: writing is the first part, moving the files into place the rest."""
    rename = os.rename
    os.rename = lambda *args, **kwargs: (time.sleep(1), rename(*args, **kwargs))
    state = make_state(300)
    noise = np.random.default_rng(0).random(10**7, np.float32)  # 40 MB that do not compress
    with Checkpoints(directory) as checkpoints:
        checkpoints.save(300, state._replace(ema_params=jnp.asarray(noise)), config=CONFIG, data=DATA)


def save_into_a_folder_that_is_a_file(directory):
    """Expect StorageError of a save whose folder cannot be created, then print "refused"."""
    with Checkpoints(directory) as checkpoints:
        checkpoints.directory.rename(directory / "aside")
        checkpoints.directory.write_text("")
        checkpoints.save(300, make_state(300), config=CONFIG, data=DATA)
        with pytest.raises(
            StorageError, match=r"^step 300 is not saved in .*: the folder was moved, replaced or deleted"
        ):
            checkpoints.wait()
    print("refused")


def work_in_one_of_two_processes(directory, rank, port):
    """Save a state that is sharded over two processes, restore it past a damaged step, and print what was restored."""
    jax.distributed.initialize(
        f"localhost:{port}",
        num_processes=2,
        process_id=rank,
        initialization_timeout=30,
        heartbeat_timeout_seconds=10,
        shutdown_timeout_seconds=10,
    )
    sharding = spread_over(jax.make_mesh((jax.device_count(),), ("data",), (AxisType.Auto,)))
    shardings = jax.tree.map(sharding, jax.eval_shape(make_state))
    make = jax.jit(make_state, static_argnums=0, out_shardings=shardings)
    target = jax.tree.map(target_of, jax.eval_shape(make_state), shardings)
    assert not make(1).params["encoder"]["kernel"].is_fully_addressable
    with Checkpoints(directory) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, make(step), config=CONFIG, data=DATA)
        checkpoints.wait()
        if rank == 0:
            remove_config(directory, 2)
        multihost_utils.sync_global_devices("damaged")
        restored = checkpoints.restore(target, config=CONFIG, data=DATA)
        same = jax.jit(lambda a, b: jax.tree.map(lambda x, y: (x == y).all(), a, b))
        print(restored.step, len(restored.notes), all(jax.tree.leaves(same(restored.state, make(1)))))
        checkpoints.save(2, make(2), config=CONFIG, data=DATA)
