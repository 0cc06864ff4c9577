"""Plans: costs and memory are those of the program that trains, and a run that cannot fit is refused."""

import dataclasses
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax.bench import cost_analysis, plan, probes
from vae_jax.data import from_arrays
from vae_jax.errors import InputError
from vae_jax.inference import elbo
from vae_jax.runs import build_experiment, data_shapes, place_initial_state, state_shapes, with_training
from vae_jax.runs.experiment import programs
from vae_jax.runtime import Placement, defaults, host, sharding


def place_data(experiment, placement):
    return jax.device_put(experiment.training_data.read_all(), placement.replicated)


def train(experiment, placement, state, steps=4):
    """Return (metrics, parameters) after some steps from a state."""
    state = jax.device_put(jax.tree.map(jnp.copy, state), placement.replicated)  # The program donates it.
    data = place_data(experiment, placement)
    state, metrics = programs.compile_program(experiment, placement)(state, data, steps)
    return jax.tree.map(lambda row: np.asarray(row)[:steps], metrics), jax.device_get(state.params)


TINY = ["--network.hidden", 8, "--model.latent-dim", 2, "--train.batch-size", 64, "--train.log-every", 4,
        "--train.save-every", 20, "--train.evaluate-every", 0]  # fmt: skip


@pytest.mark.parametrize("samples", [1, 5])
def test_the_count_of_operations_equals_the_count_by_hand(make_experiment, static_count, samples):
    """Each layer has three products, the first one without the gradient to the image; XLA counts little more."""
    batch, pixels, width, latent = 128, 784, 100, 20
    experiment, placement = make_experiment(
        shape=(28, 28, 1), train__batch_size=batch, network__hidden=(width,), network__activation="relu",
        model__latent_dim=latent, objective="sampled-elbo", objective__num_samples=samples,
    )  # fmt: skip
    encoder = pixels * width + width * 2 * latent
    decoder = samples * (latent * width + width * pixels)
    costs = plan.step_costs(experiment, placement)
    assert costs.dtype == "float32"
    assert costs.flops == 2 * batch * (3 * (encoder + decoder) - pixels * width)
    assert 1 < costs.xla_flops / costs.flops < 1.25
    split = with_training(experiment, microbatches=4)
    split_costs = plan.step_costs(split, placement)
    assert (split_costs.flops, split_costs.xla_flops) == (costs.flops, costs.xla_flops)
    steps = experiment.training.log_every if static_count else 1
    flops = cost_analysis.total_flops(cost_analysis.matrix_products(plan.trace_program(split, placement).jaxpr))
    assert flops == steps * costs.flops  # four microbatches of a quarter
    state = state_shapes(experiment, placement)
    weights = 2 * (pixels * width) + width + 2 * latent * width + 2 * latent + latent * width + width + pixels + 1
    assert costs.parameters == weights
    assert costs.traffic == 8 * weights + 2 * cost_analysis.tree_bytes(state) + 5 * batch * pixels
    # The weights and Adam's two moments; steps, Adam's counters, a key.
    assert cost_analysis.tree_bytes(state) == 4 * (3 * weights + 2 + 2 + 2)


def test_training_uses_the_default_number_of_microbatches(make_experiment, monkeypatch):
    for samples, microbatches in ((50, 5), (19, 1)):
        settings = {"objective": "iwae", "objective__num_samples": samples}
        experiment, placement = make_experiment(train__batch_size=100, **settings)
        traced = plan.trace_program(experiment, placement)
        assert {product.times for product in cost_analysis.matrix_products(traced.jaxpr)} == {microbatches}
        with monkeypatch.context() as patch:
            patch.setattr(programs, "is_streamed", lambda experiment: True)
            streamed = data_shapes(experiment, placement)["x"].shape
        batch = (5, 20) if microbatches == 5 else (100,)
        assert streamed == (experiment.training.log_every, *batch, 8, 8, 1)


