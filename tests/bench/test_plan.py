"""Plans: what they say of memory is what the program then takes; what cannot fit is refused; parts add up."""

import dataclasses
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax.bench import batch_search, cost_analysis, plan, probes
from vae_jax.config.building import override
from vae_jax.errors import InputError
from vae_jax.inference.bound import sample_terms
from vae_jax.runs import opening, programs, train_loop
from vae_jax.runs.run import Run
from vae_jax.runtime import defaults, host, sharding

DATA = {"fingerprint": "", "num_examples": 200, "image_shape": [8, 8, 1]}


@pytest.fixture
def make_run(small):
    """make_run(devices, **settings): a run of digits' shape, whose data are never looked at."""

    def make(devices=1, **settings):
        config = small(mesh__data=devices, train__save_every=20, **settings)
        return Run(config, DATA, Path(), sharding.make_mesh(devices))

    return make


def train(run, state, steps=4):
    """(metrics, parameters) after some steps from a state on made-up images."""
    images = np.random.default_rng(0).integers(0, 256, (200, 8, 8, 1), np.uint8)
    everywhere = sharding.replicated(run.mesh)
    state = jax.device_put(jax.tree.map(jnp.copy, state), everywhere)  # donated
    state, metrics = programs.compile_program(run)(state, jax.device_put(images, everywhere), steps)
    return jax.tree.map(lambda row: np.asarray(row)[:steps], metrics), jax.device_get(state.params)


# Microbatches.


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"train__batch_size": 128, "objective__num_samples": 15}, 1),
        ({"train__batch_size": 128, "objective__num_samples": 50}, 4),  # of 1,600 codes; 6 of 1,067 would not be equal
        ({"train__batch_size": 100, "objective__num_samples": 50}, 5),
        ({"train__batch_size": 4096}, 4),
        ({"train__batch_size": 127, "objective__num_samples": 50}, 1),
        ({"train__batch_size": 128, "objective__num_samples": 50, "train__microbatches": 2}, 2),
        ({"train__batch_size": 4096, "objective__name": "beta-tc"}, 1),
    ],
)
def test_a_cpu_decodes_about_a_thousand_codes_at_a_time(settings, expected, small):
    config = small(**{"objective__name": "sampled-elbo"} | settings)
    assert defaults.num_microbatches(config, sharding.make_mesh(1)) == expected
    asked = config.train.microbatches or 1
    assert defaults.num_microbatches(config, sharding.make_mesh(8)) == asked
    gpu = types.SimpleNamespace(size=1, devices=np.array([types.SimpleNamespace(platform="gpu")]))
    assert defaults.num_microbatches(config, gpu) == asked


def test_a_training_takes_its_batch_in_as_many_parts_unasked(make_run):
    many = make_run(train__batch_size=100, objective__name="iwae", objective__num_samples=50)
    few = plan.override_run(many, objective__num_samples=19)
    for run, parts in ((many, 5), (few, 1)):
        times = {product.times for product in cost_analysis.matrix_products(plan.trace_program(run).jaxpr)}
        assert times == {parts}
        streamed = dataclasses.replace(run, streamed=True).images_shape
        batch = (5, 20) if parts == 5 else (100,)
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
def test_a_batch_in_parts_gives_the_numbers_of_the_whole(devices, settings, make_run):
    settings |= {"data__binarization": "dynamic", "model__likelihood": "bernoulli", "train__batch_size": 32}
    run = make_run(devices, **settings)
    state = jax.jit(run.initial_state)(run.key)
    whole, params = train(run, state)
    parts, other = train(plan.override_run(run, train__microbatches=4), state)
    assert set(parts) == set(whole)
    for name in whole:
        np.testing.assert_allclose(parts[name], whole[name], rtol=2e-6, err_msg=name)
    assert np.abs(np.diff(whole["loss"])).min() > 1e-3  # by far more than the tolerance
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-6)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"train__microbatches": 3}, r"train\.microbatches=3 must be a divisor .*\(16\), for example 2"),
        ({"train__microbatches": -1}, r"train\.microbatches=-1 must be 0 or more"),
        ({"train__microbatches": 2, "objective__name": "beta-tc"}, r"train\.microbatches=2 must be 1 for"),
        ({"model__remat": True}, r"model\.remat=True must be False where model\.network is mlp"),
        ({"model__compute_dtype": "float16"}, r"model\.compute_dtype: 'float16' given"),
    ],
)
def test_settings_that_cannot_be(settings, words, small):
    with pytest.raises(InputError, match=words):
        small(**settings)


