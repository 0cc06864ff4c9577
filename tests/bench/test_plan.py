"""Plans: costs and memory are those of the program that trains, and a run that cannot fit is refused."""

import dataclasses
import re
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax.bench import cost_analysis, plan, probes
from vae_jax.errors import InputError
from vae_jax.runs import opening, programs
from vae_jax.runs.run import Run
from vae_jax.runtime import defaults, host, sharding

DATA = {"fingerprint": "", "num_examples": 200, "image_shape": [8, 8, 1]}


def train(run, state, steps=4):
    """Return (metrics, parameters) after some steps from a state, on random images."""
    images = np.random.default_rng(0).integers(0, 256, (200, 8, 8, 1), np.uint8)
    replicated = sharding.replicated(run.mesh)
    state = jax.device_put(jax.tree.map(jnp.copy, state), replicated)  # The program donates it.
    state, metrics = programs.compile_program(run)(state, jax.device_put(images, replicated), steps)
    return jax.tree.map(lambda row: np.asarray(row)[:steps], metrics), jax.device_get(state.params)


TINY = ["--model.hidden", 8, "--model.latent-dim", 2, "--train.batch-size", 64, "--train.log-every", 4,
        "--train.save-every", 20, "--train.evaluate-every", 0]  # fmt: skip


@pytest.mark.parametrize("samples", [1, 5])
def test_the_count_of_operations_equals_the_count_by_hand(make_run, static_count, samples):
    """Each layer has three products, the first one without the gradient to the image; XLA counts little more."""
    batch, pixels, width, latent = 128, 784, 100, 20
    objective = {"objective__name": "sampled-elbo", "objective__num_samples": samples}
    run = make_run(image_shape=(28, 28, 1), train__batch_size=batch, model__hidden=(width,), model__latent_dim=latent,
                   model__activation="relu", **objective)  # fmt: skip
    encoder = pixels * width + width * 2 * latent
    decoder = samples * (latent * width + width * pixels)
    costs = plan.step_costs(run)
    assert costs.flops == 2 * batch * (3 * (encoder + decoder) - pixels * width)
    assert 1 < costs.xla_flops / costs.flops < 1.25
    split = plan.override_run(run, train__microbatches=4)
    assert (plan.step_costs(split).flops, plan.step_costs(split).xla_flops) == (costs.flops, costs.xla_flops)
    steps = run.config.train.log_every if static_count else 1
    flops = cost_analysis.total_flops(cost_analysis.matrix_products(plan.trace_program(split).jaxpr))
    assert flops == steps * costs.flops  # four microbatches of a quarter
    state, _ = plan.abstract_arguments(run)
    weights = 2 * (pixels * width) + width + 2 * latent * width + 2 * latent + latent * width + width + pixels + 1
    assert costs.parameters == weights
    assert costs.traffic == 8 * weights + 2 * cost_analysis.tree_bytes(state) + 5 * batch * pixels
    # The weights and Adam's two moments; steps, Adam's counters, a key.
    assert cost_analysis.tree_bytes(state) == 4 * (3 * weights + 2 + 2 + 2)


def test_training_uses_the_default_number_of_microbatches(make_run):
    many = make_run(train__batch_size=100, objective__name="iwae", objective__num_samples=50)
    few = plan.override_run(many, objective__num_samples=19)
    for run, microbatches in ((many, 5), (few, 1)):
        times = {product.times for product in cost_analysis.matrix_products(plan.trace_program(run).jaxpr)}
        assert times == {microbatches}
        streamed = dataclasses.replace(run, streamed=True).images_shape
        batch = (5, 20) if microbatches == 5 else (100,)
        assert streamed == (run.config.train.log_every, *batch, 8, 8, 1)


@pytest.mark.parametrize(
    ("devices", "settings"),
    [
        (1, {}),
        (8, {"model__latent_layers": (4,), "model__layer_hidden": (6,), "objective__name": "iwae",
             "objective__num_samples": 3}),
    ],
    ids=["one device", "8 devices, two layers, K=3"],
)  # fmt: skip
def test_microbatches_give_the_numbers_of_the_complete_batch(devices, settings, make_run):
    settings |= {"data__binarization": "dynamic", "model__likelihood": "bernoulli", "train__batch_size": 32}
    run = make_run(devices, **settings)
    state = jax.jit(run.initial_state)(run.key)
    complete, params = train(run, state)
    split, split_params = train(plan.override_run(run, train__microbatches=4), state)
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
        ({"train__microbatches": -1}, r"train\.microbatches=-1 must be 0 or more"),
        ({"train__microbatches": 2, "objective__name": "beta-tc"}, r"train\.microbatches=2 must be 1 with"),
        ({"model__remat": True}, r"model\.remat=True has no effect with model\.network=mlp"),
        ({"model__compute_dtype": "float16"}, r"model\.compute_dtype='float16' must be one of"),
    ],
)
def test_invalid_microbatches_and_precision_are_refused(settings, words, small):
    with pytest.raises(InputError, match=words):
        small(**settings)


