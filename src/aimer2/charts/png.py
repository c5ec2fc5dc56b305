"""A chart as PNG, drawn by matplotlib (extra ``figures``): for documents that take no SVG. The one home of matplotlib."""

from __future__ import annotations

from io import BytesIO
from itertools import cycle

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from aimer2.charts.chart import Axis, Chart, Places, Series
from aimer2.charts.scale import scale
from aimer2.charts.svg import COLOURS


def png(chart: Chart, *, width: int = 720, pixels_per_point: float = 2.0) -> bytes:
    """The chart as the bytes of a PNG file, ``width × pixels_per_point`` pixels wide."""
    is_forest = chart.y.scale == "names"
    below = len(chart.counts.rows) + 1 if chart.counts else 0
    tall = (0.34 * len(chart.y.names) + 1.3 if is_forest else 4.4) + 0.2 * below
    figure = Figure(figsize=(width / 96, tall), dpi=96 * pixels_per_point, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(chart.title, loc="left", fontweight="bold", fontsize=11)
    for series, colour in zip(chart.series, cycle(COLOURS), strict=False):
        _draw(axes, series, colour)
    for rule in chart.rules:
        (axes.axvline if rule.axis == "x" else axes.axhline)(rule.at, color="#222222", linestyle="--", linewidth=1)
    _arrange(axes, chart)
    if len(chart.series) > 1 and any(series.name for series in chart.series):
        axes.legend(frameon=False)
    for place, text in enumerate(chart.beside):
        axes.text(1.02, place, text, transform=axes.get_yaxis_transform(), va="center", fontsize=9)
    _count(axes, chart)
    written = BytesIO()
    figure.savefig(written, format="png", metadata={"Title": chart.title, "Software": None})
    return written.getvalue()


def _numbers(places: Places) -> list[float]:
    return [float("nan") if one is None else one for one in places]


def _draw(axes: Axes, series: Series, colour: str) -> None:
    x, y = _numbers(series.x), _numbers(series.y)
    low, high = _numbers(series.low), _numbers(series.high)
    match series.mark:
        case "line" | "step":
            axes.plot(x, y, color=colour, label=series.name, drawstyle="steps-post" if series.mark == "step" else "default")
            if low:
                axes.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0, step="post" if series.mark == "step" else None)
        case "bars":
            lefts = x if series.to else [one - 0.4 for one in x]
            wide = [end - start for start, end in zip(x, _numbers(series.to), strict=True)] if series.to else [0.8] * len(x)
            axes.bar(lefts, y, wide, align="edge", color=colour, alpha=0.75, label=series.name)
        case "points" | "intervals":
            axes.plot(x, y, "o", color=colour, label=series.name, markersize=5)
            for at, up, start, end in zip(x, y, low, high, strict=bool(low)):
                along = ([start, end], [up, up]) if series.mark == "intervals" else ([at, at], [start, end])
                axes.plot(*along, color=colour)


def _arrange(axes: Axes, chart: Chart) -> None:
    for axis, which in ((chart.x, "x"), (chart.y, "y")):
        _name(axes, axis, which)
    axes.spines[["top", "right"]].set_visible(False)
    if chart.y.scale == "linear":
        axes.grid(axis="y", color="#dddddd", linewidth=0.8)
        axes.set_axisbelow(True)
    across, up = scale(chart, "x", 0.0, 1.0), scale(chart, "y", 0.0, 1.0)
    axes.set_xlim(across.low, across.high)
    axes.set_ylim(up.low, up.high)
    axes.set_xticks([tick for tick, _ in across.ticks], [text for _, text in across.ticks], minor=False)
    axes.set_yticks([tick for tick, _ in up.ticks], [text for _, text in up.ticks], minor=False)
    axes.minorticks_off()


def _name(axes: Axes, axis: Axis, which: str) -> None:
    if axis.scale == "log":
        (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    (axes.set_xlabel if which == "x" else axes.set_ylabel)(axis.title)


def _count(axes: Axes, chart: Chart) -> None:
    if chart.counts is None:
        return
    lines = [chart.counts.title, *(row.name for row in chart.counts.rows)]
    for number, text in enumerate(lines):
        down = -46 - 14 * number
        axes.annotate(text, (0, 0), (-24, down), xycoords="axes fraction", textcoords="offset points", ha="right", fontsize=9)
        for at, value in zip(chart.counts.at, chart.counts.rows[number - 1].values if number else (), strict=bool(number)):
            place = (at, 0)
            axes.annotate(
                "" if value is None else str(value),
                place,
                (0, down),
                xycoords=axes.get_xaxis_transform(),
                textcoords="offset points",
                ha="center",
                fontsize=9,
            )