@pytest.mark.parametrize(
    ("devices", "settings"),
    [
        pytest.param(1, {}, marks=pytest.mark.thorough),
        (8, {"model": "layered", "model__latent_layers": (4,), "model__layer_hidden": (6,), "objective": "iwae",
             "objective__num_samples": 3}),
    ],
    ids=["one device", "8 devices, two layers, K=3"],
)  # fmt: skip
def test_microbatches_give_the_numbers_of_the_complete_batch(devices, settings, make_experiment):
    settings |= {"preprocess": "dynamic-binarization", "likelihood": "bernoulli", "train__batch_size": 32}
    experiment, placement = make_experiment(devices, **settings)
    state = place_initial_state(experiment, placement)
    complete, params = train(experiment, placement, state)
    split, split_params = train(with_training(experiment, microbatches=4), placement, state)
    assert set(split) == set(complete)
    for name in complete:
        np.testing.assert_allclose(split[name], complete[name], rtol=2e-6, err_msg=name)
    assert np.abs(np.diff(complete["loss"])).min() > 1e-3  # The steps differ by far more than the tolerance.
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(split_params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-6)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"train__microbatches": 3}, r"train\.microbatches=3 must be a divisor .*=16, for example 2"),
        ({"train__microbatches": -1}, r"train\.microbatches=-1 must be at least 0"),
        ({"train__microbatches": 2, "objective": "beta-tc"}, r"train\.microbatches=2 must be 1 with"),
        ({"network__remat": True}, r"network\.remat has no effect with network=mlp"),
        ({"network__compute_dtype": "float16"}, r"network\.compute_dtype='float16' must be one of"),
    ],
)
def test_invalid_microbatches_and_precision_are_refused(settings, words, make_config):
    with pytest.raises(InputError, match=words):
        make_config(**settings)


