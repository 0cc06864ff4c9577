"""The benchmark: what a program costs is counted right, ratios tell a change from noise, and rows train alike."""

import gzip
import io
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from matplotlib.figure import Figure
from PIL import Image

from vae_jax import kernels
from vae_jax.bench import comparison, cost_analysis, figures, plan, probes, scopes, tables, timing, variants
from vae_jax.errors import InputError
from vae_jax.runs.programs import compile_program
from vae_jax.runs.run import Run
from vae_jax.runtime import defaults, sharding

TINY = [
    "--model.hidden", "8", "--model.latent-dim", "2", "--train.batch-size", "16", "--train.log-every", "6",
    "--mesh.data", "1",
]  # fmt: skip


@pytest.fixture
def make_run(small):
    """make_run(devices, image_shape, **settings): a run of those shapes, whose data are never looked at."""

    def make(devices=1, image_shape=(8, 8, 1), **settings):
        config = small(mesh__data=devices, train__save_every=20, **settings)
        data = {"fingerprint": "", "num_examples": 200, "image_shape": list(image_shape)}
        return Run(config, data, Path(), sharding.make_mesh(devices))

    return make


def compiled_text(run):
    return plan.trace_program(run).lower().compile().as_text()


@pytest.fixture(params=[False, True], ids=["count-unknown", "count-known"])
def known(request, monkeypatch):
    """Whether programs are compiled for their number of steps, as they are for GPUs."""
    monkeypatch.setattr(sharding, "counts_are_known", lambda mesh: request.param)
    compile_program.cache_clear()
    plan.step_costs.cache_clear()
    yield request.param
    compile_program.cache_clear()
    plan.step_costs.cache_clear()


# Costs.


@pytest.mark.parametrize("samples", [1, 5])
def test_the_count_of_operations_is_that_by_hand(make_run, known, samples):
    """Three products for each layer, the first layer's without the gradient to the image; XLA counts little more."""
    batch, pixels, width, latent = 128, 784, 100, 20
    objective = {"objective__name": "sampled-elbo", "objective__num_samples": samples}
    run = make_run(image_shape=(28, 28, 1), train__batch_size=batch, model__hidden=(width,), model__latent_dim=latent,
                   model__activation="relu", **objective)  # fmt: skip
    encoder = pixels * width + width * 2 * latent
    decoder = samples * (latent * width + width * pixels)
    found = plan.step_costs(run)
    assert found.flops == 2 * batch * (3 * (encoder + decoder) - pixels * width)
    assert 1 < found.xla_flops / found.flops < 1.25
    parts = plan.step_costs(plan.override_run(run, train__microbatches=4))
    assert (parts.flops, parts.xla_flops) == (found.flops, found.xla_flops)
    program = plan.trace_program(plan.override_run(run, train__microbatches=4))
    steps = run.config.train.log_every if known else 1
    assert (
        cost_analysis.total_flops(cost_analysis.matrix_products(program.jaxpr)) == steps * found.flops
    )  # four parts of a quarter
    state, _ = plan.abstract_arguments(run)
    weights = 2 * (pixels * width) + width + 2 * latent * width + 2 * latent + latent * width + width + pixels + 1
    assert found.parameters == weights
    assert found.traffic == 8 * weights + 2 * cost_analysis.tree_bytes(state) + 5 * batch * pixels
    assert cost_analysis.tree_bytes(state) == 4 * (
        3 * weights + 2 + 2 + 2
    )  # Adam's two moments; steps, its counters, a key


def test_convolutions_scans_and_branches_are_counted():
    x, kernel = jnp.zeros((2, 5, 6, 3)), jnp.zeros((3, 3, 3, 7))
    count = lambda f, *arguments: cost_analysis.total_flops(
        cost_analysis.matrix_products(jax.make_jaxpr(f)(*arguments))
    )  # noqa: E731
    once = 2 * (2 * 5 * 6 * 7) * (3 * 3 * 3)
    assert count(kernels.convolve, x, kernel) == once
    assert (
        count(lambda x, k: lax.scan(lambda c, _: (c, kernels.convolve(c, k)), x, None, length=4), x, kernel) == 4 * once
    )
    a = jnp.zeros((3, 4))
    assert count(lambda p: lax.cond(p, lambda: a @ a.T @ a, lambda: a), True) == 2 * (3 * 4 * 3 + 3 * 3 * 4)
    loss = lambda k: jnp.sum(kernels.convolve(x, k) ** 2)  # noqa: E731
    assert count(jax.value_and_grad(loss), kernel) == 2 * once  # the image needs no gradient


