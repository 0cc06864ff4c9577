"""Devices: the same run on 1 and on 8, its state whole or spread, gives the same numbers, and compiles once."""

import functools
import re
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilations import compilations
from jax.sharding import AxisType, PartitionSpec

from vae_jax.config.building import override
from vae_jax.data.preprocess import read_images
from vae_jax.distributions.normal import standard_normal
from vae_jax.errors import InputError
from vae_jax.runs import opening, programs, recorder, restoring, train_loop
from vae_jax.runs.checkpoints import Checkpoints
from vae_jax.runs.loggers import read_metrics
from vae_jax.runtime import sharding
from vae_jax.training.many_steps import train_steps
from vae_jax.training.step import make_train_step

COLLECTIVE = re.compile(
    r"\b(all-reduce|all-gather|all-to-all|collective-permute|collective-broadcast|reduce-scatter|ragged-all-to-all)"
    r"(?:-start)?\("
)


def prepared(config, directory):
    """(run, training images on its mesh, state before the first step)."""
    run, images = opening.prepare_run(config, directory)
    everywhere = sharding.replicated(run.mesh)
    state = jax.jit(run.initial_state, out_shardings=everywhere)(run.key)
    return run, jax.device_put(images, everywhere), state


def test_a_mesh_takes_the_devices_asked_for():
    assert sharding.make_mesh().shape == {"data": 8, "fsdp": 1}
    assert sharding.make_mesh(2).shape == {"data": 2, "fsdp": 1}
    assert sharding.make_mesh(0, 4).shape == {"data": 2, "fsdp": 4}
    assert sharding.make_mesh(3, 2).shape == {"data": 3, "fsdp": 2}
    assert sharding.make_mesh(2, 4).devices.tolist() == [jax.devices()[:4], jax.devices()[4:]]  # fsdp: neighbours
    assert set(sharding.make_mesh(2, 2).axis_types) == {AxisType.Auto}


@pytest.mark.parametrize(
    ("data", "fsdp", "line"),
    [
        (9, 1, "mesh.data=9 must be at most the 8 devices here, or 0"),
        (4, 4, "mesh.data=4 must be at most 2 with mesh.fsdp 4 on the 8 devices here, or 0"),
        (1, 9, "mesh.fsdp=9 must be at most the 8 devices here"),
        (0, 3, "mesh.fsdp=3 must divide the 8 devices here, for example 2"),
        (0, 7, "mesh.fsdp=7 must divide the 8 devices here, for example 8"),
    ],
)
def test_a_mesh_that_the_devices_cannot_make_is_refused(data, fsdp, line):
    with pytest.raises(InputError) as caught:
        sharding.make_mesh(data, fsdp)
    assert str(caught.value) == line


@pytest.mark.parametrize(
    ("shape", "size", "spec"),
    [
        ((784, 200), 8, PartitionSpec("fsdp")),
        ((200, 784), 8, PartitionSpec(None, "fsdp")),  # the largest
        ((784, 200), 5, PartitionSpec(None, "fsdp")),  # the largest that 5 divides
        ((256, 256), 8, PartitionSpec("fsdp")),  # of equal ones the first
        ((3, 3, 16, 32), 8, PartitionSpec(None, None, None, "fsdp")),
        ((784, 200), 3, PartitionSpec()),  # none
        ((784, 200), 1, PartitionSpec()),
        ((1016,), 8, PartitionSpec()),  # small
        ((1024,), 8, PartitionSpec("fsdp")),
        ((), 8, PartitionSpec()),
    ],
)
def test_which_dimension_is_spread(shape, size, spec):
    assert sharding.fsdp_spec(shape, size) == spec


@pytest.mark.parametrize(("batch_size", "nearest"), [(1, 8), (11, 8), (13, 16), (127, 128)])
def test_a_batch_that_the_devices_do_not_divide_is_refused(batch_size, nearest):
    mesh = sharding.make_mesh()
    with pytest.raises(InputError) as caught:
        sharding.check_batch_size(batch_size, mesh)
    assert str(caught.value) == (
        f"train.batch_size={batch_size} must be a multiple of the 8 devices, for example {nearest}"
    )
    sharding.check_batch_size(nearest, mesh)
    sharding.check_batch_size(batch_size, sharding.make_mesh(1))


