import contextlib
import ctypes
import gc
import json
import os
import shutil
import socket
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
from damage import empty, full_disk, step_files, truncate
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec, SingleDeviceSharding

from vae_jax.errors import CheckpointError, LockedError, NotFiniteError, StorageError
from vae_jax.runs import checkpoints, checksums
from vae_jax.runs.checkpoints import Checkpoints
from vae_jax.runtime.lock import run_lock

pytestmark = pytest.mark.fault

CONFIG = {"model": {"latent_dim": 20, "hidden": (64, 64)}, "train": {"num_steps": 100, "learning_rate": 1e-3}}
DATA = {"fingerprint": "5f3a", "splits": {"train": 1000, "test": 200}, "classes": {2: "two", 10: "ten"}}


class State(NamedTuple):
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
    def struct(x):
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding or x.sharding)

    return jax.tree.map(struct, state)


def assert_same(a, b):
    chex.assert_trees_all_equal_structs(a, b)
    for (path, x), (_, y) in zip(checksums.named_leaves(a), checksums.named_leaves(b), strict=True):
        assert x.dtype == y.dtype, path
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes(), path


def save_steps(directory, *steps):
    with Checkpoints(directory) as saved:
        for step in steps:
            assert saved.save(step, make_state(step), config=CONFIG, data=DATA)


def restore(directory, target=None, *, config=CONFIG, data=DATA, read_only=False, **kwargs):
    target = target_of(make_state()) if target is None else target
    with Checkpoints(directory, read_only=read_only) as saved:
        return saved.restore(target, config=config, data=data, **kwargs)


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory):
    """A run with the steps 100 and 200; copy it before you damage it."""
    directory = tmp_path_factory.mktemp("two") / "run"
    save_steps(directory, 100, 200)
    return directory


@pytest.fixture
def run(two_steps, tmp_path):
    return Path(shutil.copytree(two_steps, tmp_path / "run"))


def in_subprocess(script, *args, **kwargs):
    prelude = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1] / 'helpers')!r})\n"
    return subprocess.Popen(
        [sys.executable, "-c", prelude + textwrap.dedent(script), *map(str, args)],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **kwargs,
    )


# Round trips


def test_restores_every_bit_and_every_type(run):
    restored = restore(run)
    assert (restored.step, restored.notes) == (200, [])
    assert_same(restored.state, make_state(200))
    assert type(restored.state.opt_state[1][0]) is optax.ScaleByAdamState
    np.testing.assert_array_equal(jax.random.bits(restored.state.key), jax.random.bits(make_state(200).key))


def test_nothing_saved_is_none_and_read_only_creates_nothing(tmp_path):
    assert restore(tmp_path / "new", read_only=True) is None
    assert not (tmp_path / "new").exists()
    assert restore(tmp_path / "new") is None


def test_keeps_the_newest_three(tmp_path):
    with Checkpoints(tmp_path) as saved:
        for step in range(1, 6):
            saved.save(step, make_state(step), config=CONFIG, data=DATA)
            saved.wait()
            assert saved.latest_step() == step
        assert saved.steps() == [3, 4, 5]
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["3", "4", "5"]


def test_a_saved_step_is_not_replaced(run):
    with Checkpoints(run) as saved:
        assert not saved.save(200, make_state(1), config=CONFIG, data=DATA)
        with pytest.raises(CheckpointError, match="step 150 is older than the newest step 200"):
            saved.save(150, make_state(1), config=CONFIG, data=DATA)
    assert_same(restore(run).state, make_state(200))


def test_the_copy_of_a_state_is_let_go_once_it_is_saved(tmp_path):
    def live():
        gc.collect()
        return sum(leaf.nbytes for leaf in jax.live_arrays() if leaf.shape == (1031, 7))

    state = make_state(7)._replace(params={"w": jnp.ones((1031, 7))})
    before = live()
    with Checkpoints(tmp_path) as saved:
        saved.save(7, state, config=CONFIG, data=DATA)
        end = time.monotonic() + 60
        while live() > before and time.monotonic() < end:
            time.sleep(0.02)
            saved.check()
        assert live() == before
        assert saved.steps() == [7]
        assert saved.save(8, state, config=CONFIG, data=DATA)


