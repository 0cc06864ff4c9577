"""Meshes and shardings: a run gives the same numbers on 1 and 8 devices, with a replicated or sharded state."""

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
from training_runs import fit, metric_rows

from vae_jax import random
from vae_jax.config.building import override
from vae_jax.data.preprocess import DynamicBinarizationConfig
from vae_jax.distributions.normal import standard_normal
from vae_jax.errors import InputError
from vae_jax.runs import RunDirectory, opening, restoring
from vae_jax.runs.experiment import programs
from vae_jax.runs.storage.checkpoints import Checkpoints
from vae_jax.runtime import sharding
from vae_jax.training.many_steps import train_steps
from vae_jax.training.step import make_train_step

COLLECTIVE = re.compile(
    r"\b(all-reduce|all-gather|all-to-all|collective-permute|collective-broadcast|reduce-scatter|ragged-all-to-all)"
    r"(?:-start)?\("
)


def prepared(config, directory):
    """Return (experiment, placement, training examples on its devices, state before the first step)."""
    experiment, placement = opening.prepare_experiment(config, directory)
    state = jax.jit(experiment.initial_state, out_shardings=placement.replicated)(experiment.key)
    return experiment, placement, jax.device_put(experiment.training_data.read_all(), placement.replicated), state


def lowered(experiment, placement):
    """Return the text of the compiled program of an experiment."""
    shapes = programs.state_shapes(experiment, placement), programs.data_shapes(experiment, placement)
    return programs.compile_program(experiment, placement).lower(*shapes, 5).compile().as_text()


def test_a_mesh_has_the_requested_devices():
    assert sharding.make_mesh().shape == {"data": 8, "fsdp": 1}
    assert sharding.make_mesh(2).shape == {"data": 2, "fsdp": 1}
    assert sharding.make_mesh(0, 4).shape == {"data": 2, "fsdp": 4}
    assert sharding.make_mesh(3, 2).shape == {"data": 3, "fsdp": 2}
    assert sharding.make_mesh(2, 4).devices.tolist() == [jax.devices()[:4], jax.devices()[4:]]  # neighbors along fsdp
    assert set(sharding.make_mesh(2, 2).axis_types) == {AxisType.Auto}


@pytest.mark.parametrize(
    ("data", "fsdp", "line"),
    [
        (9, 1, "mesh.data=9 must be at most the 8 devices here, or 0"),
        (4, 4, "mesh.data=4 must be at most 2 with mesh.fsdp=4 on the 8 devices here, or 0"),
        (1, 9, "mesh.fsdp=9 must be at most the 8 devices here"),
        (0, 3, "mesh.fsdp=3 must divide the 8 devices here, for example 2"),
        (0, 7, "mesh.fsdp=7 must divide the 8 devices here, for example 8"),
    ],
)
def test_an_impossible_mesh_is_refused(data, fsdp, line):
    with pytest.raises(InputError) as caught:
        sharding.make_mesh(data, fsdp)
    assert str(caught.value) == line


@pytest.mark.parametrize(
    ("shape", "size", "spec"),
    [
        ((784, 200), 8, PartitionSpec("fsdp")),
        ((200, 784), 8, PartitionSpec(None, "fsdp")),  # the largest
        ((784, 200), 5, PartitionSpec(None, "fsdp")),  # the largest that 5 divides
        ((256, 256), 8, PartitionSpec("fsdp")),  # the first of equal ones
        ((3, 3, 16, 32), 8, PartitionSpec(None, None, None, "fsdp")),
        ((784, 200), 3, PartitionSpec()),  # none is divisible
        ((784, 200), 1, PartitionSpec()),
        ((1016,), 8, PartitionSpec()),  # too small
        ((1024,), 8, PartitionSpec("fsdp")),
        ((), 8, PartitionSpec()),
    ],
)
def test_the_largest_divisible_dimension_is_sharded(shape, size, spec):
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


def test_a_microbatch_that_the_devices_do_not_divide_is_refused(small, tmp_path):
    with pytest.raises(InputError, match=r"train.batch_size / train.microbatches=4 must be .* the 8 devices"):
        opening.prepare_experiment(small(mesh__data=8, train__microbatches=4), tmp_path / "run")


