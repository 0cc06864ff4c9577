"""Curves as SVG, which takes its colours from the style of the page, so that it suits a dark and a light one."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from vae_jax.report.markup import element, escape, number

WIDTH, HEIGHT = 460, 250  # of a chart, in units of its view box
LEFT, RIGHT, TOP, BOTTOM = 54, 12, 10, 30  # its margins
MAX_POINTS = 400  # of a curve; more are thinned out
NUM_COLORS = 6


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return round numbers from low to high, about `count` of them: multiples of 1, 2 or 5 times a power of ten."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
    return [i * step for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Return the logarithms of powers of ten, or of round numbers if there are fewer than two powers."""
    powers = [float(e) for e in range(math.ceil(low), math.floor(high) + 1)]
    return powers if len(powers) > 1 else [math.log10(value) for value in ticks(10**low, 10**high, 4)]


def thin_out(points: np.ndarray, count: int = MAX_POINTS) -> np.ndarray:
    """Return at most `count` of the points [N, 2], evenly spaced, the first and the last among them."""
    if len(points) <= count:
        return points
    return points[np.linspace(0, len(points) - 1, count).round().astype(int)]


def line_chart(
    series: Mapping[str, np.ndarray],
    *,
    title: str,
    unit: str,
    limits: tuple[float, float] | None = None,
    log: bool = False,
) -> str:
    """Return a figure of curves against the step, with its title and a legend.

    Args:
      series: {label: points [N, 2]}, the step and the value; at least one point.
      title: the title.
      unit: of the values.
      limits: of the y axis; None for those of the values.
      log: whether the y axis is logarithmic; all values are greater than 0.

    Returns:
      HTML. The curve `i` has the class `line-i`.
    """
    curves = {label: thin_out(np.asarray(points, float)) for label, points in series.items()}
    if log:
        curves = {label: np.column_stack([p[:, 0], np.log10(p[:, 1])]) for label, p in curves.items()}
    everything = np.concatenate(list(curves.values()))
    low, high = limits or (everything[:, 1].min(), everything[:, 1].max())
    if not high > low:
        low, high = low - (0.05 * abs(low) or 1), high + (0.05 * abs(high) or 1)
    first, last = everything[:, 0].min(), everything[:, 0].max()
    x = lambda step: LEFT + (step - first) / ((last - first) or 1) * (WIDTH - LEFT - RIGHT)  # noqa: E731
    y = lambda value: HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM)  # noqa: E731
    values = _log_ticks(low, high) if log else ticks(low, high)
    shown = [f"{10**value:,.4g}" for value in values] if log else _tick_texts(values)
    parts = [_horizontal(y(value), text) for value, text in zip(values, shown, strict=True)]
    parts += [_below(x(step), f"{step:,.0f}") for step in ticks(first, last)]
    for index, points in enumerate(curves.values()):
        inside = np.column_stack([x(points[:, 0]), np.clip(y(points[:, 1]), TOP, HEIGHT - BOTTOM)])
        parts.append(_curve(inside, index))
    picture = element(
        "svg", *parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=f"{title} against the step"
    )
    caption = element("figcaption", element("b", escape(title)), element("span", escape(unit), class_="unit"))
    return element("figure", caption, picture, _legend(series), class_="chart")


def _tick_texts(values: Sequence[float]) -> list[str]:
    """Return the texts of ticks, with as many digits as the smallest distance of two of them needs."""
    step = min(np.diff(values), default=0.0)
    if not 1e-6 <= step < 1e6:
        return [f"{value:.3g}".replace("-", "\N{MINUS SIGN}") for value in values]
    return [number(float(value), max(0, -math.floor(math.log10(step) + 1e-9))) for value in values]


def _horizontal(height: float, text: str) -> str:
    line = element("line", x1=LEFT, x2=WIDTH - RIGHT, y1=f"{height:.1f}", y2=f"{height:.1f}", class_="grid")
    return line + element("text", text, x=LEFT - 7, y=f"{height + 4:.1f}", text_anchor="end")


def _below(position: float, text: str) -> str:
    anchor = "end" if position > WIDTH - RIGHT - 12 else "middle"
    return element("text", text, x=f"{position:.1f}", y=HEIGHT - 10, text_anchor=anchor)


def _curve(points: np.ndarray, index: int) -> str:
    """Return a curve, with a dot at each point if there are few."""
    color = f"line-{index % NUM_COLORS}"
    path = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
    dots = [element("circle", cx=f"{a:.1f}", cy=f"{b:.1f}", r=2.4, class_=f"dot {color}") for a, b in points]
    return element("polyline", points=path, class_=f"curve {color}") + "".join(dots if len(points) < 30 else ())


def _legend(series: Mapping[str, np.ndarray]) -> str:
    """Return the label of each curve with its last value."""
    items = []
    for index, (label, points) in enumerate(series.items()):
        last = f"{points[-1, 1]:.4g}".replace("-", "\N{MINUS SIGN}")
        swatch = element("i", class_=f"swatch line-{index % NUM_COLORS}")
        items.append(element("span", swatch, escape(label), element("b", last), class_="item"))
    return element("div", *items, class_="legend")
