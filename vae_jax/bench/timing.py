"""Speed, measured so that it can be trusted: rows in interleaved rounds, ratios within a round, intervals for both."""

import contextlib
import gzip
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vae_jax.bench import cost_analysis, plan, probes, scopes
from vae_jax.bench.comparison import FORMAT, interval, ratio_interval
from vae_jax.bench.variants import BASELINE, Row, make_row, program_row
from vae_jax.config import flatten
from vae_jax.errors import InputError
from vae_jax.runs import Run, profile_to
from vae_jax.runtime import defaults, host

BLOCK_SECONDS = 0.2  # a row is timed for about as long at a time, dispatches waited for at the end
MAX_CALLS = 1000
DISPATCHES = 20  # of no step, for the host's time
PROBES = ("float32", "bfloat16", "bandwidth")

Log = Callable[[str], None]


# Measuring.


@contextlib.contextmanager
def temporary_caches() -> Iterator[Callable[[str], None]]:
    """turn_to(row): JAX's persistent cache in a folder of its own, else a row would find what another compiled; and as
    it was before afterwards."""
    from jax.experimental.compilation_cache import compilation_cache

    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    with tempfile.TemporaryDirectory(prefix="vae-jax-bench-") as folder:

        def turn_to(row: str) -> None:
            jax.config.update(names[0], os.path.join(folder, row))
            compilation_cache.reset_cache()

        try:
            jax.config.update(names[1], 0.0)
            yield turn_to
        finally:
            for name, value in before.items():
                jax.config.update(name, value)
            compilation_cache.reset_cache()


def compile_times(row: Row) -> tuple[dict[str, dict[str, float]], Any]:
    """({"cold", "warm": {"trace", "lower", "compile"}} in seconds, the compiled program) of a row.

    Cold is the first compilation; warm is another with nothing in memory and the binary in JAX's persistent cache.
    A `pmap` is traced as it is lowered.
    """
    state, images = row.arguments()
    shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), (state, images)
    )
    del state, images
    found = {}
    for name in ("cold", "warm"):
        jax.clear_caches()
        times = [time.perf_counter()]
        stage = row.call.trace(*shapes, row.steps) if hasattr(row.call, "trace") else None
        times.append(time.perf_counter())
        lowered = row.call.lower(*shapes, row.steps) if stage is None else stage.lower()
        times.append(time.perf_counter())
        compiled = lowered.compile()
        times.append(time.perf_counter())
        found[name] = dict(zip(("trace", "lower", "compile"), np.diff(times).tolist(), strict=True))
    return found, compiled


class Runner:
    """A row under way: its state and images are on the device, and each block goes on with the training."""

    def __init__(self, row: Row):
        self.row = row
        self.state, self.images = row.arguments()
        self._advance(1)  # which compiles
        seconds = min(self.block(1), self.block(1)) * row.steps
        self.calls = min(MAX_CALLS, max(1, round(BLOCK_SECONDS / max(seconds, 1e-9))))

    def _advance(self, calls: int) -> None:
        for _ in range(calls):
            self.state, metrics = self.row.call(self.state, self.images, self.row.steps)
        self.metrics = jax.block_until_ready(metrics)

    def block(self, calls: int | None = None) -> float:
        """Seconds per step over some dispatches, the last one waited for."""
        calls = calls or self.calls
        start = time.perf_counter()
        self._advance(calls)
        return (time.perf_counter() - start) / (calls * self.row.steps)

    def dispatch_seconds(self) -> float:
        """The host's time for a dispatch: until a call comes back that is asked for no step; the median."""
        times = []
        for _ in range(DISPATCHES):
            start = time.perf_counter()
            self.state, metrics = self.row.call(self.state, self.images, 0)
            times.append(time.perf_counter() - start)
            jax.block_until_ready(metrics)
        return statistics.median(times)


def run_rounds(
    rows: Mapping[str, Callable[[], float]], rounds: int, *, log: Log, seed: int = 0
) -> dict[str, list[float]]:
    """{name: what its function returned in each round}: every row once in each round, in another order each time."""
    rng = np.random.default_rng(seed)
    found: dict[str, list[float]] = {name: [] for name in rows}
    for i in range(rounds):
        for name in rng.permutation(list(rows)).tolist():
            found[name].append(rows[name]())
        log(f"round {i + 1} of {rounds}")
    return found


