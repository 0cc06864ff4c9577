"""Benchmarks and plans for people: tables on a terminal, and a figure of the rows and the roofline."""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from vae_jax.storage import write_file

GIB, MIB = 2**30, 2**20


def short(value: float | None) -> str:
    """A number of about four digits that count, without an exponent: 14,196, 13.35, 0.985; nothing for None."""
    if value is None:
        return ""
    decimals = 3 if not value else min(3, max(0, 3 - math.floor(math.log10(abs(value)))))
    return f"{value:,.{decimals}f}"


def span(found: Mapping[str, float | None], scale: float = 1) -> str:
    """A median with its interval, times `scale`: `1.020 (0.990 to 1.050)`, alone where there is no interval."""
    middle, low, high = (
        None if found[name] is None else short(scale * found[name]) for name in ("median", "low", "high")
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
            row["row"], span(row["seconds_per_step"], 1e3), span(row["ratio"]), short(row["work_ratio"]),
            span(row["seconds_per_image"], 1e6), span(row["ratio_per_image"]) if row["batch_size"] != batch else "",
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
            row["row"], short(1e3 * row["floor_seconds"]), span(row["times_floor"]),
            *(f"{row['share_of_matrix_rate'][name]:.1%}" for name in ("float32", "bfloat16")),
            f"{row['share_of_bandwidth']:.1%}",
            short(1e3 * row["steps_per_dispatch"] * row["seconds_per_step"]["median"]),
            "" if row["dispatch_seconds"] is None else short(1e3 * row["dispatch_seconds"]),
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
        parts = [[part, short(1e3 * s), f"{s / all_parts:.1%}"] for part, s in report["profile"].items()]
        print_table(f"the operations of {baseline}, traced", ("part", "ms a step and device", "share"), parts, stream)


def _compiled_cells(row: Mapping[str, Any]) -> list[str]:
    cold, warm = ("  ".join(f"{v:.2f}" for v in row["compile"][name].values()) for name in ("cold", "warm"))
    number = lambda value, unit: short(None if value is None else value / unit)  # noqa: E731
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
            short(1e3 * c["before"]),
            short(1e3 * c["after"]),
            span(c["seconds"]),
            span(c["paced"]),
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


def draw(path: Path, report: Mapping[str, Any]) -> None:
    """A PNG of a benchmark: each row's time per image against the baseline's, and the rows under the roofline."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = report["rows"]
    figure = Figure(figsize=(12, max(3.6, 1.2 + 0.28 * len(rows))), dpi=110, layout="constrained")
    _draw_ratios(figure.add_subplot(1, 2, 1), rows, report["baseline"])
    _draw_roofline(figure.add_subplot(1, 2, 2), rows, report["machine"]["rates"])
    png = io.BytesIO()
    FigureCanvasAgg(figure).print_png(png)
    write_file(path, lambda file: file.write(png.getvalue()))


def _draw_ratios(axes: Any, rows: Sequence[Mapping[str, Any]], baseline: str) -> None:
    for place, row in enumerate(rows):
        found = row["ratio_per_image"]
        axes.barh(place, found["median"], color="C1" if row["row"] == baseline else "C0", height=0.7)
        if found["low"] is not None:
            axes.plot([found["low"], found["high"]], [place, place], color="black", linewidth=1.5)
        expected = row["work_ratio"] * rows[0]["batch_size"] / row["batch_size"]
        axes.plot(expected, place, "D", color="white", markeredgecolor="black", markersize=4)
    axes.axvline(1, color="0.4", linewidth=0.8)
    if max(row["ratio_per_image"]["median"] for row in rows) > 10:
        axes.set_xscale("log")
    axes.set_yticks(range(len(rows)), [row["row"] for row in rows])
    axes.invert_yaxis()
    axes.set(
        title="Time for an image", xlabel=f"of {baseline}; lines: 95 % intervals; diamonds: by its matrix products"
    )


def _draw_roofline(axes: Any, rows: Sequence[Mapping[str, Any]], rates: Mapping[str, float]) -> None:
    """Work per byte of unavoidable traffic, and work per second, under what the machine was measured to do."""
    flops = np.array([row["flops"] / row["devices_that_add_up"] for row in rows])  # of one device, as its roof is
    intensity = flops / [row["traffic_bytes"] for row in rows]
    reached = flops / [row["seconds_per_step"]["median"] for row in rows]
    ridges = [rates[name] / rates["bandwidth"] for name in ("float32", "bfloat16")]
    x = np.geomspace(min(*intensity, *ridges) / 4, max(*intensity, *ridges) * 4, 200)
    for name, color in (("float32", "C0"), ("bfloat16", "C2")):
        axes.loglog(x, np.minimum(rates[name], rates["bandwidth"] * x) / 1e9, color=color, label=f"roof, {name}")
    axes.loglog(intensity, reached / 1e9, "o", color="C3", markersize=4)
    _name_points(axes, [row["row"] for row in rows], intensity, reached / 1e9)
    axes.set(title="Roofline", xlabel="FLOP for each byte of least traffic", ylabel="GFLOP/s of a device")
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)


def _name_points(axes: Any, names: Sequence[str], x: np.ndarray, y: np.ndarray) -> None:
    """The names in a column beside the axes, in the order of height, each with a line to its point."""
    low, high = np.log(axes.get_ylim())
    line = 9 / 72 / (axes.figure.get_figheight() - 1)  # 9 points, in heights of the axes
    places = apart((np.log(y) - low) / (high - low), least=min(line, 1 / len(names)))
    for name, across, height, place in zip(names, x, y, places, strict=True):
        axes.annotate(
            name, (across, height), xytext=(1.03, place), textcoords="axes fraction", va="center", fontsize=7,
            arrowprops={"arrowstyle": "-", "color": "0.6", "linewidth": 0.5, "shrinkA": 0, "shrinkB": 2},
        )  # fmt: skip


def apart(places: np.ndarray, *, least: float) -> np.ndarray:
    """The places in [0, 1] that are nearest to `places`, by squares, among those in their order and `least` apart."""
    from sklearn.isotonic import isotonic_regression

    order = np.argsort(places, kind="stable")
    steps = least * np.arange(len(places))  # without these, to be apart is to rise
    found = np.empty(len(places))
    found[order] = steps + isotonic_regression(np.asarray(places, float)[order] - steps, y_min=0, y_max=1 - steps[-1])
    return found
