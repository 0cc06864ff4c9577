"""Checkpoints: round trips, shardings, and the comparison of a step with the run that restores it."""

import ctypes
import gc
import subprocess
import sys
import time

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, SingleDeviceSharding
from saved_states import CONFIG, DATA, assert_same, make_state, restore, spread_over, target_of

from vae_jax.errors import CheckpointError, NotFiniteError
from vae_jax.runs.storage.checkpoints import Checkpoints

pytestmark = pytest.mark.fault


# Round trips.


def test_restores_every_bit_and_every_type(saved_run):
    restored = restore(saved_run)
    assert (restored.step, restored.notes) == (200, [])
    assert_same(restored.state, make_state(200))
    assert type(restored.state.opt_state[1][0]) is optax.ScaleByAdamState
    np.testing.assert_array_equal(jax.random.bits(restored.state.key), jax.random.bits(make_state(200).key))


def test_restores_a_step_up_to_a_limit(saved_run):
    assert restore(saved_run, at_most=199).step == 100
    assert restore(saved_run, at_most=99) is None


def test_without_a_step_nothing_is_restored_and_read_only_creates_nothing(tmp_path):
    assert restore(tmp_path / "new", read_only=True) is None
    assert not (tmp_path / "new").exists()
    assert restore(tmp_path / "new") is None