@pytest.mark.parametrize(("data", "fsdp"), [pytest.param(8, 1, marks=pytest.mark.thorough), (2, 4)])
def test_the_memory_of_a_plan_is_that_of_the_program_that_trains(make_config, data, fsdp):
    experiment = build_experiment(make_config(train__batch_size=64, network__hidden=(64,)))
    placement = Placement(sharding.make_mesh(data, fsdp))
    state, arrays = place_initial_state(experiment, placement), place_data(experiment, placement)
    program = programs.compile_program(experiment, placement).lower(state, arrays, 5).compile()
    analysis = program.memory_analysis()
    used = analysis.argument_size_in_bytes + analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    used += analysis.temp_size_in_bytes
    assert plan.program_memory(experiment, placement)["total"] == pytest.approx(used, rel=0.01)
    stored = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state.params))
    state_bytes = plan.step_costs(experiment, placement).state_bytes
    assert state_bytes == pytest.approx(3 * stored, abs=100)  # with two moments, counters, a key
    # The plan on a machine that has one row of the devices.
    row = with_training(experiment, batch_size=64 // data), Placement(sharding.make_mesh(1, fsdp))
    # XLA lays out such a small sharded state differently if it is also summed over rows.
    assert plan.memory_of_mesh_row(*row)["total"] == pytest.approx(used, rel=0.1 if fsdp == 1 else 0.2)


def test_the_memory_of_a_streamed_run_contains_the_examples_of_two_dispatches(make_experiment, monkeypatch):
    experiment, placement = make_experiment()
    for module in (programs, plan):
        monkeypatch.setattr(module, "is_streamed", lambda experiment: True)
    compiled = plan.cost_analysis.memory(plan.trace_program(experiment, placement).lower().compile())
    dispatch = plan.cost_analysis.tree_bytes(data_shapes(experiment, placement), on_device=True)
    assert dispatch > 8 * 8 * experiment.training.batch_size
    planned = plan.program_memory(experiment, placement)
    assert planned == compiled | {name: compiled[name] + dispatch for name in ("arguments", "total")}


def test_memory_grows_with_the_batch_and_is_never_less_than_the_lower_bound(make_experiment):
    few, placement = make_experiment(network__hidden=(64, 32))
    many = with_training(few, batch_size=192)
    split = with_training(many, microbatches=12)
    totals = [plan.program_memory(experiment, placement)["total"] for experiment in (few, split, many)]
    assert totals == sorted(set(totals))
    assert totals[2] - totals[0] > 2 * (totals[1] - totals[0])
    for experiment, total in zip((few, split, many), totals, strict=True):
        assert 0.3 * total < plan.memory_lower_bound(experiment, placement) <= total


def test_the_lower_bound_on_memory_does_not_count_rematerialized_layers(make_experiment):
    settings = {"network": "residual", "network__hidden": (4,), "train__batch_size": 64}
    bounds = [plan.memory_lower_bound(*make_experiment(network__remat=remat, **settings)) for remat in (False, True)]
    experiment, placement = make_experiment(**settings)
    costs = plan.step_costs(experiment, placement)
    assert bounds[1] == costs.state_bytes + costs.data_bytes
    assert bounds[0] > 2 * bounds[1]


@pytest.mark.parametrize(
    ("x", "y", "kind", "settings", "bytes_per_example"),
    [
        (np.zeros((40, 6, 5, 3), np.uint8), None, "images", {}, 90 * (1 + 4)),
        pytest.param(np.linspace(0, 1, 240, dtype=np.float32).reshape(40, 6), np.arange(40), "vectors",
                     {"preprocess": "identity"}, 6 * (4 + 4), marks=pytest.mark.thorough),
        (np.arange(40)[:, None] % 3, None, "counts",
         {"preprocess": "one-hot", "preprocess__num_categories": 3, "likelihood": "categorical"}, 4 + 3 * 4),
    ],
    ids=["images", "vectors", "categories"],
)  # fmt: skip
def test_examples_of_any_shape_and_dtype_are_planned(x, y, kind, settings, bytes_per_example, make_config):
    """The traffic counts x as it is stored and as the model reads it, and the memory all stored arrays."""
    config = make_config(train__batch_size=40, **settings)
    experiment = build_experiment(config, source=from_arrays(x, y, kind=kind, holdout=0))
    placement = Placement(sharding.make_mesh(1))
    costs = plan.step_costs(experiment, placement)
    state = state_shapes(experiment, placement)
    fixed = 2 * costs.state_bytes + 2 * cost_analysis.tree_bytes(state.params)
    assert costs.traffic - fixed == config.train.batch_size * bytes_per_example
    stored = experiment.training_data.nbytes
    assert costs.data_bytes == stored == 40 * (x[0].size * (1 if kind == "images" else 4) + (0 if y is None else 4))
    result = plan.plan_experiment(experiment, placement, limit=10**9)
    assert (result["num_examples"], result["largest_batch"], result["data_bytes"]) == (40, 40, stored)


@pytest.mark.thorough
def test_an_experiment_that_is_made_by_hand_is_planned(make_experiment):
    """A plan uses neither the config nor the values of the examples."""
    experiment, placement = make_experiment(train__batch_size=200)
    by_hand = dataclasses.replace(experiment, config=None, objective=elbo)
    planned = plan.plan_experiment(by_hand, placement, limit=10**9)
    names = ("parameters", "flops_per_step", "bytes_per_step_and_device", "memory_per_device", "largest_batch")
    expected = plan.plan_experiment(experiment, placement, limit=10**9)
    assert {name: planned[name] for name in names} == {name: expected[name] for name in names}


def test_a_plan_from_the_command_line(data_dir, call, monkeypatch):
    monkeypatch.setattr(probes, "matrix_probe", lambda dtype, probe=probes.matrix_probe: probe(dtype, size=64))

    compiled = []

    def memory(experiment, placement):
        compiled.append(experiment.training.batch_size)
        return dict.fromkeys(("temporary", "total"), 1000 * experiment.training.batch_size)

    monkeypatch.setattr(plan, "program_memory", memory)
    argv = [
        "plan",
        *TINY,
        "--data.data-dir",
        data_dir,
        "--memory",
        0.001,
        "--train.log-every",
        3,
    ]  # not a divisor of save_every
    done = call(*argv, "--mesh.data", 1)
    one = done.result
    assert len(compiled) == len(set(compiled)) <= 4
    assert one["parameters"] == 64 * 8 + 8 + 2 * (8 * 2 + 2) + 2 * 8 + 8 + 8 * 64 + 64
    assert one["fits"] is True
    assert one["checkpoint_copy_bytes"] == one["state_bytes"]
    assert one["largest_batch"] == pytest.approx((0.001 * 2**30 - one["state_bytes"]) / 1000, rel=0.03)
    assert "largest batch" in "\n".join(done.err)
    assert one["seconds_per_step_lower_bound"] == pytest.approx(
        one["flops_per_step"] / one["matrix_rate"] + one["bytes_per_step_and_device"] / one["bandwidth"]
    )
    many = call(*argv, "--mesh.data", 16).result  # more devices than the machine has
    assert many["compiled_for"] == "1 device(s) with their share of the batch, of 16 requested"
    assert many["flops_per_step"] == one["flops_per_step"]
    gradients = 4 * one["parameters"]
    assert many["memory_per_device"]["total"] == one["memory_per_device"]["total"] / 16 + gradients
    assert many["largest_batch"] == 1294 // 16 * 16


@pytest.mark.parametrize("devices", [2, 8])
def test_the_lower_bound_uses_the_rates_of_all_devices_of_a_sharded_state(make_config, monkeypatch, devices):
    """On accelerators, also if the machine has only one row of the mesh."""
    monkeypatch.setattr(defaults, "effective_devices", lambda mesh: mesh.size)
    monkeypatch.setattr(probes, "matrix_probe", lambda dtype: types.SimpleNamespace(rate=lambda: 1e9))
    monkeypatch.setattr(probes, "bandwidth_probe", lambda size: types.SimpleNamespace(rate=lambda: 1e15))
    monkeypatch.setattr(plan, "program_memory", lambda experiment, placement: {})
    two = jax.devices()[:2]
    monkeypatch.setattr(jax, "devices", lambda *_: two)
    config = make_config(mesh__data=devices // 2, mesh__fsdp=2, train__batch_size=8 * devices)
    result = plan.plan_training(config)
    assert result["devices"] == devices
    assert result["seconds_per_step_lower_bound"] == pytest.approx(result["flops_per_step"] / devices / 1e9, rel=1e-3)


def test_train_refuses_a_run_that_cannot_fit_before_it_compiles(data_dir, tmp_path, call, monkeypatch):
    monkeypatch.setattr(host, "memory_limit", lambda num_devices: 10_000)
    monkeypatch.setattr(plan, "program_memory", lambda *_: pytest.fail("compiled"))
    monkeypatch.setattr(jax, "device_put", lambda *_: pytest.fail("placed"))
    argv = ["train", *TINY, "--data.data-dir", data_dir, "--workdir", tmp_path / "run", "--compilation-cache", "None"]
    done = call(*argv, "--mesh.data", 1)
    assert (done.code, done.out, len(done.err)) == (2, [], 1), done.err
    assert re.search(r"train.batch_size=64 needs [\d.]+ GiB or more for a step and a copy of the state", done.err[0])
    assert "run `vae-jax plan` to find the largest batch" in done.err[0]
    assert not (tmp_path / "run").exists()


def test_a_close_case_is_decided_by_compiling(make_experiment, monkeypatch):
    experiment = make_experiment()
    copy = plan.step_costs(*experiment).state_bytes  # exists while a checkpoint is written
    needed = plan.memory_lower_bound(*experiment) + 10 + copy
    monkeypatch.setattr(plan, "program_memory", lambda *_: {"total": needed - copy})
    for limit, fits in ((needed, True), (needed - 1, False)):
        monkeypatch.setattr(host, "memory_limit", lambda num_devices, limit=limit: limit)
        if fits:
            plan.check_memory(*experiment)
        else:
            with pytest.raises(InputError, match="for a step and a copy of the state"):
                plan.check_memory(*experiment)
    monkeypatch.setattr(plan, "program_memory", lambda *_: pytest.fail("compiled"))
    monkeypatch.setattr(host, "memory_limit", lambda num_devices: 100 * needed)
    plan.check_memory(*experiment)  # much memory, so nothing is compiled


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--memory", "0"], ["--memory=0.0 must be"]),
        (["--memory", "lots"], ["--memory"]),
        (["--mesh.data", "9"], ["train.batch_size=64", "multiple of the 9 devices", "for example 63"]),
        (["--train.microbatches", "5"], ["train.microbatches=5"]),
        (["--data.name", "digitz"], ["data.name='digitz'", "did you mean 'digits'?"]),
    ],
)
def test_plan_refuses(flags, words, data_dir, call):
    done = call("plan", *TINY, "--data.data-dir", data_dir, *flags)
    assert (done.code, done.out, len(done.err)) == (2, [], 1), done.err
    assert all(word in done.err[0] for word in words), done.err