def test_what_is_ahead_is_set_aside_and_can_be_saved_again(run):
    with Checkpoints(run) as saved:
        saved.set_aside_after(100)
        assert saved.steps() == [100]
        assert saved.save(150, make_state(150), config=CONFIG, data=DATA)
        saved.set_aside_after(200)
        assert saved.steps() == [100, 150]
        saved.set_aside_after(0)
        assert saved.steps() == []
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["ahead-100", "ahead-150", "ahead-200"]


def test_a_save_survives_the_donation_of_its_buffers(tmp_path):
    state = make_state(7)
    spoil = jax.jit(lambda s: jax.tree.map(lambda x: x * 0 - 1, s), donate_argnums=0)
    arrays = state._replace(key=jnp.zeros(2))
    views = [np.asarray(leaf) for leaf in jax.tree.leaves(arrays.params)]  # zero-copy on CPU
    expected = jax.tree.map(lambda x: jnp.array(np.array(x)), arrays)
    with Checkpoints(tmp_path) as saved:
        saved.save(7, arrays, config=CONFIG, data=DATA)
        for view in views:  # the worst that a donation does: the memory has another content while Orbax writes
            ctypes.memset(view.__array_interface__["data"][0], 0xFF, view.nbytes)
        del views
        arrays = spoil(arrays)
    assert_same(restore(tmp_path, target_of(expected)).state, expected)


@pytest.mark.parametrize("devices", [1, 2, 8])
def test_restores_onto_any_number_of_devices(run, devices):
    mesh = jax.make_mesh((devices,), ("data",), (AxisType.Auto,), devices=jax.devices()[:devices])

    def sharding(x):
        return NamedSharding(mesh, PartitionSpec("data") if x.ndim == 2 else PartitionSpec())

    target = jax.tree.map(lambda x: target_of(x, sharding(x)), make_state())
    restored = restore(run, target)
    jax.tree.map(lambda x, t: chex.assert_equal(x.sharding, t.sharding), restored.state, target)
    assert_same(restored.state, make_state(200))
    with Checkpoints(run) as saved:  # and from that number onto one
        saved.save(300, restored.state, config=CONFIG, data=DATA)
    restored = restore(run, jax.eval_shape(make_state))  # a target without shardings: the first device
    first = SingleDeviceSharding(jax.devices()[0])
    assert {leaf.sharding for leaf in jax.tree.leaves(restored.state)} == {first}
    assert (restored.step, restored.notes) == (300, [])
    assert_same(restored.state, make_state(200))


def test_orbax_is_imported_when_it_is_needed():
    code = "import sys, vae_jax.runs.checkpoints; print([m for m in sys.modules if m.startswith('orbax')])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


# Damage


def test_a_digest_is_of_bytes_shape_dtype_and_generator():
    zeros = [jnp.zeros(4), jnp.zeros((2, 2)), jnp.zeros(4, jnp.int32), jnp.zeros(4).at[0].set(-0.0)]
    keys = [jax.random.wrap_key_data(jnp.zeros(4, jnp.uint32), impl=impl) for impl in ("rbg", "unsafe_rbg")]
    assert len({checksums.checksum(leaf) for leaf in zeros + keys}) == 6
    mesh = jax.make_mesh((8,), ("data",), (AxisType.Auto,))
    whole = jnp.arange(16.0)
    shards = jax.device_put(whole, NamedSharding(mesh, PartitionSpec("data")))
    assert checksums.checksum(shards) == checksums.checksum(whole)