def test_a_batch_is_sharded_and_the_state_is_replicated():
    mesh = sharding.make_mesh()
    batch = jax.jit(sharding.place_batch(mesh))(jnp.zeros((16, 2, 2, 1)))
    assert {shard.data.shape for shard in batch.addressable_shards} == {(2, 2, 2, 1)}
    state = jax.device_put(jnp.zeros((16,)), sharding.replicated(mesh))
    assert {shard.data.shape for shard in state.addressable_shards} == {(16,)}
    target = sharding.abstract_arrays({"a": state}, {"a": sharding.batch_sharding(mesh)})
    assert target["a"] == jax.ShapeDtypeStruct((16,), jnp.float32, sharding=sharding.batch_sharding(mesh))


def checksum(array):
    """Return two float32 numbers that depend on every bit and position of an array, and not on its sharding."""
    words = jax.lax.bitcast_convert_type(array, jnp.uint32).reshape(-1)  # integer sums do not depend on their order
    odd = (2 * jnp.arange(words.size, dtype=jnp.uint32) + 1) * jnp.uint32(0x9E3779B1)
    total = jnp.sum(words * odd, dtype=jnp.uint32)
    return {"high": (total >> 16).astype(jnp.float32), "low": (total & 0xFFFF).astype(jnp.float32)}


def test_the_order_of_the_data_and_the_noise_do_not_depend_on_the_devices(small, tmp_path):
    """The images and noise of each step are the same bits: a custom loss returns their checksums as metrics."""

    def observe(params, statistics, keys, batch, step):
        del step
        sample_keys = random.fold_in(random.fold_in(keys, 1)[None], jnp.arange(3)[:, None])  # [3, B]
        arrays = {
            "images": batch["x"].astype(jnp.uint32),
            "labels": batch["y"].astype(jnp.uint32),
            "binarized": DynamicBinarizationConfig()(random.fold_in(keys, 0), batch)["x"].astype(jnp.uint32),
            "noise": standard_normal((5,)).sample(sample_keys, sample_keys.shape),
        }
        sums = {f"{name}_{half}": x for name, a in arrays.items() for half, x in checksum(a).items()}
        return 0.0 * sum(jnp.sum(leaf) for leaf in jax.tree.leaves(params)), (sums, statistics)

    rows = {}
    for devices in (1, 8):
        experiment, placement, data, state = prepared(small(mesh__data=devices), tmp_path / "run")
        program = functools.partial(
            train_steps,
            step=make_train_step(observe, experiment.optimizer),
            batch_size=16,
            max_steps=100,
            place_batch=placement.place_batch,
        )
        replicated = placement.replicated
        _, metrics = jax.jit(program, in_shardings=replicated, out_shardings=replicated)(state, data, 100)
        rows[devices] = {name: np.asarray(values) for name, values in metrics.items()}
    for name in ("images", "labels", "binarized", "noise"):
        one, eight = (np.stack([rows[n][f"{name}_high"], rows[n][f"{name}_low"]]) for n in (1, 8))
        np.testing.assert_array_equal(one, eight)
        distinct = np.unique(one, axis=1).shape[1]  # The steps differ, so the comparison can fail.
        assert distinct > 90 if name == "labels" else distinct == 100  # sums of small numbers can be equal


@pytest.fixture(scope="module")
def hundred_steps(small, tmp_path_factory):
    """{devices: (state, metrics, each [100]) after 100 steps} of the same run."""
    directory, results = tmp_path_factory.mktemp("devices") / "run", {}
    for devices in (1, 8):
        config = small(
            mesh__data=devices, train__log_every=100, train__save_every=100, train__steps=100, train__ema_decay=0.9,
            preprocess="dynamic-binarization", likelihood="bernoulli",
        )  # fmt: skip
        experiment, placement, data, state = prepared(config, directory)
        state, metrics = programs.compile_program(experiment, placement)(state, data, 100)
        results[devices] = jax.device_get((state._replace(key=()), metrics))
    return results