@pytest.mark.usefixtures("known")
def test_collectives_are_counted_on_eight_devices(make_run):
    """Eight devices sum gradients and metrics, once for each part of a batch."""
    run = make_run(8, train__batch_size=64)
    gradients = cost_analysis.tree_bytes(plan.abstract_arguments(run)[0].params)
    (found,) = cost_analysis.collectives(compiled_text(run))
    assert found.kind == "all-reduce"
    assert found.count >= 1
    assert gradients < found.bytes < gradients + 64
    (parts,) = cost_analysis.collectives(compiled_text(plan.override_run(run, train__microbatches=4)))
    assert 4 * gradients < parts.bytes < 4 * (gradients + 64)


HLO = """
%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%a, %b)
}
%inner (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %one = f32[8,2]{1,0} all-reduce(%p), to_apply=%add
}
%outer (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %loop = (s32[], f32[8]) while(%t), condition=%c, body=%inner, backend_config={"known_trip_count":{"n":"5"}}
  %two = (bf16[4]{0}, /*index=1*/pred[6]{0}) all-reduce(%x, %y), to_apply=%add
}
ENTRY %main (p: f32[8]) -> f32[8] {
  %loop = (s32[], f32[8]) while(%t), condition=%c, body=%outer
  %start = (f32[3]{0}, f32[24]{0}) all-gather-start(%z), dimensions={0}
  %done = f32[24]{0} all-gather-done(%start)
}
"""


def test_collectives_in_loops_and_asynchronous_ones():
    found = [("all-gather", 1, 96), ("all-reduce", 6, 5 * 64 + 8 + 6)]
    assert cost_analysis.collectives(HLO) == found
    # The outermost loop is that of the steps, whose number may be known.
    known = 'body=%outer, backend_config={"known_trip_count":{"n":"7"}}'
    assert cost_analysis.collectives(HLO.replace("body=%outer", known)) == found


def test_the_parts_of_a_step_can_be_told_apart_in_the_compiled_program(make_run):
    text = compiled_text(make_run(data__binarization="dynamic", model__likelihood="bernoulli"))
    parts = scopes.operation_scopes(text)
    assert {"read_images", "encoder", "sampling", "decoder", "likelihood", "optimizer"} <= set(parts.values())
    assert {"encoder, backwards", "decoder, backwards"} <= set(parts.values())
    products = re.findall(r' dot\(.*op_name="([^"]*)"', text)
    for scope in ("encoder", "decoder"):  # forwards, and backwards
        assert any(f"jvp({scope})" in name and "transpose" not in name for name in products)
        assert any(f"transpose(jvp({scope}))" in name for name in products)


def test_the_time_of_a_trace_is_shared_among_the_parts_of_the_step():
    text = """
  %fusion.1 = f32[8,2]{1,0} fusion(%p), kind=kLoop, metadata={op_name="jit(f)/while/body/jvp(encoder)/tanh"}
  ROOT dot.2 = (f32[8]{0}, f32[2]{0}) fusion(%p), metadata={op_type="dot" op_name="a/transpose(jvp(encoder))/decoder/b"}
  %all-reduce.3 = f32[8]{0} all-reduce(%p), to_apply=%add, metadata={op_name="jit(f)/optimizer/add"}
  %loop.4 = (s32[]) while(%t), body=%b, metadata={op_name="jit(f)/optimizer/while"}
  %kl.5 = f32[] add(%a, %b), metadata={op_name="jit(f)/loss_and_gradient/jvp()/add"}
  %rest.6 = f32[] add(%a, %b), metadata={op_name="jit(f)/transpose"}
"""
    parts = scopes.operation_scopes(text)
    assert parts == {
        "fusion.1": "encoder", "dot.2": "encoder, backwards", "all-reduce.3": "collectives",
        "kl.5": "loss_and_gradient", "rest.6": "other",
    }  # fmt: skip
    event = lambda operation, microseconds: {"args": {"hlo_op": operation}, "dur": microseconds}  # noqa: E731
    events = [event("fusion.1", 2), event("dot.2", 5), event("fusion.1", 1), event("loop.4", 9), {"dur": 7}]
    found = scopes.seconds_by_scope(events, parts)
    assert list(found) == ["encoder, backwards", "encoder"]
    np.testing.assert_allclose(list(found.values()), [5e-6, 3e-6])


