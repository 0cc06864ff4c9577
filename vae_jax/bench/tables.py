"""Benchmarks and plans for people: tables on a terminal, and a figure of the rows and the roofline."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

GIB, MIB = 2**30, 2**20


def format_number(value: float | None) -> str:
    """A number of about four digits that count, without an exponent: 14,196, 13.35, 0.985; nothing for None."""
    if value is None:
        return ""
    decimals = 3 if not value else min(3, max(0, 3 - math.floor(math.log10(abs(value)))))
    return f"{value:,.{decimals}f}"


def format_interval(found: Mapping[str, float | None], scale: float = 1) -> str:
    """A median with its interval, times `scale`: `1.020 (0.990 to 1.050)`, alone where there is no interval."""
    middle, low, high = (
        None if found[name] is None else format_number(scale * found[name]) for name in ("median", "low", "high")
    )
    return middle if low is None else f"{middle} ({low} to {high})"


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], stream: TextIO) -> None:
    """Prints a table, the first column to the left and the others to the right; as wide as it needs off a terminal."""
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
    """The rows of a benchmark: how fast, against the baseline; then against the machine; then what was compiled."""
    machine, rows, baseline = report["machine"], report["rows"], report["baseline"]
    rates, peak = machine["rates"], machine["peak_memory"]
    title = f"{machine['device']}, {machine['cores']} core(s); medians of {report['rounds']} rounds, 95 % intervals"
    batch = rows[0]["batch_size"]
    speed = [
        [
            row["row"], format_interval(row["seconds_per_step"], 1e3), format_interval(row["ratio"]), format_number(row["work_ratio"]),
            format_interval(row["seconds_per_image"], 1e6), format_interval(row["ratio_per_image"]) if row["batch_size"] != batch else "",
            f"{row['images_per_second']:,.0f}",
        ]
        for row in rows
    ]  # fmt: skip
    columns = ("row", "ms a step", f"of {baseline}", "its work", "µs an image", f"of {baseline}", "images/s")
    print_table(title, columns, speed, stream)
    title = (
        f"against matrix products at {rates['float32'] / 1e9:.0f} (float32) and {rates['bfloat16'] / 1e9:.0f} "
        f"(bfloat16) GFLOP/s and a bandwidth of {rates['bandwidth'] / 1e9:.0f} GB/s; peak memory of all rows: "
        + ", ".join(f"{name} {size / MIB:,.0f} MiB" for name, size in peak.items())
    )
    shares = [
        [
            row["row"], format_number(1e3 * row["floor_seconds"]), format_interval(row["times_floor"]),
            *(f"{row['share_of_matrix_rate'][name]:.1%}" for name in ("float32", "bfloat16")),
            f"{row['share_of_bandwidth']:.1%}",
            format_number(1e3 * row["steps_per_dispatch"] * row["seconds_per_step"]["median"]),
            "" if row["dispatch_seconds"] is None else format_number(1e3 * row["dispatch_seconds"]),
        ]
        for row in rows
    ]  # fmt: skip
    columns = ("row", "floor, ms", "times the floor", "of f32 rate", "of bf16 rate", "of bandwidth", "ms a dispatch",
               "host, ms")  # fmt: skip
    print_table(title, columns, shares, stream)
    compiled = [_compiled_cells(row) for row in rows if row["compile"]]
    columns = ("row", "trace, lower, compile s", "warm", "MFLOP by hand", "by XLA", "MB by hand", "by XLA", "MiB held",
               "collectives", "kB")  # fmt: skip
    print_table("what the compiler made of it, a step", columns, compiled, stream)
    if report["profile"]:
        all_parts = sum(report["profile"].values())
        parts = [[part, format_number(1e3 * s), f"{s / all_parts:.1%}"] for part, s in report["profile"].items()]
        print_table(f"the operations of {baseline}, traced", ("part", "ms a step and device", "share"), parts, stream)


def _compiled_cells(row: Mapping[str, Any]) -> list[str]:
    cold, warm = ("  ".join(f"{v:.2f}" for v in row["compile"][name].values()) for name in ("cold", "warm"))
    number = lambda value, unit: format_number(None if value is None else value / unit)  # noqa: E731
    held = row["memory"]["total"] if row["memory"] else None
    talk = row["collectives"]
    return [
        row["row"], cold, warm, number(row["flops"], 1e6), number(row["xla_flops"], 1e6),
        number(row["traffic_bytes"], 1e6), number(row["xla_bytes"], 1e6), number(held, MIB),
        str(sum(t["count"] for t in talk)), number(sum(t["bytes"] for t in talk), 1e3) if talk else "",
    ]  # fmt: skip


def print_comparison(found: Sequence[Mapping[str, Any]], differ: Mapping[str, Sequence[Any]], stream: TextIO) -> None:
    """What changed between two reports, beyond noise; and what else differs between them (`benchmarking.not_alike`)."""
    differ = dict(differ)
    lacking = differ.pop("rows", ([], []))
    rows = [
        [
            c["row"],
            format_number(1e3 * c["before"]),
            format_number(1e3 * c["after"]),
            format_interval(c["seconds"]),
            format_interval(c["paced"]),
            c["verdict"],
        ]
        for c in found
    ]
    columns = ("row", "before, ms", "after, ms", "after / before", "at equal pace of the machine", "verdict")
    print_table("a step of B (after) against A (before), 99 % intervals; below 1 is faster", columns, rows, stream)
    for name, (before, after) in differ.items():
        print(f"not alike: {name}: {before} before, {after} after", file=stream)
    for names, report in zip(lacking, "AB", strict=True):
        if names:
            print(f"in {report} alone: {', '.join(names)}", file=stream)


def print_plan(plan: Mapping[str, Any], stream: TextIO) -> None:
    """What a training will cost."""
    held, limit, largest = plan["memory_per_device"], plan["memory_limit"], plan["largest_batch"]
    all_of_them = " (all the images)" if largest == plan["num_examples"] else ""
    rows = [
        ("compiled for", plan["compiled_for"]),
        ("parameters", f"{plan['parameters']:,}"),
        ("work of a step", f"{plan['flops_per_step'] / 1e6:,.1f} MFLOP in matrix products"),
        ("least traffic", f"{plan['bytes_per_step_and_device'] / 1e6:,.1f} MB a step and device"),
        ("memory of a device", ", ".join(f"{name} {size / MIB:,.1f} MiB" for name, size in held.items()) or "not told"),
        ("and while it saves", f"{plan['copy_while_saving_bytes'] / MIB:,.1f} MiB more, a copy of the state"),
        ("it has", "not told" if limit is None else f"{limit / GIB:,.2f} GiB"),
        ("largest batch", "not known" if limit is None else f"{largest:,}{all_of_them}" if largest else "none fits"),
        ("a step takes at least", f"{1e3 * plan['seconds_per_step_at_least']:.3f} ms, at "
         f"{plan['matrix_rate'] / 1e9:,.0f} GFLOP/s and {plan['bandwidth'] / 1e9:,.0f} GB/s as measured here"),
    ]  # fmt: skip
    print_table(f"batch {plan['batch_size']} on {plan['devices']} device(s)", ("", ""), rows, stream)