def test_a_flipped_bit_is_found_or_harmless(two_steps, tmp_path, capfd):
    generator = np.random.default_rng(0)
    sizes = np.array([f.stat().st_size for f in step_files(two_steps, 200)])
    found = 0
    for trial in range(24):
        run = Path(shutil.copytree(two_steps, tmp_path / str(trial)))
        weights = sizes / sizes.sum() if trial % 2 else (sizes > 0) / (sizes > 0).sum()
        file = step_files(run, 200)[generator.choice(len(sizes), p=weights)]
        content = bytearray(file.read_bytes())
        content[generator.integers(len(content))] ^= 1 << generator.integers(8)
        file.write_bytes(content)
        restored = restore(run)
        if restored.step == 100:
            found += 1
            assert restored.notes[0].startswith("step 200 is damaged (")
            assert restored.notes[0].endswith("; using step 100")
            assert "\n" not in restored.notes[0]
        assert_same(restored.state, make_state(restored.step))
    assert found >= 8
    assert capfd.readouterr().err == ""


def test_a_flipped_bit_in_each_json_item_is_damage_not_another_config(run, tmp_path):
    for item in ("config", "data", "digests"):
        copy = Path(shutil.copytree(run, tmp_path / item))
        file = copy / "checkpoints" / "200" / item / "metadata"
        content = file.read_bytes()
        digit = max(i for i, byte in enumerate(content) if chr(byte).isdigit())
        file.write_bytes(content[:digit] + bytes([content[digit] ^ 1]) + content[digit + 1 :])
        restored = restore(copy)
        assert restored.step == 100
        assert "do not belong together" in restored.notes[0]


def lose_state(run, step):
    shutil.rmtree(run / "checkpoints" / str(step) / "state")


def lose_config(run, step):
    shutil.rmtree(run / "checkpoints" / str(step) / "config")


@pytest.mark.parametrize("damage", [truncate, lose_state, lose_config, empty])
def test_falls_back_past_damage_and_saves_that_step_again(run, damage, capfd):
    damage(run, 200)
    assert restore(run, read_only=True).step == 100
    with Checkpoints(run) as saved:
        restored = saved.restore(target_of(make_state()), config=CONFIG, data=DATA)
        assert (restored.step, len(restored.notes)) == (100, 1)
        assert_same(restored.state, make_state(100))
        assert saved.steps() == [100]
        assert saved.save(200, make_state(2), config=CONFIG, data=DATA)
    assert (run / "checkpoints" / "damaged-200").is_dir()
    assert capfd.readouterr().err == ""
    again = restore(run)
    assert (again.step, again.notes) == (200, [])
    assert_same(again.state, make_state(2))


def test_all_damaged_names_every_step_and_touches_none(run):
    truncate(run, 200)
    lose_config(run, 100)
    for _ in range(2):
        with pytest.raises(CheckpointError, match=r"damaged: step 200 \(.+\); step 100 \(.+\)$") as error:
            restore(run)
        assert "\n" not in str(error.value)
    assert {p.name for p in (run / "checkpoints").iterdir()} == {"100", "200"}


# Checkpoints from a stranger


def test_more_bytes_than_the_files_can_hold_take_no_memory(tmp_path, monkeypatch):
    zeros = {"weights": jnp.zeros(1 << 24)}  # 64 MB, which compress to nearly nothing
    with Checkpoints(tmp_path) as saved:
        saved.save(1, zeros, config=CONFIG, data=DATA)
    target = target_of(zeros)
    assert restore(tmp_path, target).step == 1  # below a GB it may be
    monkeypatch.setattr(checkpoints, "_LARGE", 1 << 20)
    monkeypatch.setattr(Checkpoints, "_read", None)  # nothing may be read
    with pytest.raises(CheckpointError, match=r"step 1 \(declares 67108864 bytes, and its files hold \d+\)$"):
        restore(tmp_path, target)


def test_an_array_that_declares_another_shape_than_the_step_takes_no_memory(run):
    import tensorstore

    state = run / "checkpoints" / "200" / "state"
    store = tensorstore.KvStore.open({"driver": "ocdbt", "base": f"file://{state}/"}).result()
    (name,) = [key for key in store.list().result() if key.startswith(b"params.encoder.kernel/.z")]
    declared = json.loads(store.read(name).result().value)
    assert declared["shape"] == [16, 24]
    store.write(name, json.dumps(declared | {"shape": [1 << 20, 1 << 20]}).encode()).result()  # 4 TB
    restored = restore(run)
    assert restored.step == 100
    assert "stored shape: (1048576, 1048576)" in restored.notes[0]


