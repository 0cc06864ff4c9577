"""Timing of a training step and its variants: interleaved rounds, ratios within a round, and intervals of both."""

import contextlib
import dataclasses
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
from vae_jax.bench.variants import BASELINE, DEFAULT, Row, make_row, program_row
from vae_jax.errors import InputError
from vae_jax.runs import Experiment, num_microbatches, profile_to, require_in_memory
from vae_jax.runtime import Placement, defaults, host

BLOCK_SECONDS = 0.2  # approximate length of a timed block of dispatches, synchronized at its end
MAX_CALLS = 1000
EMPTY_DISPATCHES = 20  # calls with zero steps, for the host's time of a dispatch
MATRIX_DTYPES = ("float32", "bfloat16")
PROBES = (*MATRIX_DTYPES, "bandwidth")

Log = Callable[[str], None]


# Measuring.


@contextlib.contextmanager
def temporary_caches() -> Iterator[Callable[[str], None]]:
    """Give each row of a benchmark a separate persistent compilation cache, inside a `with` block.

    With a shared cache, a row could find a program that another row has compiled, and its compile time would be wrong.
    At the end, JAX's settings are restored.

    Yields:
      A function select(row) that makes JAX use the cache of a row.
    """
    from jax.experimental.compilation_cache import compilation_cache

    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    old_values = {name: getattr(jax.config, name) for name in names}
    with tempfile.TemporaryDirectory(prefix="vae-jax-bench-") as folder:

        def select(row: str) -> None:
            jax.config.update(names[0], os.path.join(folder, row))
            compilation_cache.reset_cache()

        try:
            jax.config.update(names[1], 0.0)
            yield select
        finally:
            for name, value in old_values.items():
                jax.config.update(name, value)
            compilation_cache.reset_cache()


def compile_times(row: Row) -> tuple[dict[str, dict[str, float]], Any]:
    """Measure the compilation of a row.

    `cold` is the first compilation. `warm` is a second one, with empty in-memory caches and the binary in JAX's
    persistent cache. `pmap` has no separate trace; its time is part of `lower`.

    Args:
      row: The row, whose `call` is jitted.

    Returns:
      ({"cold", "warm": {"trace", "lower", "compile"}} in seconds, the `jax.stages.Compiled`).
    """
    arguments = row.arguments()
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), arguments)
    del arguments
    call: Any = row.call  # jitted, so it has `lower`
    seconds, compiled = {}, None
    for name in ("cold", "warm"):
        jax.clear_caches()
        times = [time.perf_counter()]
        traced = call.trace(*shapes, row.steps) if hasattr(call, "trace") else None
        times.append(time.perf_counter())
        lowered = call.lower(*shapes, row.steps) if traced is None else traced.lower()
        times.append(time.perf_counter())
        compiled = lowered.compile()
        times.append(time.perf_counter())
        seconds[name] = dict(zip(("trace", "lower", "compile"), np.diff(times).tolist(), strict=True))
    return seconds, compiled


class Runner:
    """A row with its state and data on the device; each timed block continues the training.

    Attributes:
      row: The row.
      state: The current training state.
      data: The training examples, as `row.arguments` has placed them.
      metrics: The metrics of the last dispatch.
      calls: The number of dispatches in a block of about `BLOCK_SECONDS`.
    """

    def __init__(self, row: Row):
        self.row = row
        self.state, self.data = row.arguments()
        self.metrics: Any = None
        self._advance(1)  # compiles
        seconds = min(self.block(1), self.block(1)) * row.steps
        self.calls = min(MAX_CALLS, max(1, round(BLOCK_SECONDS / max(seconds, 1e-9))))

    def _advance(self, calls: int) -> None:
        for _ in range(calls):
            self.state, self.metrics = self.row.call(self.state, self.data, self.row.steps)
        jax.block_until_ready(self.metrics)

    def block(self, calls: int | None = None) -> float:
        """Return the seconds per step over `calls` dispatches, synchronized after the last one."""
        calls = calls or self.calls
        start = time.perf_counter()
        self._advance(calls)
        return (time.perf_counter() - start) / (calls * self.row.steps)

    def dispatch_seconds(self) -> float:
        """Return the host's time for a dispatch in seconds: the median of calls with zero steps, until they return."""
        times = []
        for _ in range(EMPTY_DISPATCHES):
            start = time.perf_counter()
            self.state, metrics = self.row.call(self.state, self.data, 0)
            times.append(time.perf_counter() - start)
            jax.block_until_ready(metrics)
        return statistics.median(times)