@pytest.mark.parametrize(("data", "fsdp"), [(8, 1), (2, 4)])
def test_the_memory_of_a_plan_is_that_of_the_program_that_trains(small, tmp_path, data, fsdp):
    config = small(mesh__data=data, mesh__fsdp=fsdp, train__batch_size=64, model__hidden=(64,))
    run, images = opening.prepare_run(config, tmp_path / "run")
    replicated = sharding.replicated(run.mesh)
    state = jax.jit(run.initial_state, out_shardings=run.state_shardings)(run.key)
    program = programs.compile_program(run).lower(state, jax.device_put(images, replicated), 5).compile()
    analysis = program.memory_analysis()
    used = analysis.argument_size_in_bytes + analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    used += analysis.temp_size_in_bytes
    planned = plan.program_memory(plan.planned_run(config, run.data)[0])["total"]
    assert planned == pytest.approx(used, rel=0.01)
    stored = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state.params))
    assert plan.step_costs(run).state_bytes == pytest.approx(3 * stored, abs=100)  # with two moments, counters, a key
    # The plan on a machine that has one row of the devices.
    row = plan.override_run(run, mesh__data=1, train__batch_size=64 // data)
    row = Run(row.config, run.data, Path(), sharding.make_mesh(1, fsdp))
    # XLA lays out such a small sharded state differently if it is also summed over rows.
    assert plan.memory_of_mesh_row(row)["total"] == pytest.approx(used, rel=0.1 if fsdp == 1 else 0.2)


def test_memory_grows_with_the_batch_and_is_never_less_than_the_lower_bound(make_run):
    few, many = (make_run(model__hidden=(64, 32), train__batch_size=batch) for batch in (16, 192))
    split = plan.override_run(many, train__microbatches=12)
    totals = [plan.program_memory(run)["total"] for run in (few, split, many)]
    assert totals == sorted(set(totals))
    assert totals[2] - totals[0] > 2 * (totals[1] - totals[0])
    for run, total in zip((few, split, many), totals, strict=True):
        assert 0.3 * total < plan.memory_lower_bound(run) <= total


def test_a_plan_from_the_command_line(data_dir, call, monkeypatch):
    monkeypatch.setattr(probes, "matrix_probe", lambda dtype, probe=probes.matrix_probe: probe(dtype, size=64))
    memory = lambda run: dict.fromkeys(("temporary", "total"), 1000 * run.config.train.batch_size)  # noqa: E731
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
def test_the_lower_bound_uses_the_rates_of_all_devices_of_a_sharded_state(small, monkeypatch, devices):
    """On accelerators, also if the machine has only one row of the mesh."""
    monkeypatch.setattr(defaults, "effective_devices", lambda mesh: mesh.size)
    monkeypatch.setattr(probes, "matrix_probe", lambda dtype: types.SimpleNamespace(rate=lambda: 1e9))
    monkeypatch.setattr(probes, "bandwidth_probe", lambda size: types.SimpleNamespace(rate=lambda: 1e15))
    monkeypatch.setattr(plan, "program_memory", lambda run: {})
    two = jax.devices()[:2]
    monkeypatch.setattr(jax, "devices", lambda *_: two)
    config = small(mesh__data=devices // 2, mesh__fsdp=2, train__batch_size=8 * devices)
    result = plan.plan_training(config, DATA)
    assert result["devices"] == devices
    assert result["seconds_per_step_lower_bound"] == pytest.approx(result["flops_per_step"] / devices / 1e9, rel=1e-3)


def test_train_refuses_a_run_that_cannot_fit_before_it_compiles(data_dir, tmp_path, call, monkeypatch):
    monkeypatch.setattr(host, "memory_limit", lambda num_devices: 10_000)
    monkeypatch.setattr(plan, "program_memory", lambda run: pytest.fail("compiled"))
    monkeypatch.setattr(jax, "device_put", lambda *_: pytest.fail("placed"))
    argv = ["train", *TINY, "--data.data-dir", data_dir, "--workdir", tmp_path / "run", "--compilation-cache", "None"]
    done = call(*argv, "--mesh.data", 1)
    assert (done.code, done.out, len(done.err)) == (2, [], 1), done.err
    assert re.search(r"train.batch_size=64 needs [\d.]+ GiB or more for a step and a copy of the state", done.err[0])
    assert "run `vae-jax plan` to find the largest batch" in done.err[0]
    assert not (tmp_path / "run").exists()


def test_a_close_case_is_decided_by_compiling(make_run, monkeypatch):
    run = make_run()
    copy = plan.step_costs(run).state_bytes  # exists while a checkpoint is written
    needed = plan.memory_lower_bound(run) + 10 + copy
    monkeypatch.setattr(plan, "program_memory", lambda run: {"total": needed - copy})
    for limit, fits in ((needed, True), (needed - 1, False)):
        monkeypatch.setattr(host, "memory_limit", lambda num_devices, limit=limit: limit)
        if fits:
            plan.check_memory(run)
        else:
            with pytest.raises(InputError, match="for a step and a copy of the state"):
                plan.check_memory(run)
    monkeypatch.setattr(plan, "program_memory", lambda run: pytest.fail("compiled"))
    monkeypatch.setattr(host, "memory_limit", lambda num_devices: 100 * needed)
    plan.check_memory(run)  # much memory, so nothing is compiled


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