def test_a_batch_is_spread_and_the_state_is_whole_on_each_device():
    mesh = sharding.make_mesh()
    batch = jax.jit(sharding.place_batch(mesh))(jnp.zeros((16, 2, 2, 1)))
    assert {shard.data.shape for shard in batch.addressable_shards} == {(2, 2, 2, 1)}
    state = jax.device_put(jnp.zeros((16,)), sharding.replicated(mesh))
    assert {shard.data.shape for shard in state.addressable_shards} == {(16,)}
    target = sharding.abstract_arrays({"a": state}, {"a": sharding.batch_sharding(mesh)})
    assert target["a"] == jax.ShapeDtypeStruct((16,), jnp.float32, sharding=sharding.batch_sharding(mesh))


def checksum(array):
    """Two float32 numbers that are equal only if every bit and every place of an array is, whatever the devices."""
    words = jax.lax.bitcast_convert_type(array, jnp.uint32).reshape(-1)  # integer sums do not depend on their order
    odd = (2 * jnp.arange(words.size, dtype=jnp.uint32) + 1) * jnp.uint32(0x9E3779B1)
    total = jnp.sum(words * odd, dtype=jnp.uint32)
    return {"high": (total >> 16).astype(jnp.float32), "low": (total & 0xFFFF).astype(jnp.float32)}


def test_order_of_the_data_and_noise_do_not_depend_on_the_devices(small, tmp_path):
    """What each step reads and draws is the same bit for bit: seen through a loss that reports it."""

    def observe(params, key, images, step):
        del step
        read_key, noise_key = jax.random.split(key)
        seen = {
            "images": images.astype(jnp.uint32),
            "binarised": read_images(read_key, images, binarization="dynamic").astype(jnp.uint32),
            "noise": standard_normal((5,)).sample(noise_key, (3, images.shape[0])),
        }
        sums = {f"{name}_{half}": x for name, a in seen.items() for half, x in checksum(a).items()}
        return 0.0 * sum(jnp.sum(leaf) for leaf in jax.tree.leaves(params)), sums

    rows = {}
    for devices in (1, 8):
        run, images, state = prepared(small(mesh__data=devices), tmp_path / "run")
        program = functools.partial(
            train_steps,
            step=make_train_step(observe, run.optimizer),
            batch_size=16,
            max_steps=100,
            place_batch=sharding.place_batch(run.mesh),
        )
        everywhere = sharding.replicated(run.mesh)
        _, metrics = jax.jit(program, in_shardings=everywhere, out_shardings=everywhere)(state, images, 100)
        rows[devices] = {name: np.asarray(values) for name, values in metrics.items()}
    for name in ("images", "binarised", "noise"):
        one, eight = (np.stack([rows[n][f"{name}_high"], rows[n][f"{name}_low"]]) for n in (1, 8))
        np.testing.assert_array_equal(one, eight)
        assert np.unique(one, axis=1).shape == (2, 100)  # it differs from step to step, so the comparison can fail


@pytest.fixture(scope="module")
def hundred_steps(small, tmp_path_factory):
    """{devices: metrics of 100 steps, each [100]} of one and the same run."""
    directory, found = tmp_path_factory.mktemp("devices") / "run", {}
    for devices in (1, 8):
        config = small(
            mesh__data=devices, train__log_every=100, train__save_every=100, train__steps=100, train__ema_decay=0.9,
            data__binarization="dynamic", model__likelihood="bernoulli",
        )  # fmt: skip
        run, images, state = prepared(config, directory)
        state, metrics = programs.compile_program(run)(state, images, 100)
        found[devices] = jax.device_get((state._replace(key=()), metrics))
    return found