# Statistics.


def test_the_interval_of_a_ratio_covers_the_truth():
    rng, hits, widths = np.random.default_rng(0), 0, []
    for i in range(300):
        drift = np.exp(rng.normal(0, 0.3, 9))  # the machine is slower by a third for a while, for both rows alike
        ours, theirs = drift * rng.lognormal(0, 0.03, (2, 9)) * [[1.2], [1.0]]
        found = comparison.ratio_interval(ours, theirs, seed=i)
        hits += found["low"] <= 1.2 <= found["high"]
        widths.append(found["high"] - found["low"])
        assert found["low"] <= found["median"] <= found["high"]
    assert 0.88 * 300 <= hits < 300  # 95 % are meant; 9 rounds are few
    assert np.median(widths) < 0.1  # the drift alone would make it 0.3
    assert comparison.ratio_interval([2.0], [1.0]) == {"median": 2.0, "low": None, "high": None}


def report(rng, factor=1.0, speed=1.0, noise=0.02, rounds=9):
    pace = speed * np.exp(rng.normal(0, 0.1, rounds))
    samples = lambda scale: (pace * scale * rng.lognormal(0, noise, rounds)).tolist()  # noqa: E731
    rows = [{"row": "program", "samples": samples(0.01 * factor)}, {"row": "rbg", "samples": samples(0.02)}]
    return {"format": comparison.FORMAT, "rows": rows, "machine": {"samples": {"float32": samples(0.1)}}}


def verdicts(before, after):
    return {row["row"]: row["verdict"] for row in comparison.compare(before, after)}


def test_a_comparison_tells_a_change_from_noise():
    rng, said = np.random.default_rng(1), {"none": [], "drift": [], "slower": [], "faster": []}
    for _ in range(60):
        said["none"].append(verdicts(report(rng), report(rng)))
        said["drift"].append(verdicts(report(rng), report(rng, speed=1.6)))  # another machine, as fast relatively
        said["slower"].append(verdicts(report(rng), report(rng, factor=1.6)))
        said["faster"].append(verdicts(report(rng, factor=1.6), report(rng)))
    for case in ("none", "drift"):
        assert sum(v["program"] != "no change beyond noise" for v in said[case]) <= 3
    assert sum(v["program"] == "slower" for v in said["slower"]) >= 57
    assert sum(v["program"] == "faster" for v in said["faster"]) >= 57
    assert sum(v["rbg"] != "no change beyond noise" for case in said.values() for v in case) <= 6
    few = report(rng, rounds=4)
    assert verdicts(few, few) == {"program": "too few rounds", "rbg": "too few rounds"}
    assert comparison.interval([1.0, 2.0, 3.0, 4.0]) == {"median": 2.5, "low": None, "high": None}


def test_what_is_not_alike_in_two_reports_is_told():
    of = lambda rows, **differ: {  # noqa: E731
        "rows": [{"row": row, "samples": [0.01, 0.02]} for row in rows],
        "config": {"train.batch_size": 128, "train.save_every": 1} | differ,
        "machine": {"jax": "1.0", "bandwidth_working_set": 5, "rates": {"float32": 1}, "samples": {"float32": [1, 2]}},
    }
    before, after = of(["program", "rbg"]), of(["program", "eager"], **{"train.batch_size": 64, "train.save_every": 7})
    after["machine"] |= {"jax": "1.1", "bandwidth_working_set": 6, "rates": {}}
    differ = comparison.context_differences(before, after)
    assert differ == {"train.batch_size": [128, 64], "jax": ["1.0", "1.1"], "rows": [["rbg"], ["eager"]]}
    assert comparison.context_differences(before, before) == {}
    said = io.StringIO()
    tables.print_comparison(comparison.compare(before, after), differ, said)
    *_, batch, version, first, second = said.getvalue().splitlines()
    assert "train.batch_size: 128 before, 64 after" in batch
    assert "jax: 1.0 before, 1.1 after" in version
    assert (first, second) == ("in A alone: rbg", "in B alone: eager")
    assert "15.00" in said.getvalue()  # ms