def test_losses_on_1_and_8_devices_agree(hundred_steps):
    (one, metrics_one), (eight, metrics_eight) = hundred_steps[1], hundred_steps[8]
    losses = metrics_one["loss"]
    assert losses.shape == (100,)
    assert losses[-10:].mean() < losses[:10].mean() - 1  # it trains
    assert (np.abs(np.diff(losses)) > 1e-4 * losses[0]).mean() > 0.9  # The steps differ by far more than the tolerance.
    for name in ("loss", "bound", "reconstruction"):
        np.testing.assert_allclose(metrics_eight[name], metrics_one[name], rtol=1e-5)
    assert one.step == eight.step == 100
    for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(eight.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def test_a_program_with_a_static_number_of_steps_trains_the_same(small, tmp_path, monkeypatch):
    """As on a GPU, and also in the shorter last dispatch, for which it is compiled again."""
    config = small(train__log_every=4, train__save_every=4, train__steps=10, mesh__data=2)
    assert not sharding.needs_static_step_count(sharding.make_mesh(1))  # a CPU
    results = {}
    for static in (False, True):
        monkeypatch.setattr(sharding, "needs_static_step_count", lambda mesh, static=static: static)
        experiment, placement, data, state = prepared(config, tmp_path / str(static))
        assert placement.static_step_count is static
        program = programs.compile_program(experiment, placement)
        for count in (4, 4, 2):
            state, metrics = program(state, data, count)
        loops = {equation.primitive.name for equation in program.trace(state, data, 4).jaxpr.eqns}
        assert ("scan" in loops) is static
        results[static] = jax.device_get((state._replace(key=()), metrics))
    assert np.isnan(results[True][1]["loss"][2:]).all()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), results[True], results[False])


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({}, marks=pytest.mark.thorough),
        {"objective": "sampled-elbo", "objective__num_samples": 5, "preprocess": "dynamic-binarization",
         "likelihood": "bernoulli", "train__ema_decay": 0.9, "optimizer__clip_norm": 1.0},
        {"network": "conv", "network__hidden": (4, 8)},
        pytest.param({"network": "conv", "network__hidden": (4,), "network__spatial_code": True},
                     marks=pytest.mark.thorough),
    ],
    ids=["mlp", "K=5", "conv", "spatial"],
)  # fmt: skip
def test_devices_communicate_only_by_all_reduce(settings, small, tmp_path):
    prepared = opening.prepare_experiment(small(mesh__data=8, **settings), tmp_path / "run")
    assert set(COLLECTIVE.findall(lowered(*prepared))) == {"all-reduce"}


# The state sharded over `fsdp`.


def restored_params(opened):
    return restoring.restored_params(opened.experiment, opened.directory, opened.placement, pytest.fail)


@pytest.fixture
def wide(small):
    """Config of a run whose kernels are large enough to be sharded."""
    return small(
        network__hidden=(64,), mesh__data=0, train__ema_decay=0.9, train__save_every=10, schedule="constant",
        optimizer__clip_norm=50.0,
    )  # fmt: skip


def bytes_on(state, device):
    shards = [s for leaf in jax.tree.leaves(state) for s in leaf.addressable_shards if s.device == device]
    return sum(shard.data.nbytes for shard in shards)


