"""Benchmarks and plans for people: tables on a terminal, and a figure of the rows and the roofline."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from vae_jax.runs import write_file

GIB, MIB = 2**30, 2**20


def span(found: Mapping[str, float | None], digits: int = 3) -> str:
    """A median with its interval: `1.02 (0.99 to 1.05)`, alone where there is no interval."""
    middle = f"{found['median']:.{digits}f}"
    return middle if found["low"] is None else f"{middle} ({found['low']:.{digits}f} to {found['high']:.{digits}f})"


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
    """The rows of a benchmark: how fast, against the baseline and the floor; then what the compiler made of them."""
    machine = report["machine"]
    rates = machine["rates"]
    title = (
        f"{machine['device']}, {machine['cores']} cores; matrix products {rates['float32'] / 1e9:.0f} (float32) and "
        f"{rates['bfloat16'] / 1e9:.0f} (bfloat16) GFLOP/s, bandwidth {rates['bandwidth'] / 1e9:.0f} GB/s; "
        f"medians of {report['rounds']} rounds"
    )
    speed = [
        [
            row["row"], f"{1e3 * row['seconds_per_step']['median']:.3f}", span(row["ratio"]),
            f"{row['ratio_per_image']['median']:.3f}", f"{row['images_per_second']:,.0f}", span(row["times_floor"], 2),
            f"{row['share_of_matrix_rate']['float32']:.0%}", f"{row['share_of_bandwidth']:.0%}",
            "" if row["dispatch_seconds"] is None else f"{1e6 * row['dispatch_seconds']:.0f}",
        ]
        for row in report["rows"]
    ]  # fmt: skip
    columns = ("row", "ms a step", f"of {report['baseline']}", "per image", "images/s", "of the floor", "of f32 rate",
               "of bandwidth", "dispatch, µs")  # fmt: skip
    print_table(title, columns, speed, stream)
    compiled = [_compiled_cells(row) for row in report["rows"] if row["compile"]]
    columns = ("row", "trace, lower, compile s", "warm", "MFLOP by hand", "by XLA", "MB by hand", "by XLA", "MiB held",
               "collectives", "MB")  # fmt: skip
    print_table("what the compiler made of it, a step", columns, compiled, stream)


def _compiled_cells(row: Mapping[str, Any]) -> list[str]:
    cold, warm = ("  ".join(f"{v:.2f}" for v in row["compile"][name].values()) for name in ("cold", "warm"))
    number = lambda value, unit: "" if value is None else f"{value / unit:,.1f}"  # noqa: E731
    held = row["memory"]["total"] if row["memory"] else None
    talk = row["collectives"]
    return [
        row["row"], cold, warm, number(row["flops"], 1e6), number(row["xla_flops"], 1e6),
        number(row["traffic_bytes"], 1e6), number(row["xla_bytes"], 1e6), number(held, MIB),
        str(sum(t["count"] for t in talk)), number(sum(t["bytes"] for t in talk), 1e6),
    ]  # fmt: skip


def print_comparison(found: Sequence[Mapping[str, Any]], stream: TextIO) -> None:
    """What changed between two reports, beyond noise."""
    rows = [[c["row"], span(c["seconds"]), span(c["paced"]), c["verdict"]] for c in found]
    print_table("after / before, 99 % intervals", ("row", "seconds", "in matrix products", "verdict"), rows, stream)


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
    axes.axvline(1, color="0.4", linewidth=0.8)
    if max(row["ratio_per_image"]["median"] for row in rows) > 10:
        axes.set_xscale("log")
    axes.set_yticks(range(len(rows)), [row["row"] for row in rows])
    axes.invert_yaxis()
    axes.set(title="Time for an image", xlabel=f"of {baseline}; lines: 95 % intervals")


def _draw_roofline(axes: Any, rows: Sequence[Mapping[str, Any]], rates: Mapping[str, float]) -> None:
    """Work per byte of unavoidable traffic, and work per second, under what the machine was measured to do."""
    intensity = np.array([row["flops"] / row["traffic_bytes"] for row in rows])
    reached = np.array([row["flops"] / row["seconds_per_step"]["median"] for row in rows])
    ridges = [rates[name] / rates["bandwidth"] for name in ("float32", "bfloat16")]
    x = np.geomspace(min(*intensity, *ridges) / 4, max(*intensity, *ridges) * 4, 200)
    for name, color in (("float32", "C0"), ("bfloat16", "C2")):
        axes.loglog(x, np.minimum(rates[name], rates["bandwidth"] * x) / 1e9, color=color, label=f"roof, {name}")
    axes.loglog(intensity, reached / 1e9, "o", color="C3", markersize=4)
    for row, place, height in zip(rows, intensity, reached, strict=True):
        axes.annotate(row["row"], (place, height / 1e9), fontsize=6, xytext=(4, 0), textcoords="offset points")
    axes.set(title="Roofline", xlabel="FLOP for each byte of least traffic", ylabel="GFLOP/s")
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