def test_how_many_samples_are_decoded_at_a_time_is_the_devices_affair_unless_said(monkeypatch):
    assert defaults.evaluation_chunk(0) == 20
    monkeypatch.setattr(probes.jax, "default_backend", lambda: "gpu")
    assert [defaults.evaluation_chunk(chunk) for chunk in (0, 7)] == [100, 7]


def test_what_a_machine_can_do_is_what_its_best_call_did(monkeypatch):
    took = [5.0, 3.0, 4.0, 2.0, 9.0, 4.0, 3.0, 3.0]
    ends = np.cumsum(np.ravel([[0.0, seconds] for seconds in took])).tolist()
    monkeypatch.setattr(probes.time, "perf_counter", iter(ends).__next__)
    assert probes.Probe(lambda: None, work=10.0).rate() == 5.0
    with pytest.raises(StopIteration):
        probes.Probe(lambda: None, work=10.0).rate()  # all of them were asked for


@pytest.mark.parametrize(
    ("batch_size", "flags", "count"), [(80, "", 4), (60, "", 3), (10, "", 1), (81, "", 3), (160, "", 5),
                                       (80, "--xla_force_host_platform_device_count=8", None)]
)  # fmt: skip
def test_a_cpu_is_split_into_devices_that_divide_a_batch(monkeypatch, batch_size, flags, count):
    asked = {}
    monkeypatch.setattr(probes.host, "cores", lambda: 6)
    monkeypatch.setattr(jax.config, "update", lambda name, value: asked.update({name: value}))
    monkeypatch.setenv("XLA_FLAGS", flags)
    defaults.use_cores_as_devices(batch_size)
    assert asked == ({} if count is None else {"jax_num_cpu_devices": count})


def test_numbers_for_people():
    numbers = (14196.2, 13.351, 1.0094, 0.98512, 0.0, None, -2.5)
    assert [tables.format_number(x) for x in numbers] == ["14,196", "13.35", "1.009", "0.985", "0.000", "", "-2.500"]
    assert tables.format_interval({"median": 0.5, "low": 0.25, "high": 1}, 1e3) == "500.0 (250.0 to 1,000)"


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ([0.5, 0.2, 0.8], [0.5, 0.2, 0.8]),
        ([0.5, 0.5, 0.5], [0.4, 0.5, 0.6]),
        ([0.99, 1.0, 0.1], [0.9, 1.0, 0.1]),
        ([0.02, 0.0, 0.01], [0.2, 0.0, 0.1]),
    ],
)
def test_names_in_the_figure_do_not_overlap(places, expected):
    np.testing.assert_allclose(figures.spread_labels(np.array(places), least=0.1), expected, atol=1e-12)


def test_devices_that_share_the_work_stay_below_the_roof_of_one():
    """Eight devices at six tenths of what one can do, each with its own bytes: a point for one of them."""
    rates = {"float32": 1e12, "bfloat16": 2e12, "bandwidth": 1e10}
    row = {
        "row": "devices-8", "flops": 8e9, "traffic_bytes": 1e7, "devices_that_add_up": 8,
        "seconds_per_step": {"median": 1e9 / (0.6 * 1e12)},
    }  # fmt: skip
    axes = Figure().add_subplot()
    figures._draw_roofline(axes, [row], rates)
    (points,) = [line for line in axes.lines if line.get_marker() == "o"]
    np.testing.assert_allclose(points.get_xdata(), 100)
    np.testing.assert_allclose(points.get_ydata(), 600)


# Rows.


def test_rows_that_change_how_but_not_what_train_alike(make_run, known):
    images = np.random.default_rng(0).integers(0, 256, (200, 8, 8, 1), np.uint8)
    run = make_run(data__binarization="dynamic", model__likelihood="bernoulli", train__log_every=5)
    names = ["program", "shard-map-2", "pmap-2"]  # tests/test_sharding.py has jit over devices
    losses = {}
    for name in names:
        row = variants.make_row(name, run, images)
        state, placed = row.arguments()
        traced = jax.make_jaxpr(row.call, static_argnums=2) if name == "pmap-2" else row.call.trace  # pmap has none
        program = traced(state, placed, row.steps)
        assert ("scan[" in str(getattr(program, "jaxpr", program))) is known, name  # the loop over steps
        losses[name] = []
        while len(losses[name]) < 5:
            state, metrics = row.call(state, placed, row.steps)
            found = np.asarray(metrics["loss"])
            losses[name] += np.ravel(found[0] if name == "pmap-2" else found).tolist()
    for name in names:
        np.testing.assert_allclose(losses[name], losses["program"], rtol=2e-5, err_msg=name)
    assert np.abs(np.diff(losses["program"])).min() > 1e-3  # the steps differ by more than the tolerance