def test_a_part_must_be_spread_over_the_devices(small, tmp_path):
    with pytest.raises(InputError, match=r"train.batch_size / train.microbatches: 4 given, .* the 8 devices"):
        opening.prepare_run(small(mesh__data=8, train__microbatches=4), tmp_path / "run")


# Precision and recomputation.


@pytest.mark.parametrize("network", ["mlp", "tied", "residual"])
def test_bfloat16_layers_leave_weights_and_densities_in_float32(network, make_run):
    how = {"mlp": {}, "tied": {"model__tied": True}, "residual": {"model__network": "residual"}}[network]
    exact, run = make_run(**how), make_run(**how, model__compute_dtype="bfloat16")
    params = jax.jit(lambda key: run.initial_state(key).params)(run.key)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    x = jax.random.uniform(jax.random.key(1), (4, 8, 8, 1))
    for method in ("encode", "__call__"):  # the parameters of q(z|x) and of p(x|z), not what is computed of them alone
        density = jax.eval_shape(lambda p, m=method: run.training_model.apply({"params": p}, x, method=m), params)
        assert {leaf.dtype for leaf in jax.tree.leaves(density)} == {jnp.dtype("float32")}
    of = lambda model: jax.jit(lambda p: sample_terms(p, jax.random.key(2), x, model=model)._replace(codes=None))  # noqa: E731
    terms = [of(model)(params) for model in (run.training_model, exact.model)]
    for ours, theirs in zip(*((t.log_px_z, t.log_pz, t.log_qz, t.kl) for t in terms), strict=True):
        assert ours.dtype == jnp.float32
        np.testing.assert_allclose(ours, theirs, rtol=3e-2, atol=1e-2)
    assert not np.array_equal(terms[0].log_px_z, terms[1].log_px_z)
    assert run.model == exact.model == exact.training_model  # what evaluates and draws is exact
    assert "bf16" in str(jax.make_jaxpr(of(run.training_model))(params))


def test_blocks_computed_again_have_the_same_gradient_and_parameters(make_run):
    how = {"model__network": "residual", "model__hidden": (2, 4)}
    kept, again = make_run(**how), make_run(**how, model__remat=True)
    params = jax.jit(lambda key: kept.initial_state(key).params)(kept.key)
    x, key = jax.random.uniform(jax.random.key(1), (4, 8, 8, 1)), jax.random.key(2)
    params = jax.tree.map(lambda leaf: leaf + 0.01, params)  # a new block is the identity
    of = lambda run: jax.jit(jax.grad(lambda p: jnp.sum(sample_terms(p, key, x, model=run.training_model).log_px_z)))  # noqa: E731
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), of(kept)(params), of(again)(params)
    )
    assert jax.tree.structure(jax.eval_shape(again.initial_state, again.key).params) == jax.tree.structure(params)
    forward = lambda run: str(plan.trace_program(run).jaxpr).count("conv_general_dilated")  # noqa: E731
    assert forward(again) > forward(kept)


# Memory.