def test_a_state_sharded_over_n_devices_uses_1_nth_of_the_memory_on_each(wide, tmp_path):
    state, size_on_each = None, {}
    for fsdp in (1, 2, 4, 8):
        experiment, placement = opening.prepare_experiment(override(wide, mesh__fsdp=fsdp), tmp_path / "run")
        state = state or jax.jit(experiment.initial_state)(experiment.key)
        parts = (state.params, state.opt_state, state.ema_params)
        placed = jax.device_put(parts, placement.state(parts))
        size_on_each[fsdp] = {bytes_on(placed, device) for device in jax.devices()}
        small = sum(leaf.nbytes for leaf in jax.tree.leaves(placed) if leaf.size < sharding.MIN_SHARDED_SIZE)
    (total,) = size_on_each[1]
    assert small < 0.1 * total
    assert size_on_each == {fsdp: {small + (total - small) // fsdp} for fsdp in (1, 2, 4, 8)}


LADDER = {"model": "ladder-mlp", "model__blocks": (2,), "model__channels": (64,), "model__bottleneck": (16,)}

BALANCED = LADDER | {"prior": "coupling", "prior__hidden": (8,), "objective__balance_layers": True,
                     "objective__warmup_steps": 50}  # fmt: skip


@pytest.mark.fault
@pytest.mark.parametrize(
    ("settings", "meshes"),
    [
        ({}, ((8, 1), (2, 4))),
        pytest.param(LADDER, ((1, 1), (1, 2)), marks=pytest.mark.thorough),
        pytest.param(BALANCED, ((1, 1), (4, 2)), marks=pytest.mark.thorough),
    ],
    ids=["vae", "ladder", "ladder with a learned prior and balanced layers"],
)
def test_a_sharded_state_gives_the_same_numbers(settings, meshes, small, wide, tmp_path):
    kept = {"mesh__data": 0, "train__ema_decay": 0.9, "train__save_every": 10, "schedule": "constant"}
    base = override(small(**kept), **settings) if settings else wide
    results = {}
    for data_size, fsdp in meshes:
        config = override(base, mesh__data=data_size, mesh__fsdp=fsdp)
        experiment, placement, data, _ = prepared(config, tmp_path / "run")
        state = programs.place_initial_state(experiment, placement)
        state, metrics = programs.compile_program(experiment, placement)(state, data, 2)
        jax.tree.map(lambda leaf, sharding: chex.assert_equal(leaf.sharding, sharding), state, placement.state(state))
        is_split = [leaf.sharding.shard_shape(leaf.shape) != leaf.shape for leaf in jax.tree.leaves(state.params)]
        assert any(is_split) == (fsdp > 1)
        results[fsdp > 1] = jax.device_get((state._replace(key=()), metrics))
    (replicated, metrics_replicated), (sharded, metrics_sharded) = results[False], results[True]
    for name in ("loss", "bound", "reconstruction", "grad_norm"):
        np.testing.assert_allclose(metrics_sharded[name], metrics_replicated[name], rtol=1e-5)
    for a, b in zip(jax.tree.leaves(sharded), jax.tree.leaves(replicated), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def test_sharded_parameters_are_gathered_and_activations_are_not(wide, tmp_path):
    experiment, placement = opening.prepare_experiment(override(wide, mesh__fsdp=4), tmp_path / "run")
    state = jax.eval_shape(experiment.initial_state, experiment.key)
    program = lowered(experiment, placement)
    assert set(COLLECTIVE.findall(program)) - {"reduce-scatter"} == {"all-reduce", "all-gather"}
    gathered = {tuple(sorted(map(int, s.split(",")))) for s in re.findall(r"= f32\[([\d,]*)\]\S* all-gather", program)}
    sharded = {
        tuple(sorted(leaf.shape)) for leaf in jax.tree.leaves(state.params) if leaf.size >= sharding.MIN_SHARDED_SIZE
    }
    assert gathered == sharded == {(64, 64)}  # 64 pixels by 64 units


@pytest.mark.thorough
def test_a_run_saved_on_one_mesh_resumes_on_another(wide, tmp_path):
    wide = override(wide, train__log_every=2, train__save_every=4)
    fit(override(wide, mesh__fsdp=4, train__steps=4), tmp_path / "run")
    saved = []
    for mesh in ((2, 4), (1, 1), (2, 1), (0, 8)):
        config = override(wide, mesh__data=mesh[0], mesh__fsdp=mesh[1])
        experiment, placement = opening.prepare_experiment(config, tmp_path / "run")
        with Checkpoints(tmp_path / "run", read_only=True) as checkpoints:
            state = restoring.restore(experiment, checkpoints, placement).state
        jax.tree.map(lambda leaf, sharding: chex.assert_equal(leaf.sharding, sharding), state, placement.state(state))
        saved.append(jax.device_get(state._replace(key=jax.random.key_data(state.key))))
    for other in saved[1:]:
        jax.tree.map(np.testing.assert_array_equal, saved[0], other)

    _, outcome = fit(override(wide, mesh__data=1, mesh__fsdp=2, train__steps=8), tmp_path / "run")
    assert (outcome.resumed_from, outcome.step) == (4, 8)
    fit(override(wide, train__steps=8), tmp_path / "alone")
    rows, alone = (metric_rows(tmp_path / name) for name in ("run", "alone"))
    assert [row["step"] for row in rows] == [2, 4, 6, 8]
    for name in ("loss", "grad_norm"):
        np.testing.assert_allclose([row[name] for row in rows], [row[name] for row in alone], rtol=1e-5)
    opened = opening.open_run(tmp_path / "run")  # on all devices, with the run's fsdp if they allow it
    assert opened.placement.mesh.shape == {"data": 4, "fsdp": 2}
    with restored_params(opened) as (step, params):
        assert step == 8
        assert {len(leaf.devices()) for leaf in jax.tree.leaves(params)} == {8}
        jax.tree.map(np.testing.assert_array_equal, params, outcome.params)


def test_a_fit_compiles_its_program_once(small, tmp_path):
    """Full dispatches, a shorter last one, validation and saves: one compilation. A resumed run: one more."""
    config = small(mesh__data=2, train__steps=17, train__save_every=5, train__evaluate_every=10)
    with compilations("train_steps") as compiled:
        _, outcome = fit(config, tmp_path / "run")
        assert (outcome.step, len(compiled)) == (17, 1)
        _, outcome = fit(override(config, train__steps=28), tmp_path / "run")
        assert (outcome.step, outcome.resumed_from, len(compiled)) == (28, 17, 2)


@pytest.mark.fault
def test_a_run_resumes_and_is_evaluated_on_another_number_of_devices(small, tmp_path):
    """A run saved on 4 devices has the same parameters, bit for bit, on 1, 2 and 8, and nearly the same next losses."""

    def train(devices, directory):
        config = small(mesh__data=devices, train__steps=10, train__save_every=5)
        _, outcome = fit(config, directory)
        assert {len(leaf.devices()) for leaf in jax.tree.leaves(outcome.state)} == {devices}
        return outcome, metric_rows(directory)[-1]

    def raw(params):
        return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(params)]

    _, last = train(4, tmp_path / "run")  # saves the steps 5 and 10
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "10")
    bits = []
    for devices in (4, 1, 2, 8):
        directory = shutil.copytree(tmp_path / "run", tmp_path / str(devices))
        config = small(mesh__data=devices, train__steps=10, train__save_every=5)
        experiment, placement = opening.prepare_experiment(config, directory)
        opened = opening.OpenedRun(experiment, RunDirectory(directory), placement, frozenset())
        with restored_params(opened) as (step, params):
            assert step == 5
            assert {len(leaf.devices()) for leaf in jax.tree.leaves(params)} == {devices}
            bits.append(raw(params))
    assert bits[1:] == 3 * bits[:1]
    for devices in (1, 2, 8):
        outcome, row = train(devices, tmp_path / str(devices))
        assert (outcome.resumed_from, outcome.step) == (5, 10)
        assert row["loss"] == pytest.approx(last["loss"], rel=1e-5)
    opened = opening.open_run(tmp_path / "run")  # on all devices
    with restored_params(opened) as (_, params):
        assert {len(leaf.devices()) for leaf in jax.tree.leaves(params)} == {8}


def test_communication_of_a_step_on_a_mesh():
    """The formula by hand: of 4 kB of sharded and 400 bytes of replicated parameters."""
    params = {"kernel": jnp.zeros((64, 16)), "bias": jnp.zeros(100)}
    assert sharding.communication_bytes(params, 1, 1) == 0
    assert sharding.communication_bytes(params, 8, 1) == 2 * 7 / 8 * (4096 + 400)
    gathered, across_rows, small = 2 * 3 / 4 * 4096, 2 * 1 / 2 * 4096 / 4, 2 * 7 / 8 * 400
    assert sharding.communication_bytes(params, 2, 4) == gathered + across_rows + small


@pytest.mark.parametrize("microbatches", [1, 2])
def test_rows_of_this_process_become_a_global_array(microbatches):
    mesh = sharding.make_mesh(4, 2)
    rows = sharding.local_rows(mesh, 16)
    np.testing.assert_array_equal(rows, np.arange(16))  # one process has all devices
    parts = (2,) if microbatches == 2 else ()
    array = np.random.default_rng(0).integers(0, 256, (3, *parts, 16, 2), np.uint8)
    placed = sharding.rows_to_global_array(
        array, sharding.steps_sharding(mesh, microbatches=microbatches), array.shape, rows
    )
    np.testing.assert_array_equal(placed, array)
    assert {shard.data.shape for shard in placed.addressable_shards} == {(3, *parts, 2, 2)}


def test_each_process_has_the_rows_of_its_devices(monkeypatch):
    """The process has the devices 2, 3, 6 and 7 of 8."""
    mesh = sharding.make_mesh(4, 2)
    batch_sharding = sharding.batch_sharding(mesh)
    indices = {d: i for d, i in batch_sharding.addressable_devices_indices_map((16,)).items() if d.id in (2, 3, 6, 7)}
    monkeypatch.setattr(type(batch_sharding), "addressable_devices_indices_map", lambda *_: indices)
    rows = sharding.local_rows(mesh, 16)
    assert rows.tolist() == [4, 5, 6, 7, 12, 13, 14, 15]
    call = {}
    monkeypatch.setattr(jax, "make_array_from_callback", lambda shape, _, part: call.update(part=part, shape=shape))
    local = np.arange(3 * 8).reshape(3, 8)
    sharding.rows_to_global_array(local, sharding.steps_sharding(mesh), (3, 16), rows)
    np.testing.assert_array_equal(call["part"]((slice(None), slice(12, 14))), local[:, 4:6])