def test_a_row_that_cannot_be_says_why_in_one_line(make_run):
    images = np.zeros((200, 8, 8, 1), np.uint8)
    told = {
        "devices-16": "at most the 8 devices",
        "shard-map-3": "multiple of the 3 devices",
        "remat": "model.remat: True given",
        "no-binarization": "are those of program already",
    }
    for name, words in told.items():
        with pytest.raises(InputError, match=words):
            variants.make_row(name, make_run(), images)
    row = variants.make_row("batch-512", make_run(), images)  # more than there are images
    assert row.run.data["num_examples"] == row.arguments()[1].shape[0] == 512
    assert row.steps == 1  # which is more work than the five of program
    assert variants.make_row("width-3", make_run(), images).run.config.model.hidden == (24,)
    variants.check_names(list(variants.DEFAULT))


def test_a_row_of_more_work_makes_fewer_steps_in_a_dispatch(make_run):
    images = np.zeros((200, 8, 8, 1), np.uint8)
    base = make_run(train__log_every=10, train__evaluate_every=20, objective__name="sampled-elbo")
    of = lambda name: variants.make_row(name, base, images).steps  # noqa: E731
    assert (of("batch-8"), of("batch-48")) == (10, 3)
    encoder, decoder = 3 * 64 * 8 + 3 * 2 * 8 * 2 - 64 * 8, 3 * (2 * 8 + 8 * 64)
    assert of("samples-4") == round(10 * (encoder + decoder) / (encoder + 4 * decoder)) == 4  # the encoder runs once


def test_a_row_is_compiled_cold_though_another_has_compiled_the_same():
    found = []
    listener = lambda event, **_: found.append(event.rpartition("/")[2])  # noqa: E731

    def compiled_anew():
        jax.clear_caches()
        found.clear()
        jax.jit(lambda x: jnp.sin(x) @ x).lower(jnp.ones((3, 3))).compile()
        return "cache_misses" in found and "cache_hits" not in found

    with timing.temporary_caches() as turn_to:
        jax.monitoring.register_event_listener(listener)
        said = []
        for row in ("one", "one", "other", "one"):
            turn_to(row)
            said.append(compiled_anew())
        jax.monitoring.unregister_event_listener(listener)
    assert said == [True, False, True, False]