@pytest.mark.parametrize(("across", "fsdp"), [(8, 1), (2, 4)])
def test_a_plan_s_memory_is_that_of_the_program_that_trains(small, tmp_path, across, fsdp):
    config = small(mesh__data=across, mesh__fsdp=fsdp, train__batch_size=64, model__hidden=(64,))
    run, images = opening.prepare_run(config, tmp_path / "run")
    everywhere = sharding.replicated(run.mesh)
    state = jax.jit(run.initial_state, out_shardings=run.state_shardings)(run.key)
    program = programs.compile_program(run).lower(state, jax.device_put(images, everywhere), 5).compile()
    found = program.memory_analysis()
    used = found.argument_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
    used += found.temp_size_in_bytes
    planned = plan.program_memory(plan.planned_run(config, run.data)[0])["total"]
    assert planned == pytest.approx(used, rel=0.01)
    held = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state.params))
    assert plan.step_costs(run).state_bytes == pytest.approx(3 * held, abs=100)  # two moments; counters, a key
    # As a machine with one row of devices plans it.
    share = plan.override_run(run, mesh__data=1, train__batch_size=64 // across)
    share = Run(share.config, run.data, Path(), sharding.make_mesh(1, fsdp))
    # So small a state that is spread is laid out otherwise where it is also summed over rows.
    assert plan.memory_of_mesh_row(share)["total"] == pytest.approx(used, rel=0.1 if fsdp == 1 else 0.2)


def test_memory_grows_with_the_batch_and_is_never_less_than_what_is_refused(make_run):
    few, many = (make_run(model__hidden=(64, 32), train__batch_size=batch) for batch in (16, 192))
    parts = plan.override_run(many, train__microbatches=12)
    totals = [plan.program_memory(run)["total"] for run in (few, parts, many)]
    assert totals == sorted(set(totals))
    assert totals[2] - totals[0] > 2 * (totals[1] - totals[0])
    for run, total in zip((few, parts, many), totals, strict=True):
        assert 0.3 * total < plan.memory_lower_bound(run) <= total


@pytest.mark.parametrize(
    ("memory_of", "expected"),
    [
        (lambda b: 1000 + 10 * b, 9900),
        (lambda b: 1000 + 10 * b + 40 * (b % 7), 9876),  # not quite a line
        (lambda b: 1000 + max(10 * b, 40_000), 9900),  # flat at first
        (lambda b: 5, 50_000),  # every image
        (lambda b: 200_000, None),
        (lambda b: 1000 + 12_000 * b, 8),  # only the smallest
    ],
)
def test_the_largest_batch_is_found_in_few_compilations(memory_of, expected):
    asked = []

    def watched(batch):
        asked.append(batch)
        return memory_of(batch)

    found = batch_search.largest_batch(watched, start=128, limit=100_000, multiple=4, at_most=50_003)
    assert len(asked) <= batch_search.SEARCHED
    assert all(batch % 4 == 0 for batch in asked)
    if expected is None:
        assert found is None
    else:
        assert memory_of(found) <= 100_000
        assert found == pytest.approx(expected, rel=0.03)


# The commands.


TINY = ["--model.hidden", 8, "--model.latent-dim", 2, "--train.batch-size", 64, "--train.log-every", 4,
        "--train.save-every", 20, "--train.evaluate-every", 0]  # fmt: skip


def test_a_plan_from_the_command_line(data_dir, call, monkeypatch):
    monkeypatch.setattr(probes, "matrix_probe", lambda dtype, probe=probes.matrix_probe: probe(dtype, size=64))
    taken = lambda run: {"temporary": 1000 * run.config.train.batch_size, "total": 1000 * run.config.train.batch_size}  # noqa: E731
    monkeypatch.setattr(plan, "program_memory", taken)
    argv = ["plan", *TINY, "--data.data-dir", data_dir, "--memory", 0.001, "--train.log-every", 3]  # not of save_every
    done = call(*argv, "--mesh.data", 1)
    one = done.result
    assert one["parameters"] == 64 * 8 + 8 + 2 * (8 * 2 + 2) + 2 * 8 + 8 + 8 * 64 + 64
    assert one["fits"] is True
    assert one["copy_while_saving_bytes"] == one["state_bytes"]
    assert one["largest_batch"] == pytest.approx((0.001 * 2**30 - one["state_bytes"]) / 1000, rel=0.03)
    assert "largest batch" in "\n".join(done.err)
    assert one["seconds_per_step_at_least"] == pytest.approx(
        one["flops_per_step"] / one["matrix_rate"] + one["bytes_per_step_and_device"] / one["bandwidth"]
    )
    many = call(*argv, "--mesh.data", 16).result  # which are not here
    assert many["compiled_for"] == "1 device(s) and their share of the batch; 16 asked"
    assert many["flops_per_step"] == one["flops_per_step"]
    gradients = 4 * one["parameters"]
    assert many["memory_per_device"]["total"] == one["memory_per_device"]["total"] / 16 + gradients
    assert many["largest_batch"] == 1294 // 16 * 16


@pytest.mark.parametrize("devices", [2, 8])
def test_the_least_time_of_devices_that_spread_the_state_is_that_of_their_rates_together(small, monkeypatch, devices):
    """As accelerators add up, here and where only one row of the mesh is here."""
    monkeypatch.setattr(probes, "devices_that_add_up", lambda mesh: mesh.size)
    monkeypatch.setattr(probes, "matrix_probe", lambda dtype: types.SimpleNamespace(rate=lambda: 1e9))
    monkeypatch.setattr(probes, "bandwidth_probe", lambda size: types.SimpleNamespace(rate=lambda: 1e15))
    monkeypatch.setattr(plan, "program_memory", lambda run: {})
    two = jax.devices()[:2]
    monkeypatch.setattr(jax, "devices", lambda *_: two)
    config = small(mesh__data=devices // 2, mesh__fsdp=2, train__batch_size=8 * devices)
    found = plan.plan_training(config, DATA)
    assert found["devices"] == devices
    assert found["seconds_per_step_at_least"] == pytest.approx(found["flops_per_step"] / devices / 1e9, rel=1e-3)


def test_train_refuses_what_cannot_fit_before_it_compiles(data_dir, tmp_path, call, monkeypatch):
    monkeypatch.setattr(probes, "memory_limit", lambda sharers: 10_000)
    monkeypatch.setattr(plan, "program_memory", lambda run: pytest.fail("compiled"))
    monkeypatch.setattr(jax, "device_put", lambda *_: pytest.fail("placed"))
    argv = ["train", *TINY, "--data.data-dir", data_dir, "--workdir", tmp_path / "run", "--compilation-cache", "None"]
    done = call(*argv, "--mesh.data", 1)
    assert (done.code, done.out, len(done.err)) == (2, [], 1), done.err
    assert "train.batch_size: 64 given, a step and a copy of the state need" in done.err[0]
    assert "`vae-jax plan` finds the largest batch" in done.err[0]
    assert not (tmp_path / "run").exists()


def test_a_narrow_case_is_decided_by_compiling(make_run, monkeypatch):
    run = make_run()
    copy = plan.step_costs(run).state_bytes  # which is there while it is saved
    needed = plan.memory_lower_bound(run) + 10 + copy
    monkeypatch.setattr(plan, "program_memory", lambda run: {"total": needed - copy})
    for limit, fits in ((needed, True), (needed - 1, False)):
        monkeypatch.setattr(probes, "memory_limit", lambda sharers, limit=limit: limit)
        if fits:
            plan.check_memory(run)
        else:
            with pytest.raises(InputError, match="a step and a copy of the state need"):
                plan.check_memory(run)
    monkeypatch.setattr(plan, "program_memory", lambda run: pytest.fail("compiled"))
    monkeypatch.setattr(probes, "memory_limit", lambda sharers: 100 * needed)
    plan.check_memory(run)  # plenty: nothing is compiled


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--memory", "0"], ["--memory: 0.0 given"]),
        (["--memory", "lots"], ["--memory"]),
        (["--mesh.data", "9"], ["train.batch_size: 64 given", "multiple of the 9 devices"]),
        (["--train.microbatches", "5"], ["train.microbatches: 5 given"]),
        (["--data.name", "digitz"], ["data.name='digitz'", "did you mean 'digits'?"]),
    ],
)
def test_plan_refuses(flags, words, data_dir, call):
    done = call("plan", *TINY, "--data.data-dir", data_dir, *flags)
    assert (done.code, done.out, len(done.err)) == (2, [], 1), done.err
    assert all(word in done.err[0] for word in words), done.err


def test_the_memory_of_this_machine_is_told():
    limit = host.memory_limit()
    assert limit is None or 2**26 < limit < 2**50
    assert host.memory_limit(4) == pytest.approx(limit / 4, rel=0.05)


def test_a_profile_of_a_training(small, tmp_path):
    run, images = opening.prepare_run(override(small(), train__steps=10), tmp_path / "run")
    train_loop.fit(run, images, profile=tmp_path / "profile")
    assert len(list((tmp_path / "profile").rglob("perfetto_trace.json.gz"))) == 1