def test_keeps_the_newest_three(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        for step in range(1, 6):
            checkpoints.save(step, make_state(step), config=CONFIG, data=DATA)
            checkpoints.wait()
            assert checkpoints.latest_step() == step
        assert checkpoints.steps() == [3, 4, 5]
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["3", "4", "5"]


def test_a_saved_step_is_not_replaced(saved_run):
    with Checkpoints(saved_run) as checkpoints:
        assert not checkpoints.save(200, make_state(1), config=CONFIG, data=DATA)
        with pytest.raises(CheckpointError, match="step 150 is older than the newest step 200"):
            checkpoints.save(150, make_state(1), config=CONFIG, data=DATA)
    assert_same(restore(saved_run).state, make_state(200))


def test_the_copy_of_a_state_is_freed_once_it_is_saved(tmp_path):
    def live():
        return sum(leaf.nbytes for leaf in jax.live_arrays() if leaf.shape == (1031, 7))

    state = make_state(7)._replace(params={"w": jnp.ones((1031, 7))})
    before = live()
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(7, state, config=CONFIG, data=DATA)
        end = time.monotonic() + 60
        while live() > before and time.monotonic() < end:
            time.sleep(0.05)
            checkpoints.check()
            gc.collect(0)
        gc.collect()
        assert live() == before
        assert checkpoints.steps() == [7]
        assert checkpoints.save(8, state, config=CONFIG, data=DATA)


def test_later_steps_are_set_aside_and_can_be_saved_again(saved_run):
    with Checkpoints(saved_run) as checkpoints:
        assert checkpoints.set_aside_after(100) == [200]
        assert checkpoints.steps() == [100]
        assert checkpoints.save(150, make_state(150), config=CONFIG, data=DATA)
        assert checkpoints.set_aside_after(200) == []
        assert checkpoints.steps() == [100, 150]
        assert checkpoints.set_aside_after(0) == [100, 150]
        assert checkpoints.steps() == []
    names = sorted(path.name for path in (saved_run / "checkpoints").iterdir())
    assert names == ["ahead-100", "ahead-150", "ahead-200"]


def test_a_save_survives_the_donation_of_its_buffers(tmp_path):
    state = make_state(7)
    spoil = jax.jit(lambda s: jax.tree.map(lambda x: x * 0 - 1, s), donate_argnums=0)
    arrays = state._replace(key=jnp.zeros(2))
    views = [np.asarray(leaf) for leaf in jax.tree.leaves(arrays.params)]  # zero-copy on CPU
    expected = jax.tree.map(lambda x: jnp.array(np.array(x)), arrays)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(7, arrays, config=CONFIG, data=DATA)
        for view in views:  # the worst case of a donation: the memory is overwritten while Orbax writes
            ctypes.memset(view.__array_interface__["data"][0], 0xFF, view.nbytes)
        del views
        arrays = spoil(arrays)
    assert_same(restore(tmp_path, target_of(expected)).state, expected)


@pytest.mark.parametrize("devices", [1, 2, 8])
def test_restores_onto_any_number_of_devices(saved_run, devices):
    mesh = jax.make_mesh((devices,), ("data",), (AxisType.Auto,), devices=jax.devices()[:devices])
    sharding = spread_over(mesh)
    target = jax.tree.map(lambda x: target_of(x, sharding(x)), make_state())
    restored = restore(saved_run, target)
    jax.tree.map(lambda x, t: chex.assert_equal(x.sharding, t.sharding), restored.state, target)
    assert_same(restored.state, make_state(200))
    with Checkpoints(saved_run) as checkpoints:  # and from that number onto one
        checkpoints.save(300, restored.state, config=CONFIG, data=DATA)
    restored = restore(saved_run, jax.eval_shape(make_state))  # a target without shardings: the first device
    first = SingleDeviceSharding(jax.devices()[0])
    assert {leaf.sharding for leaf in jax.tree.leaves(restored.state)} == {first}
    assert (restored.step, restored.notes) == (300, [])
    assert_same(restored.state, make_state(200))


def test_orbax_is_imported_on_first_use():
    code = "import sys, vae_jax.runs.storage.checkpoints; print([m for m in sys.modules if m.startswith('orbax')])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


# Steps that do not fit the run.


def changed(dictionary, section, **fields):
    return dictionary | {section: dictionary[section] | fields}


def test_another_config_is_refused_in_one_line(saved_run):
    config = changed(CONFIG, "model", latent_dim=40, depth=2)
    with pytest.raises(CheckpointError) as error:
        restore(saved_run, config=config)
    message = str(error.value)
    assert "step 200" in message
    assert "model.latent_dim: 20 in checkpoint, 40 in config" in message
    assert "; model.depth: absent in checkpoint, 2 in config" in message
    assert "\n" not in message
    shorter = {"model": CONFIG["model"]}
    with pytest.raises(CheckpointError, match=r"train\.num_steps: 100 in checkpoint, absent in config"):
        restore(saved_run, config=shorter)


def test_ignored_fields_may_differ(saved_run):
    config = changed(CONFIG, "train", num_steps=500)
    assert restore(saved_run, config=config, ignore=frozenset({"train.num_steps"})).step == 200
    assert restore(saved_run, config=config, ignore=frozenset({"train"})).step == 200
    with pytest.raises(CheckpointError, match="num_steps"):
        restore(saved_run, config=config, ignore=frozenset({"train.num"}))


def test_equal_numbers_and_sequences_are_equal(saved_run):
    config = changed(changed(CONFIG, "train", num_steps=100.0), "model", hidden=[64, 64])
    assert restore(saved_run, config=config).step == 200


def test_other_data_are_refused(saved_run):
    with pytest.raises(CheckpointError, match='fingerprint: "5f3a" in checkpoint, "77aa" in data'):
        restore(saved_run, data=DATA | {"fingerprint": "77aa"})
    with pytest.raises(CheckpointError, match=r"splits\.test: 200 in checkpoint, 100 in data"):
        restore(saved_run, data=changed(DATA, "splits", test=100))


def test_another_dtype_shape_path_or_generator_is_refused(saved_run):
    state = make_state()

    def refused(match, state):
        with pytest.raises(CheckpointError, match=match) as error:
            restore(saved_run, target_of(state))
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
    assert restore(saved_run).step == 200  # a refusal does not change the steps


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_state_that_is_not_finite_is_not_saved(tmp_path, value):
    state = make_state()
    bias = state.params["encoder"]["bias"].at[3].set(value)
    state = state._replace(params=state.params | {"encoder": state.params["encoder"] | {"bias": bias}})
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(NotFiniteError, match=r"step 5 is not saved, .* params\.encoder\.bias$"):
            checkpoints.save(5, state, config=CONFIG, data=DATA)
        assert checkpoints.steps() == []