def test_a_benchmark_from_the_command_line(data_dir, compiled_once, tmp_path, call, monkeypatch):
    monkeypatch.setattr(timing, "BLOCK_SECONDS", 0.01)
    monkeypatch.setattr(probes, "matrix_probe", lambda dtype, probe=probes.matrix_probe: probe(dtype, size=64))
    hits = []
    listener = lambda event, **_: hits.append(event) if event == "/jax/compilation_cache/cache_hits" else None  # noqa: E731
    jax.monitoring.register_event_listener(listener)
    done = call(
        "bench", *TINY, "--data.data-dir", data_dir, "--variants", "eager,remat,batch-32", "--rounds", 5,
        "--workdir", tmp_path / "bench", "--profile", tmp_path / "profile",
    )  # fmt: skip
    jax.monitoring.unregister_event_listener(listener)
    result, err = done.result, "\n".join(done.err)
    stored = json.loads((tmp_path / "bench" / "bench.json").read_text())
    assert {name: result[name] for name in stored} == stored
    rows = {row["row"]: row for row in result["rows"]}
    assert list(rows) == ["program", "eager", "batch-32"]
    assert list(result["left_out"]) == ["remat"]
    assert "remat: left out (model.remat: True given" in err
    for name, row in rows.items():
        assert len(row["samples"]) == 5
        assert row["floor_seconds"] > 0
        batch = 32 if name == "batch-32" else 16
        assert row["images_per_second"] == pytest.approx(batch / row["seconds_per_step"]["median"])
        assert row["seconds_per_image"]["median"] == pytest.approx(row["seconds_per_step"]["median"] / batch)
        assert row["work_ratio"] == batch / 16
        assert row["ratio_per_image"]["median"] == pytest.approx(row["ratio"]["median"] * 16 / batch)
        assert row["times_floor"]["median"] == pytest.approx(
            np.median(row["samples"]) / row["floor_seconds"],
            rel=0.5,  # medians of ratios and of what they are made of
        )
        assert row["times_floor"]["low"] <= row["times_floor"]["median"] <= row["times_floor"]["high"]
    assert rows["program"]["ratio"] == {"median": 1, "low": 1, "high": 1}
    program = rows["program"]
    assert (program["steps_per_dispatch"], rows["batch-32"]["steps_per_dispatch"]) == (6, 3)
    assert set(program["compile"]["cold"]) == set(program["compile"]["warm"]) == {"trace", "lower", "compile"}
    assert hits  # the second compilation found the first
    assert program["memory"]["total"] > 0
    assert program["collectives"] == []
    assert program["dispatch_seconds"] > 0
    assert rows["eager"]["compile"] is rows["eager"]["dispatch_seconds"] is None
    with Image.open(result["figure"]) as image:
        assert image.size[0] > 500
    (trace,) = (tmp_path / "profile").rglob("perfetto_trace.json.gz")
    with gzip.open(trace) as file:
        assert any("train_steps" in str(event.get("name")) for event in json.load(file)["traceEvents"])
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
    assert {"encoder", "sampling", "decoder", "optimizer", "encoder, backwards"} <= set(result["profile"])
    assert "the operations of program, traced" in err
    assert jax.config.jax_compilation_cache_dir == compiled_once

    path = tmp_path / "bench" / "bench.json"
    done = call("bench", "--compare", path, path)
    compared = done.result["rows"]
    assert [row["row"] for row in compared] == list(rows)
    assert all(row["seconds"]["median"] == 1 for row in compared)
    assert "\n".join(done.err).count("no change beyond noise") == 3
    assert done.result["not_alike"] == {}


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--variants", "per-stpe"], ["--variants: per-stpe given", "did you mean 'per-step'?"]),
        (["--variants", "device-2"], ["--variants: device-2 given", "did you mean 'devices-2'?"]),
        (["--variants", "devices-0"], ["--variants: devices-0 given"]),
        (["--rounds", "0"], ["--rounds: 0 given"]),
        (["--preset", "mnits"], ["--preset: mnits given", "did you mean 'mnist'?"]),
        (["--train.batch-size", "21", "--mesh.data", "8"], ["train.batch_size: 21 given", "multiple of the 8 devices"]),
        (["--compare", "a.json"], ["--compare=1 file(s) must be two"]),
        (["--compare", "a.json", "b.json"], ["--compare: a.json cannot be read"]),
        (["--compare", "other.json", "other.json"], ["--compare=other.json must be a bench.json"]),
    ],
)
def test_bench_refuses(flags, words, data_dir, tmp_path, monkeypatch, call):
    monkeypatch.chdir(tmp_path)
    Path("other.json").write_text('{"rows": [{"row": "program"}]}')
    done = call("bench", "--data.data-dir", data_dir, *flags)
    assert (done.code, done.out, len(done.err)) == (2, [], 1), done.err
    assert all(word in done.err[0] for word in words), done.err
    assert [path.name for path in tmp_path.iterdir()] == ["other.json"]


def test_a_profile_that_cannot_be_written_is_refused(data_dir, tmp_path, monkeypatch, call):
    monkeypatch.chdir(tmp_path)
    done = call("bench", "--data.data-dir", data_dir, "--profile", "/proc/nonexistent")
    assert (done.code, done.out, list(tmp_path.iterdir())) == (5, [], [])
    assert done.err[0].startswith("vae-jax: --profile: /proc/nonexistent cannot be made or written to")


def test_the_program_that_is_measured_is_the_one_that_trains(make_run):
    run = make_run()
    assert variants.make_row("program", run, np.zeros((200, 8, 8, 1), np.uint8)).run.config == run.config
    assert variants.program_row("program", run, np.zeros((200, 8, 8, 1), np.uint8)).call is compile_program(run)