def run_rounds(
    rows: Mapping[str, Callable[[], float]], rounds: int, *, log: Log, seed: int = 0
) -> dict[str, list[float]]:
    """Measure every row once in each round, in a random order that changes from round to round.

    Args:
      rows: {name: function that measures once}.
      rounds: The number of rounds.
      log: Receives a line after each round.
      seed: The seed of the orders.

    Returns:
      {name: the result of each round}.
    """
    rng = np.random.default_rng(seed)
    samples: dict[str, list[float]] = {name: [] for name in rows}
    for i in range(rounds):
        for name in rng.permutation(list(rows)).tolist():
            samples[name].append(rows[name]())
        log(f"round {i + 1} of {rounds}")
    return samples


def run_benchmark(
    experiment: Experiment,
    placement: Placement,
    names: Sequence[str] = DEFAULT,
    *,
    rounds: int = 9,
    log: Log = lambda line: None,
    profile: Path | None = None,
) -> dict[str, Any]:
    """Measure the training program of an experiment and variants of it, in interleaved rounds.

    Args:
      experiment: The experiment whose training program is the baseline.
      placement: Its devices.
      names: The names of the variants.
      rounds: The number of rounds.
      log: Receives the progress, and for each variant that is skipped the reason.
      profile: A directory for a profiler trace of some dispatches of the baseline, taken at the end; or None.

    Returns:
      The report, a dictionary of JSON values. Times are in seconds.

    Raises:
      InputError: The examples are streamed.
    """
    require_in_memory(experiment, "bench")
    with temporary_caches() as select_cache:
        rows, costs, skipped = _prepare_rows(experiment, placement, names, select_cache, log)
        runners = _start(rows, select_cache)
        working_set = plan.memory_traffic(experiment, placement) // 2
        machine = _machine_probes(working_set)
        timed = {name: runner.block for name, runner in runners.items()}
        timed |= {f"machine {name}": probe.seconds for name, probe in machine.items()}
        samples = run_rounds(timed, rounds, log=log)
        for name, runner in runners.items():
            costs[name]["dispatch_seconds"] = runner.dispatch_seconds() if runner.row.compiled else None
        select_cache(BASELINE)
        parts = None if profile is None else _profile(runners[BASELINE], profile)
    probe_seconds = {name: samples.pop(f"machine {name}") for name in PROBES}
    return {
        "format": FORMAT,
        "config": experiment.description(),
        "rounds": rounds,
        "baseline": BASELINE,
        "machine": _report_machine(machine, probe_seconds, working_set=working_set),
        "rows": [_report_row(rows[name], samples, costs, machine, probe_seconds) for name in samples],
        "skipped": skipped,
        "profile": parts,
    }


def _start(rows: Mapping[str, Row], select_cache: Callable[[str], None]) -> dict[str, Runner]:
    """Return {name: runner} of rows, each compiled with its cache."""
    runners = {}
    for name, row in rows.items():
        select_cache(name)
        runners[name] = Runner(row)
    return runners


def _machine_probes(working_set: int) -> dict[str, probes.Probe]:
    """Return {name in `PROBES`: probe}; the bandwidth is that of an array of `working_set` bytes."""
    matrix = {dtype: probes.matrix_probe(dtype) for dtype in MATRIX_DTYPES}
    return matrix | {"bandwidth": probes.bandwidth_probe(working_set)}


def _report_machine(
    machine: Mapping[str, probes.Probe], probe_seconds: Mapping[str, list[float]], *, working_set: int
) -> dict[str, Any]:
    """Return the machine's entry in the report: its description, the rates of the probes, and the peak memory."""
    rates = {name: machine[name].work / statistics.median(probe_seconds[name]) for name in PROBES}
    measured = {"rates": rates, "samples": probe_seconds, "bandwidth_working_set": working_set}
    return probes.machine_description() | measured | {"peak_memory": host.peak_memory()}


def _prepare_rows(
    experiment: Experiment,
    placement: Placement,
    names: Sequence[str],
    select_cache: Callable[[str], None],
    log: Log,
) -> tuple[dict[str, Row], dict[str, dict[str, Any]], dict[str, str]]:
    """Return {name: row}, {name: costs of the row} and {name: reason} of the rows that are skipped."""
    rows, costs, skipped = {}, {}, {}
    for name in dict.fromkeys((BASELINE, *names)):
        select_cache(name)
        try:
            row = (program_row if name == BASELINE else make_row)(name, experiment, placement)
            costs[name] = _row_costs(row)
            rows[name] = row
            log(f"{name}: compiled")
        except InputError as error:
            skipped[name] = str(error)
            log(f"{name}: skipped ({error})")
    return rows, costs, skipped