# Runs that do not fit


def changed(dictionary, section, **fields):
    return dictionary | {section: dictionary[section] | fields}


def test_another_config_is_refused_in_one_line(run):
    config = changed(CONFIG, "model", latent_dim=40, depth=2)
    with pytest.raises(CheckpointError) as error:
        restore(run, config=config)
    message = str(error.value)
    assert "step 200" in message
    assert "model.latent_dim: 20 in checkpoint, 40 in config" in message
    assert "; model.depth: absent in checkpoint, 2 in config" in message
    assert "\n" not in message
    shorter = {"model": CONFIG["model"]}
    with pytest.raises(CheckpointError, match=r"train\.num_steps: 100 in checkpoint, absent in config"):
        restore(run, config=shorter)


def test_ignored_fields_may_differ(run):
    config = changed(CONFIG, "train", num_steps=500)
    assert restore(run, config=config, ignore=frozenset({"train.num_steps"})).step == 200
    assert restore(run, config=config, ignore=frozenset({"train"})).step == 200
    with pytest.raises(CheckpointError, match="num_steps"):
        restore(run, config=config, ignore=frozenset({"train.num"}))


def test_equal_numbers_and_sequences_are_equal(run):
    config = changed(changed(CONFIG, "train", num_steps=100.0), "model", hidden=[64, 64])
    assert restore(run, config=config).step == 200


def test_other_data_are_refused(run):
    with pytest.raises(CheckpointError, match='fingerprint: "5f3a" in checkpoint, "77aa" in data'):
        restore(run, data=DATA | {"fingerprint": "77aa"})
    with pytest.raises(CheckpointError, match=r"splits\.test: 200 in checkpoint, 100 in data"):
        restore(run, data=changed(DATA, "splits", test=100))


def test_another_dtype_shape_path_or_generator_is_refused(run):
    state = make_state()

    def refused(match, state):
        with pytest.raises(CheckpointError, match=match) as error:
            restore(run, target_of(state))
        assert "\n" not in str(error.value)

    def with_encoder(encoder):
        return state._replace(params=state.params | {"encoder": encoder})

    encoder = state.params["encoder"]
    half = encoder | {"kernel": encoder["kernel"].astype(jnp.float16)}
    saved = r"params.encoder.kernel: float32\[16, 24\] in checkpoint"
    refused(saved + r", float16\[16, 24\] in state", with_encoder(half))
    wide = encoder | {"kernel": jnp.zeros((16, 25))}
    refused(saved + r", float32\[16, 25\] in state", with_encoder(wide))
    renamed = {"weight": encoder["kernel"], "bias": encoder["bias"]}
    refused(r"params.encoder.weight: absent in checkpoint, float32\[16, 24\] in state", with_encoder(renamed))
    refused(saved + ", absent in state", with_encoder(renamed))
    refused(r"key: key<fry>\[\] in checkpoint, key<rbg>\[\] in state", make_state(impl="rbg"))
    refused(r"and 8 more$", state._replace(params={}, ema_params={}, opt_state=state.opt_state[:1]))
    assert restore(run).step == 200  # a refusal leaves the steps alone


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_state_that_is_not_finite_is_not_saved(tmp_path, value):
    state = make_state()
    bias = state.params["encoder"]["bias"].at[3].set(value)
    state = state._replace(params=state.params | {"encoder": state.params["encoder"] | {"bias": bias}})
    with Checkpoints(tmp_path) as saved:
        with pytest.raises(NotFiniteError, match=r"step 5 is not saved, .* params\.encoder\.bias$"):
            saved.save(5, state, config=CONFIG, data=DATA)
        assert saved.steps() == []


# Other processes


def test_the_second_owner_is_refused_with_the_name_of_the_first(tmp_path):
    script = """
    import sys, time
    from vae_jax.runtime.lock import run_lock
    with run_lock(sys.argv[1]):
        print("locked", flush=True)
        time.sleep(60)
    """
    other = in_subprocess(script, tmp_path / "run")
    try:
        assert other.stdout.readline() == "locked\n", other.stderr.read()
        name = f"in use by process {other.pid} on {os.uname().nodename}$"
        with pytest.raises(LockedError, match=name), run_lock(tmp_path / "run"):
            pass
    finally:
        other.kill()
        other.communicate()
    for _ in range(2):  # a lock is free again after kill -9 and after the end of its block
        with run_lock(tmp_path / "run"), pytest.raises(LockedError), run_lock(tmp_path / "run"):
            pass