def run_benchmark(
    run: Run, images: np.ndarray, names: Sequence[str], *, rounds: int, log: Log, profile: Path | None = None
) -> dict[str, Any]:
    """Measures the variants `names` of a run beside its own program, in `rounds` interleaved rounds: the report.

    `say` is told the progress, and of each row that cannot be why. With `profile`, a folder, some dispatches of the
    run's own program are traced there afterwards.
    """
    rows, left_out, facts = {}, {}, {}
    with temporary_caches() as turn_to:
        for name in dict.fromkeys((BASELINE, *names)):
            turn_to(name)
            try:
                row = program_row(name, run, images) if name == BASELINE else make_row(name, run, images)
                facts[name] = _facts(row)
                rows[name] = row
                log(f"{name}: compiled")
            except InputError as error:
                left_out[name] = str(error)
                log(f"{name}: left out ({error})")
        runners = {}
        for name, row in rows.items():
            turn_to(name)
            runners[name] = Runner(row)
        traffic = plan.memory_traffic(run)
        machine = {
            "float32": probes.matrix_probe("float32"),
            "bfloat16": probes.matrix_probe("bfloat16"),
            "bandwidth": probes.bandwidth_probe(traffic // 2),
        }
        timed = {name: runner.block for name, runner in runners.items()}
        timed |= {f"machine {name}": probe.seconds for name, probe in machine.items()}
        samples = run_rounds(timed, rounds, log=log)
        for name, runner in runners.items():
            facts[name]["dispatch_seconds"] = runner.dispatch_seconds() if runner.row.compiled else None
        turn_to(BASELINE)
        parts = None if profile is None else _profiled(runners[BASELINE], profile)
    paces = {name: samples.pop(f"machine {name}") for name in PROBES}
    return {
        "format": FORMAT,
        "config": flatten(run.config),
        "rounds": rounds,
        "baseline": BASELINE,
        "machine": probes.machine_description()
        | {"rates": {name: machine[name].work / statistics.median(paces[name]) for name in PROBES}}
        | {"samples": paces, "bandwidth_working_set": traffic // 2, "peak_memory": host.peak_memory()},
        "rows": [_entry(rows[name], samples, facts, machine, paces) for name in samples],
        "left_out": left_out,
        "profile": parts,
    }


def _profiled(runner: Runner, folder: Path) -> dict[str, float]:
    """Traces two dispatches into a folder: {part of the step: seconds of its operations, a step and device}."""
    run = runner.row.run
    text = plan.trace_program(run).lower().compile().as_text()  # of the very program
    with profile_to(folder):
        runner.block(2)
    trace = max(folder.rglob("perfetto_trace.json.gz"), key=lambda path: path.stat().st_mtime)
    with gzip.open(trace) as file:
        events = json.load(file)["traceEvents"]
    found = scopes.seconds_by_scope(events, scopes.operation_scopes(text))
    return {part: seconds / (2 * runner.row.steps * run.mesh.size) for part, seconds in found.items()}


def _facts(row: Row) -> dict[str, Any]:
    """What is known of a row before it runs."""
    found = plan.step_costs(row.run)
    facts: dict[str, Any] = {
        "batch_size": row.run.config.train.batch_size,
        "devices": row.run.mesh.size,
        "steps_per_dispatch": row.steps,
        "parameters": found.parameters,
        "flops": found.flops,
        "xla_flops": found.xla_flops,
        "traffic_bytes": found.traffic,
    }
    if not row.compiled:
        return facts | dict.fromkeys(("compile", "xla_bytes", "memory", "collectives"))
    times, compiled = compile_times(row)
    once = row.run.microbatches == 1  # XLA counts the body of the parts' loop once
    return facts | {
        "compile": times,
        "xla_bytes": cost_analysis.xla_costs(compiled).get("bytes") if once else None,
        "memory": cost_analysis.memory(compiled) or None,
        "collectives": [talk._asdict() for talk in cost_analysis.collectives(compiled.as_text())],
    }


def _entry(
    row: Row,
    samples: Mapping[str, list[float]],
    known: Mapping[str, dict[str, Any]],
    probes: Mapping[str, probes.Probe],
    paces: Mapping[str, list[float]],
) -> dict[str, Any]:
    """A row of the report: its seconds per step, and the shares of what the machine could do in the same rounds."""
    values, facts = samples[row.name], known[row.name]
    images = facts["batch_size"] / known[BASELINE]["batch_size"]
    together = defaults.effective_devices(row.run.mesh)
    rate = {name: together * probes[name].work / np.asarray(paces[name]) for name in ("float32", "bfloat16")}
    bandwidth = probes["bandwidth"].work / np.asarray(paces["bandwidth"])
    seconds = np.asarray(values)
    floor = facts["flops"] / rate[row.run.config.model.compute_dtype] + facts["traffic_bytes"] / bandwidth
    return {
        "row": row.name,
        "samples": values,
        "seconds_per_step": interval(values) | {"least": min(values), "most": max(values)},
        "ratio": ratio_interval(values, samples[BASELINE]),
        "work_ratio": facts["flops"] / known[BASELINE]["flops"],
        "seconds_per_image": interval(seconds / facts["batch_size"]),
        "ratio_per_image": ratio_interval(seconds / images, samples[BASELINE]),
        "images_per_second": facts["batch_size"] / statistics.median(values),
        "devices_that_add_up": together,
        "floor_seconds": float(np.median(floor)),
        "times_floor": interval(seconds / floor),
        "share_of_matrix_rate": {name: float(np.median(facts["flops"] / (seconds * r))) for name, r in rate.items()},
        "share_of_bandwidth": float(np.median(facts["traffic_bytes"] / (seconds * bandwidth))),
        **facts,
    }