def _profile(runner: Runner, folder: Path) -> dict[str, float]:
    """Trace two dispatches into a folder; return {scope of a step: seconds of its operations, per step and device}."""
    experiment, placement = runner.row.experiment, runner.row.placement
    text = plan.trace_program(experiment, placement).lower().compile().as_text()  # the same program as the runner's
    with profile_to(folder):
        runner.block(2)
    trace = max(folder.rglob("perfetto_trace.json.gz"), key=lambda path: path.stat().st_mtime)
    with gzip.open(trace) as file:
        events = json.load(file)["traceEvents"]
    seconds = scopes.seconds_by_scope(events, scopes.operation_scopes(text))
    return {scope: s / (2 * runner.row.steps * placement.mesh.size) for scope, s in seconds.items()}


def _row_costs(row: Row) -> dict[str, Any]:
    """Return the entries of a row in the report that do not need a measurement of its speed."""
    costs = plan.step_costs(row.experiment, row.placement)
    entries: dict[str, Any] = {
        "batch_size": row.experiment.training.batch_size,
        "devices": row.placement.mesh.size,
        "steps_per_dispatch": row.steps,
        "parameters": costs.parameters,
        "flops": costs.flops,
        "dtype": costs.dtype,
        "xla_flops": costs.xla_flops,
        "traffic_bytes": costs.traffic,
    }
    if not row.compiled:
        return entries | dict.fromkeys(("compile", "xla_bytes", "memory", "collectives"))
    times, compiled = compile_times(row)
    # XLA's cost model counts the body of the loop over microbatches once.
    single_batch = num_microbatches(row.experiment, row.placement) == 1
    return entries | {
        "compile": times,
        "xla_bytes": cost_analysis.xla_costs(compiled).get("bytes") if single_batch else None,
        "memory": cost_analysis.memory(compiled) or None,
        "collectives": [dataclasses.asdict(entry) for entry in cost_analysis.collectives(compiled.as_text())],
    }


def _report_row(
    row: Row,
    samples: Mapping[str, list[float]],
    costs: Mapping[str, dict[str, Any]],
    machine: Mapping[str, probes.Probe],
    probe_seconds: Mapping[str, list[float]],
) -> dict[str, Any]:
    """Return a row of the report: its time per step, and the share of the machine's rates in the same rounds."""
    values, entries = samples[row.name], costs[row.name]
    examples = entries["batch_size"] / costs[BASELINE]["batch_size"]
    devices = defaults.effective_devices(row.placement.mesh)
    rate = {name: devices * machine[name].work / np.asarray(probe_seconds[name]) for name in MATRIX_DTYPES}
    bandwidth = machine["bandwidth"].work / np.asarray(probe_seconds["bandwidth"])
    seconds = np.asarray(values)
    bound = entries["flops"] / rate[_measured_dtype(entries["dtype"])] + entries["traffic_bytes"] / bandwidth
    return {
        "row": row.name,
        "samples": values,
        "seconds_per_step": {**interval(values), "min": min(values), "max": max(values)},
        "ratio": ratio_interval(values, samples[BASELINE]),
        "work_ratio": entries["flops"] / costs[BASELINE]["flops"],
        "seconds_per_example": interval(seconds / entries["batch_size"]),
        "ratio_per_example": ratio_interval(seconds / examples, samples[BASELINE]),
        "examples_per_second": entries["batch_size"] / statistics.median(values),
        "effective_devices": devices,
        "lower_bound_seconds": float(np.median(bound)),
        "times_lower_bound": interval(seconds / bound),
        "share_of_matrix_rate": {name: float(np.median(entries["flops"] / (seconds * r))) for name, r in rate.items()},
        "share_of_bandwidth": float(np.median(entries["traffic_bytes"] / (seconds * bandwidth))),
        **entries,
    }


def _measured_dtype(dtype: str) -> str:
    """Return the measured dtype whose rate bounds products of a dtype: bfloat16 for 16 bits, else float32."""
    return MATRIX_DTYPES[np.dtype(dtype).itemsize == 2]