def test_losses_on_1_and_8_devices_agree(hundred_steps):
    (one, metrics_one), (eight, metrics_eight) = hundred_steps[1], hundred_steps[8]
    losses = metrics_one["loss"]
    assert losses.shape == (100,)
    assert losses[-10:].mean() < losses[:10].mean() - 1  # it trains
    assert (np.abs(np.diff(losses)) > 1e-4 * losses[0]).mean() > 0.9  # step by step, by far more than the tolerance
    for name in ("loss", "bound", "reconstruction"):
        np.testing.assert_allclose(metrics_eight[name], metrics_one[name], rtol=1e-5)
    assert one.step == eight.step == 100
    for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(eight.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def test_a_program_that_is_compiled_for_its_number_of_steps_trains_the_same(small, tmp_path, monkeypatch):
    """As on a GPU; also in the shorter dispatch at the end, for which it is compiled again."""
    config = small(train__log_every=4, train__save_every=4, train__steps=10, mesh__data=2)
    assert not sharding.needs_static_step_count(sharding.make_mesh(1))  # of a CPU
    found = {}
    for known in (False, True):
        monkeypatch.setattr(sharding, "counts_are_known", lambda mesh, known=known: known)
        run, images, state = prepared(config, tmp_path / str(known))
        program = programs.compile_program(run)
        for count in (4, 4, 2):
            state, metrics = program(state, images, count)
        loops = {equation.primitive.name for equation in program.trace(state, images, 4).jaxpr.eqns}
        assert ("scan" in loops) is known
        found[known] = jax.device_get((state._replace(key=()), metrics))
    assert np.isnan(found[True][1]["loss"][2:]).all()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), found[True], found[False])


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"objective__name": "sampled-elbo", "objective__num_samples": 5, "data__binarization": "dynamic",
         "model__likelihood": "bernoulli", "train__ema_decay": 0.9, "optimizer__clip_norm": 1.0},
        {"model__network": "conv", "model__hidden": (4, 8)},
    ],
    ids=["mlp", "K=5", "conv"],
)  # fmt: skip
def test_devices_talk_by_all_reduce_alone(settings, small, tmp_path):
    run, images = opening.prepare_run(small(mesh__data=8, **settings), tmp_path / "run")
    state = jax.eval_shape(run.initial_state, run.key)
    found = programs.compile_program(run).lower(state, jax.eval_shape(lambda: images), 5).compile().as_text()
    assert set(COLLECTIVE.findall(found)) == {"all-reduce"}


# The state spread over `fsdp`.


@pytest.fixture
def wide(small):
    """A run whose kernels are worth spreading."""
    return small(
        model__hidden=(64,), mesh__data=0, train__ema_decay=0.9, train__save_every=10, optimizer__schedule="constant",
        optimizer__clip_norm=50.0,
    )  # fmt: skip


def bytes_on(state, device):
    shards = [s for leaf in jax.tree.leaves(state) for s in leaf.addressable_shards if s.device == device]
    return sum(shard.data.nbytes for shard in shards)


