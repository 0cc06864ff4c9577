"""Timing of rows: caches, the command `vae-jax bench`, and its errors."""

import dataclasses
import gzip
import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from vae_jax.bench import probes, timing
from vae_jax.errors import InputError
from vae_jax.inference import elbo
from vae_jax.runs import build_experiment
from vae_jax.runtime import Placement, sharding

TINY = [
    "--network.hidden", "8", "--model.latent-dim", "2", "--train.batch-size", "16", "--train.log-every", "6",
    "--mesh.data", "1",
]  # fmt: skip


def test_a_row_does_not_use_the_programs_that_another_row_has_compiled():
    events = []
    listener = lambda event, **_: events.append(event.rpartition("/")[2])  # noqa: E731

    def misses_the_cache():
        jax.clear_caches()
        events.clear()
        jax.jit(lambda x: jnp.sin(x) @ x).lower(jnp.ones((3, 3))).compile()
        return "cache_misses" in events and "cache_hits" not in events

    with timing.temporary_caches() as select_cache:
        jax.monitoring.register_event_listener(listener)
        misses = []
        for row in ("one", "one", "other", "one"):
            select_cache(row)
            misses.append(misses_the_cache())
        jax.monitoring.unregister_event_listener(listener)
    assert misses == [True, False, True, False]


@pytest.mark.thorough
def test_a_benchmark_from_the_command_line(data_dir, tmp_path, call, monkeypatch):
    monkeypatch.setattr(timing, "BLOCK_SECONDS", 0.01)
    monkeypatch.setattr(probes, "matrix_probe", lambda dtype, probe=probes.matrix_probe: probe(dtype, size=64))
    hits, shared = [], os.environ["JAX_COMPILATION_CACHE_DIR"]
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
    assert list(result["skipped"]) == ["remat"]
    assert "remat: skipped (network.remat has no effect with network=mlp" in err
    for name, row in rows.items():
        assert len(row["samples"]) == 5
        assert row["lower_bound_seconds"] > 0
        batch = 32 if name == "batch-32" else 16
        assert row["examples_per_second"] == pytest.approx(batch / row["seconds_per_step"]["median"])
        assert row["seconds_per_example"]["median"] == pytest.approx(row["seconds_per_step"]["median"] / batch)
        assert row["work_ratio"] == batch / 16
        assert row["ratio_per_example"]["median"] == pytest.approx(row["ratio"]["median"] * 16 / batch)
        assert row["times_lower_bound"]["median"] == pytest.approx(
            np.median(row["samples"]) / row["lower_bound_seconds"],
            rel=0.5,  # the median of ratios against the ratio of medians
        )
        assert row["times_lower_bound"]["low"] <= row["times_lower_bound"]["median"] <= row["times_lower_bound"]["high"]
    assert rows["program"]["ratio"] == {"median": 1, "low": 1, "high": 1}
    program = rows["program"]
    assert (program["steps_per_dispatch"], rows["batch-32"]["steps_per_dispatch"]) == (6, 3)
    assert set(program["compile"]["cold"]) == set(program["compile"]["warm"]) == {"trace", "lower", "compile"}
    assert hits  # the warm compilation read the binary of the cold one
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
    assert {"encoder", "sampling", "decoder", "optimizer", "encoder, backward"} <= set(result["profile"])
    assert "profile of program: time of its operations" in err
    assert jax.config.jax_compilation_cache_dir == shared

    path = tmp_path / "bench" / "bench.json"
    done = call("bench", "--compare", path, path)
    compared = done.result["rows"]
    assert [row["row"] for row in compared] == list(rows)
    assert all(row["seconds"]["median"] == 1 for row in compared)
    assert "\n".join(done.err).count("no change beyond noise") == 3
    assert done.result["differences"] == {}


@pytest.mark.thorough
def test_an_experiment_that_is_made_by_hand_is_measured(make_experiment, monkeypatch):
    monkeypatch.setattr(timing, "BLOCK_SECONDS", 0.01)
    monkeypatch.setattr(probes, "matrix_probe", lambda dtype, probe=probes.matrix_probe: probe(dtype, size=64))
    experiment, placement = make_experiment()
    by_hand, lines = dataclasses.replace(experiment, config=None, objective=elbo), []
    report = timing.run_benchmark(by_hand, placement, ["per-step", "bfloat16"], rounds=1, log=lines.append)
    assert [(row["row"], row["dtype"]) for row in report["rows"]] == [("program", "float32"), ("per-step", "float32")]
    reason = "network.compute_dtype cannot be changed in an experiment that is made by hand; build it from a config"
    assert report["skipped"] == {"bfloat16": reason}
    assert f"bfloat16: skipped ({reason})" in lines
    assert json.loads(json.dumps(report))["config"] == by_hand.description()


def test_streamed_examples_are_refused(make_config):
    experiment = build_experiment(make_config(data__streaming="always"))
    with pytest.raises(InputError, match=r"data\.streaming does not work with bench"):
        timing.run_benchmark(experiment, Placement(sharding.make_mesh(1)), [], rounds=1, log=print)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--variants", "per-stpe"], ["--variants=per-stpe must be one of", "did you mean 'per-step'?"]),
        (["--variants", "device-2"], ["--variants=device-2 must be one of", "did you mean 'devices-2'?"]),
        (["--variants", "devices-0"], ["--variants=devices-0 must be one of"]),
        (["--rounds", "0"], ["--rounds=0 must be greater than 0"]),
        (["--preset", "mnits"], ["--preset=mnits must be one of", "did you mean 'mnist'?"]),
        (
            ["--train.batch-size", "21", "--mesh.data", "8"],
            ["train.batch_size=21 must be", "multiple of the 8 devices"],
        ),
        (["--compare", "a.json"], ["--compare=a.json must be two files"]),
        (["--compare", "a.json", "b.json"], ["--compare=a.json cannot be read"]),
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
    assert done.err[0].startswith("vae-jax: --profile=/proc/nonexistent cannot be created or written to")