def test_a_lock_that_cannot_be_made_is_a_storage_error(tmp_path):
    (tmp_path / "file").touch()
    for action in (run_lock(tmp_path / "file"), contextlib.ExitStack()):
        with pytest.raises(StorageError, match="file"), action:
            Checkpoints(tmp_path / "file")


def save_on_a_slow_disk(directory):
    """Saves step 300, more than half a second long: writing takes the first part, moving into place the rest."""
    rename = os.rename
    os.rename = lambda *args, **kwargs: (time.sleep(1), rename(*args, **kwargs))
    state = make_state(300)
    noise = np.random.default_rng(0).random(10**7, np.float32)  # 40 MB that do not compress
    with Checkpoints(directory) as saved:
        saved.save(300, state._replace(ema_params=jnp.asarray(noise)), config=CONFIG, data=DATA)


@pytest.mark.parametrize("milliseconds", [0, 50, 200, 500])
def test_a_kill_during_a_save_leaves_the_earlier_steps(run, milliseconds):
    folder = run / "checkpoints"
    with in_subprocess("import test_checkpoints; test_checkpoints.save_on_a_slow_disk(sys.argv[1])", run) as other:
        while not list(folder.glob("300.orbax-checkpoint-tmp*")):
            assert other.poll() is None, other.communicate()
            time.sleep(0.001)
        time.sleep(milliseconds / 1000)
        other.kill()
    assert [p.name for p in folder.iterdir() if p.name.startswith("300")] == ["300.orbax-checkpoint-tmp"]
    assert restore(run, read_only=True).step == 200
    assert list(folder.glob("300*"))  # read-only leaves the save of another process alone
    restored = restore(run)
    assert sorted(p.name for p in folder.iterdir()) == ["100", "200"]
    assert_same(restored.state, make_state(200))


@pytest.mark.parametrize("freed", [False, True])
def test_a_full_disk_is_tried_twice_and_costs_no_earlier_step(run, freed, capfd):
    with Checkpoints(run, keep=2) as saved:
        with contextlib.ExitStack() as stack:
            stack.enter_context(full_disk())
            saved.save(300, make_state(300), config=CONFIG, data=DATA)
            while saved._manager.is_saving_in_progress():
                time.sleep(0.01)
            if freed:
                stack.close()  # there is room again for the second try
                saved.check()
            else:
                with pytest.raises(StorageError, match=r"^step 300 is not saved in .*: .*File too large"):
                    saved.check()
        assert saved.steps() == ([200, 300] if freed else [100, 200])
        if not freed:  # the next save is not in the way of what is left of the last
            saved.save(400, make_state(400), config=CONFIG, data=DATA)
            saved.check()
    newest = 300 if freed else 400
    assert_same(restore(run).state, make_state(newest))  # whose opening removes what a failed save wrote late
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["200", str(newest)]
    assert capfd.readouterr().err == ""


def save_into_a_folder_that_is_a_file(directory):
    with Checkpoints(directory) as saved:
        saved.directory.rename(directory / "aside")
        saved.directory.write_text("")
        saved.save(300, make_state(300), config=CONFIG, data=DATA)
        with pytest.raises(StorageError, match=r"^step 300 is not saved in .*: .*Not a directory"):
            saved.wait()
    print("refused")


def test_a_folder_that_cannot_be_made_does_not_hold_the_process(tmp_path):
    script = """
    import pathlib, test_checkpoints
    test_checkpoints.save_into_a_folder_that_is_a_file(pathlib.Path(sys.argv[1]))
    """
    with in_subprocess(script, tmp_path) as other:
        try:
            assert other.communicate(timeout=60) == ("refused\n", "")
        finally:
            other.kill()


