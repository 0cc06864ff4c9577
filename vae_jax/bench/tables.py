"""Printed tables of benchmarks, comparisons and plans."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

GIB, MIB = 2**30, 2**20


def format_number(value: float | None) -> str:
    """Return a number with about four significant digits and no exponent: 14,196, 13.35, 0.985; "" for None."""
    if value is None:
        return ""
    decimals = 3 if not value else min(3, max(0, 3 - math.floor(math.log10(abs(value)))))
    return f"{value:,.{decimals}f}"


def format_interval(interval: Mapping[str, Any], scale: float = 1) -> str:
    """Return a median with its interval, times `scale`: `1.020 (0.990 to 1.050)`; without an interval, `1.020`."""
    median = format_number(scale * interval["median"])
    if interval["low"] is None:
        return median
    return f"{median} ({format_number(scale * interval['low'])} to {format_number(scale * interval['high'])})"


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], stream: TextIO) -> None:
    """Print a table, the first column left-aligned and the others right-aligned.

    On a terminal it has the terminal's width, elsewhere at most 240 characters.
    """
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=SIMPLE, pad_edge=False)
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console = Console(file=stream, width=None if stream.isatty() else 240, highlight=False, markup=False)
    console.print(table)


def print_report(report: Mapping[str, Any], stream: TextIO) -> None:
    """Print the tables of a benchmark: speed, comparison with the machine's rates, and the compiled programs.

    Args:
      report: The report of `run_benchmark`.
      stream: The text stream to print to.
    """
    machine, rows, baseline = report["machine"], report["rows"], report["baseline"]
    title = f"{machine['device']}, {machine['cores']} core(s); medians of {report['rounds']} rounds, 95 % intervals"
    batch = rows[0]["batch_size"]
    columns = ("row", "ms/step", f"relative to {baseline}", "relative FLOPs", "µs/example", f"relative to {baseline}",
               "examples/s")  # fmt: skip
    print_table(title, columns, [_speed_cells(row, batch) for row in rows], stream)
    rates, peak = machine["rates"], machine["peak_memory"]
    title = (
        f"measured rates: matrix products {rates['float32'] / 1e9:.0f} (float32) and {rates['bfloat16'] / 1e9:.0f} "
        f"(bfloat16) GFLOP/s, bandwidth {rates['bandwidth'] / 1e9:.0f} GB/s; peak memory of all rows: "
        + ", ".join(f"{name} {size / MIB:,.0f} MiB" for name, size in peak.items())
    )
    columns = ("row", "lower bound, ms/step", "time / lower bound", "of f32 rate", "of bf16 rate", "of bandwidth",
               "ms/dispatch", "host, ms/dispatch")  # fmt: skip
    print_table(title, columns, [_rate_cells(row) for row in rows], stream)
    columns = ("row", "trace, lower, compile: s", "cached: s", "MFLOP counted", "MFLOP by XLA", "MB lower bound",
               "MB by XLA", "memory, MiB", "collectives", "communication, kB")  # fmt: skip
    compiled = [_compiled_cells(row) for row in rows if row["compile"]]
    print_table("compiled programs: costs per step", columns, compiled, stream)
    if report["profile"]:
        total = sum(report["profile"].values())
        parts = [[part, format_number(1e3 * s), f"{s / total:.1%}"] for part, s in report["profile"].items()]
        columns = ("part", "ms/step and device", "share")
        print_table(f"profile of {baseline}: time of its operations", columns, parts, stream)


def _speed_cells(row: Mapping[str, Any], baseline_batch: int) -> list[str]:
    same_batch = row["batch_size"] == baseline_batch
    return [
        row["row"],
        format_interval(row["seconds_per_step"], 1e3),
        format_interval(row["ratio"]),
        format_number(row["work_ratio"]),
        format_interval(row["seconds_per_example"], 1e6),
        "" if same_batch else format_interval(row["ratio_per_example"]),
        f"{row['examples_per_second']:,.0f}",
    ]


def _rate_cells(row: Mapping[str, Any]) -> list[str]:
    return [
        row["row"],
        format_number(1e3 * row["lower_bound_seconds"]),
        format_interval(row["times_lower_bound"]),
        *(f"{row['share_of_matrix_rate'][name]:.1%}" for name in ("float32", "bfloat16")),
        f"{row['share_of_bandwidth']:.1%}",
        format_number(1e3 * row["steps_per_dispatch"] * row["seconds_per_step"]["median"]),
        "" if row["dispatch_seconds"] is None else format_number(1e3 * row["dispatch_seconds"]),
    ]


def _compiled_cells(row: Mapping[str, Any]) -> list[str]:
    cold, warm = ("  ".join(f"{v:.2f}" for v in row["compile"][name].values()) for name in ("cold", "warm"))
    number = lambda value, unit: format_number(None if value is None else value / unit)  # noqa: E731
    memory = row["memory"]["total"] if row["memory"] else None
    collectives = row["collectives"]
    return [
        row["row"], cold, warm, number(row["flops"], 1e6), number(row["xla_flops"], 1e6),
        number(row["traffic_bytes"], 1e6), number(row["xla_bytes"], 1e6), number(memory, MIB),
        str(sum(c["count"] for c in collectives)),
        number(sum(c["bytes"] for c in collectives), 1e3) if collectives else "",
    ]  # fmt: skip


def print_comparison(
    rows: Sequence[Mapping[str, Any]], differences: Mapping[str, Sequence[Any]], stream: TextIO
) -> None:
    """Print the changes between two reports, A (before) and B (after), and how the reports differ otherwise.

    Args:
      rows: The rows of `compare`.
      differences: The result of `context_differences`.
      stream: The text stream to print to.
    """
    differences = dict(differences)
    missing = differences.pop("rows", ([], []))
    cells = [
        [
            row["row"],
            format_number(1e3 * row["before"]),
            format_number(1e3 * row["after"]),
            format_interval(row["seconds"]),
            format_interval(row["normalized_seconds"]),
            row["verdict"],
        ]
        for row in rows
    ]
    columns = ("row", "before, ms/step", "after, ms/step", "after / before", "normalized by machine speed", "verdict")
    print_table("step time of B (after) relative to A (before), 99 % intervals; below 1 is faster", columns, cells,
                stream)  # fmt: skip
    for name, (before, after) in differences.items():
        print(f"differs: {name}: {before} before, {after} after", file=stream)
    for names, report in zip(missing, "AB", strict=True):
        if names:
            print(f"only in {report}: {', '.join(names)}", file=stream)


def print_plan(plan: Mapping[str, Any], stream: TextIO) -> None:
    """Print what a training costs.

    Args:
      plan: The result of `plan_training`.
      stream: The text stream to print to.
    """
    memory, limit, largest = plan["memory_per_device"], plan["memory_limit"], plan["largest_batch"]
    all_examples = " (all examples)" if largest == plan["num_examples"] else ""
    parts = ", ".join(f"{name} {size / MIB:,.1f} MiB" for name, size in memory.items())
    rows = [
        ("compiled for", plan["compiled_for"]),
        ("parameters", f"{plan['parameters']:,}"),
        ("work per step", f"{plan['flops_per_step'] / 1e6:,.1f} MFLOP in matrix products"),
        ("lower bound on traffic", f"{plan['bytes_per_step_and_device'] / 1e6:,.1f} MB per step and device"),
        ("memory per device", parts or "unknown"),
        ("during a checkpoint", f"{plan['checkpoint_copy_bytes'] / MIB:,.1f} MiB more, for a copy of the state"),
        ("memory limit", "unknown" if limit is None else f"{limit / GIB:,.2f} GiB"),
        ("largest batch", "unknown" if limit is None else f"{largest:,}{all_examples}" if largest else "none fits"),
        ("lower bound on step time", f"{1e3 * plan['seconds_per_step_lower_bound']:.3f} ms, at "
         f"{plan['matrix_rate'] / 1e9:,.0f} GFLOP/s and {plan['bandwidth'] / 1e9:,.0f} GB/s as measured here"),
    ]  # fmt: skip
    print_table(f"batch {plan['batch_size']} on {plan['devices']} device(s)", ("", ""), rows, stream)