def test_a_state_spread_over_n_devices_takes_1_nth_of_the_memory_of_each(wide, tmp_path):
    state, weight = None, {}
    for fsdp in (1, 2, 4, 8):
        run, _ = opening.prepare_run(override(wide, mesh__fsdp=fsdp), tmp_path / "run")
        state = state or jax.jit(run.initial_state)(run.key)
        placed = jax.device_put((state.params, state.opt_state, state.ema_params), run.state_shardings[1:4])
        weight[fsdp] = {bytes_on(placed, device) for device in jax.devices()}
        small = sum(leaf.nbytes for leaf in jax.tree.leaves(placed) if leaf.size < sharding.MIN_SHARDED_SIZE)
    (total,) = weight[1]
    assert small < 0.1 * total
    assert weight == {fsdp: {small + (total - small) // fsdp} for fsdp in (1, 2, 4, 8)}


@pytest.mark.fault
def test_a_state_that_is_spread_gives_the_same_numbers(wide, tmp_path):
    found = {}
    for fsdp in (1, 4):
        run, images = opening.prepare_run(override(wide, mesh__fsdp=fsdp), tmp_path / "run")
        state = jax.jit(run.initial_state, out_shardings=run.state_shardings)(run.key)
        images = sharding.to_global_array(images, sharding.replicated(run.mesh))
        state, metrics = programs.compile_program(run)(state, images, 5)
        jax.tree.map(lambda leaf, sharding: chex.assert_equal(leaf.sharding, sharding), state, run.state_shardings)
        found[fsdp] = jax.device_get((state._replace(key=()), metrics))
    (whole, metrics_whole), (spread, metrics_spread) = found[1], found[4]
    for name in ("loss", "bound", "reconstruction", "grad_norm"):
        np.testing.assert_allclose(metrics_spread[name], metrics_whole[name], rtol=1e-5)
    for a, b in zip(jax.tree.leaves(spread), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def test_spread_parameters_are_gathered_and_activations_are_not(wide, tmp_path):
    run, images = opening.prepare_run(override(wide, mesh__fsdp=4), tmp_path / "run")
    state = jax.eval_shape(run.initial_state, run.key)
    program = programs.compile_program(run).lower(state, jax.eval_shape(lambda: images), 5).compile().as_text()
    assert set(COLLECTIVE.findall(program)) - {"reduce-scatter"} == {"all-reduce", "all-gather"}
    gathered = {tuple(sorted(map(int, s.split(",")))) for s in re.findall(r"= f32\[([\d,]*)\]\S* all-gather", program)}
    spread = {
        tuple(sorted(leaf.shape)) for leaf in jax.tree.leaves(state.params) if leaf.size >= sharding.MIN_SHARDED_SIZE
    }
    assert gathered == spread == {(64, 64)}  # of images of 64 pixels, by 64 units


def test_a_run_saved_on_one_mesh_goes_on_on_another(wide, tmp_path):
    train_loop.fit(*opening.prepare_run(override(wide, mesh__fsdp=4, train__steps=10), tmp_path / "run"))
    saved = []
    for mesh in ((2, 4), (1, 1), (2, 1), (0, 8)):
        run, _ = opening.prepare_run(override(wide, mesh__data=mesh[0], mesh__fsdp=mesh[1]), tmp_path / "run")
        with Checkpoints(run.directory, read_only=True) as checkpoints:
            state = restoring.restore(run, checkpoints).state
        jax.tree.map(lambda leaf, sharding: chex.assert_equal(leaf.sharding, sharding), state, run.state_shardings)
        saved.append(jax.device_get(state._replace(key=jax.random.key_data(state.key))))
    for other in saved[1:]:
        jax.tree.map(np.testing.assert_array_equal, saved[0], other)

    outcome = train_loop.fit(
        *opening.prepare_run(override(wide, mesh__data=1, mesh__fsdp=2, train__steps=20), tmp_path / "run")
    )
    assert (outcome.resumed_from, outcome.step) == (10, 20)
    train_loop.fit(*opening.prepare_run(override(wide, train__steps=20), tmp_path / "alone"))
    rows, alone = (read_metrics(tmp_path / name / recorder.METRICS_FILE) for name in ("run", "alone"))
    assert [row["step"] for row in rows] == [5, 10, 15, 20]
    for name in ("loss", "grad_norm"):
        np.testing.assert_allclose([row[name] for row in rows], [row[name] for row in alone], rtol=1e-5)
    opened = opening.open_run(tmp_path / "run")  # on all devices, with its own fsdp where they can
    assert opened.mesh.shape == {"data": 4, "fsdp": 2}
    with restoring.restored_params(opened, pytest.fail) as (step, params):
        assert step == 20
        assert {len(leaf.devices()) for leaf in jax.tree.leaves(params)} == {8}
        jax.tree.map(np.testing.assert_array_equal, params, restoring.evaluation_params(outcome.state, opened.config))


def test_a_fit_compiles_its_program_once(small, tmp_path):
    """Whole dispatches, a shorter last one, validation and saves between: one compilation; a resumed run: one more."""
    config = small(mesh__data=8, train__steps=17, train__save_every=5, train__evaluate_every=10)
    with compilations("train_steps") as found:
        outcome = train_loop.fit(*opening.prepare_run(config, tmp_path / "run"))
        assert (outcome.step, len(found)) == (17, 1)
        more = override(config, train__steps=28)
        outcome = train_loop.fit(*opening.prepare_run(more, tmp_path / "run"))
        assert (outcome.step, outcome.resumed_from, len(found)) == (28, 17, 2)


@pytest.mark.fault
def test_a_run_goes_on_and_is_looked_at_on_another_number_of_devices(small, tmp_path):
    """Saved on 4 devices: the parameters are the same on 1, 2 and 8, bit for bit, and so are the next losses nearly."""

    def train(devices, directory):
        config = small(mesh__data=devices, train__steps=10, train__save_every=5)
        run, images = opening.prepare_run(config, directory)
        outcome = train_loop.fit(run, images)
        assert {len(leaf.devices()) for leaf in jax.tree.leaves(outcome.state)} == {devices}
        return outcome, programs.read_metrics(directory / recorder.METRICS_FILE)[-1]

    def raw(params):
        return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(params)]

    _, last = train(4, tmp_path / "run")  # which leaves the steps 5 and 10
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "10")
    bits = []
    for devices in (4, 1, 2, 8):
        directory = shutil.copytree(tmp_path / "run", tmp_path / str(devices))
        run, _ = opening.prepare_run(small(mesh__data=devices, train__steps=10, train__save_every=5), directory)
        with restoring.restored_params(run, pytest.fail) as (step, params):
            assert step == 5
            assert {len(leaf.devices()) for leaf in jax.tree.leaves(params)} == {devices}
            bits.append(raw(params))
    assert bits[1:] == 3 * bits[:1]
    for devices in (1, 2, 8):
        outcome, row = train(devices, tmp_path / str(devices))
        assert (outcome.resumed_from, outcome.step) == (5, 10)
        assert row["loss"] == pytest.approx(last["loss"], rel=1e-5)
    opened = opening.open_run(tmp_path / "run")  # on all devices
    with restoring.restored_params(opened, pytest.fail) as (_, params):
        assert {len(leaf.devices()) for leaf in jax.tree.leaves(params)} == {8}