def test_what_a_failed_save_writes_late_is_not_in_the_way_of_the_second_try(run, monkeypatch):
    remove, start = shutil.rmtree, Checkpoints._start
    removed, found = [], []

    def too_early(path, **how):
        remove(path, **how)
        removed.append(path)
        if len(removed) == 1:
            (path / "late").mkdir(parents=True)

    def started(saved):
        found.append(list(saved.directory.glob("*tmp")))
        return start(saved)

    with Checkpoints(run, keep=2) as saved:
        with full_disk():
            saved.save(300, make_state(300), config=CONFIG, data=DATA)
            while saved._manager.is_saving_in_progress():
                time.sleep(0.01)
        monkeypatch.setattr(checkpoints.shutil, "rmtree", too_early)
        monkeypatch.setattr(Checkpoints, "_start", started)
        saved.check()
        assert found == [[]]
        assert removed[0] == removed[1]
        assert saved.steps() == [200, 300]


def test_a_refusal_by_the_file_system_is_told_in_its_own_words():
    page = "Error writing local file: " + "x" * 900 + " [os_error_code='28'] [source='posix']"
    assert checkpoints._reason(ValueError(page)) == "No space left on device"


def test_a_failed_save_does_not_hide_the_first_error(run, monkeypatch):
    def train():
        with Checkpoints(run) as saved:
            monkeypatch.setattr(saved, "_start", lambda: OSError("disk on fire"))
            saved.save(300, make_state(300), config=CONFIG, data=DATA)
            with pytest.raises(StorageError, match=r"step 300 is not saved in .*: disk on fire$"):
                saved.check()
            saved.save(300, make_state(300), config=CONFIG, data=DATA)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as error:
        train()
    assert "disk on fire" in error.value.__notes__[0]
    assert restore(run).step == 200


def work_in_one_of_two_processes(directory, rank, port):
    """Saves a state that no process holds whole, restores it past a damaged step, and prints what it finds."""
    jax.distributed.initialize(
        f"localhost:{port}",
        num_processes=2,
        process_id=rank,
        initialization_timeout=30,
        heartbeat_timeout_seconds=10,
        shutdown_timeout_seconds=10,
    )
    mesh = jax.make_mesh((jax.device_count(),), ("data",), (AxisType.Auto,))

    def sharding(x):
        return NamedSharding(mesh, PartitionSpec("data") if x.ndim == 2 else PartitionSpec())

    shardings = jax.tree.map(sharding, jax.eval_shape(make_state))
    make = jax.jit(make_state, static_argnums=0, out_shardings=shardings)
    target = jax.tree.map(target_of, jax.eval_shape(make_state), shardings)
    assert not make(1).params["encoder"]["kernel"].is_fully_addressable
    with Checkpoints(directory) as saved:
        for step in (1, 2):
            saved.save(step, make(step), config=CONFIG, data=DATA)
        saved.wait()
        if rank == 0:
            lose_config(directory, 2)
        multihost_utils.sync_global_devices("damaged")
        restored = saved.restore(target, config=CONFIG, data=DATA)
        same = jax.jit(lambda a, b: jax.tree.map(lambda x, y: (x == y).all(), a, b))
        print(restored.step, len(restored.notes), all(jax.tree.leaves(same(restored.state, make(1)))))
        saved.save(2, make(2), config=CONFIG, data=DATA)


def test_two_processes_save_what_one_process_restores(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    script = """
    import os, pathlib
    os.environ["XLA_FLAGS"] += " --xla_force_host_platform_device_count=2"  # the last one counts
    import test_checkpoints
    directory, rank, port = sys.argv[1:]
    test_checkpoints.work_in_one_of_two_processes(pathlib.Path(directory), int(rank), port)
    """
    both = [in_subprocess(script, tmp_path, rank, port) for rank in (0, 1)]
    for process in both:
        out, err = process.communicate(timeout=60)
        assert out.splitlines()[-1:] == ["1 1 True"], err
    restored = restore(tmp_path)
    assert (restored.step, restored.notes) == (2, [])
    assert_same(restored.state.params, make_state(2).params)
