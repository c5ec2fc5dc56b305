"""A chart as SVG: text alone, no library, no script; every word of the chart is escaped, and nothing is loaded from anywhere.

A file or a notebook has its style inside. A page whose content policy forbids that has `STYLE` in a style sheet of its own: colours are custom
properties (``--picture-1`` to ``--picture-8``, ``--picture-ink``, ``--picture-faint``, ``--picture-paper``), so a dark page sets its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import final

from aimer2.charts.chart import Chart, Counts, Series
from aimer2.charts.scale import Scale, scale

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a6d00", "#4b9cc8", "#5b5b9f", "#444444")
"""Told apart also by those who see few colours (M. Okabe, K. Ito 2008), dark enough on white."""

_DASHES = ("", "7 3", "2 3", "9 3 2 3")

STYLE = "".join(
    (
        ".picture{font:13px system-ui,sans-serif;background:var(--picture-paper,#fff)}",
        ".picture text{fill:var(--picture-ink,#222)}.picture .title{font-weight:600;font-size:15px}.picture .end{text-anchor:end}",
        ".picture .middle{text-anchor:middle}.picture .axis{stroke:var(--picture-ink,#222);fill:none}",
        ".picture .grid{stroke:var(--picture-faint,#ddd);fill:none}.picture .rule{stroke:var(--picture-ink,#222);stroke-dasharray:4 3}",
        ".picture .line{fill:none;stroke-width:2}.picture .band{opacity:.18}.picture .bar{opacity:.75}",
        *(
            f".picture .c{place}{{stroke:var(--picture-{place},{colour});fill:var(--picture-{place},{colour});"
            f"{f'stroke-dasharray:{dash}' if (dash := _DASHES[(place - 1) // 2 % len(_DASHES)]) else ''}}}"
            for place, colour in enumerate(COLOURS, 1)
        ),
        ".picture .line{fill:none}.picture .band{stroke:none}.picture .bar,.picture .point{stroke-dasharray:none}",
    )
)

_LETTER = 7.0
"""Pixels that a letter takes on average, with room."""
_LINE = 18.0


@final
@dataclass(frozen=True, slots=True)
class _Frame:
    """The rectangle in which marks are drawn, and what surrounds it."""

    left: float
    top: float
    right: float
    bottom: float
    height: float


def svg(chart: Chart, *, width: int = 720, styled: bool = True) -> str:
    """The chart as one ``<svg>`` element. ``styled``: with its style inside."""
    frame = _frame(chart, width)
    x, y = scale(chart, "x", frame.left, frame.right), scale(chart, "y", frame.bottom, frame.top)
    size = f'viewBox="0 0 {width} {frame.height:g}" width="{width}" height="{frame.height:g}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="picture" {size} role="img">',
        f"<title>{escape(chart.title)}</title><desc>{escape(chart.description or chart.title)}</desc>",
        f"<style>{STYLE}</style>" if styled else "",
        _text(chart.title, frame.left if chart.y.scale != "names" else 8, 20, "title"),
        *_legend(chart, frame),
        *_axes(chart, frame, x, y),
        *(part for place, series in enumerate(chart.series) for part in _marks(series, place % len(COLOURS) + 1, x, y)),
        *_beside(chart, frame, y),
        *_counts(chart.counts, frame, x),
        "</svg>",
    ]
    return "".join(parts)


def _frame(chart: Chart, width: int) -> _Frame:
    labels = chart.y.names if chart.y.scale == "names" else ("00000",)
    below = [chart.counts.title, *(row.name for row in chart.counts.rows)] if chart.counts else []
    letters = max(*map(len, labels), *(len(name) + 3 for name in below), 3)
    left = min(18 + (20 if chart.y.title else 0) + _LETTER * letters, width * 0.45)
    right = width - 16 - _LETTER * max(map(len, chart.beside), default=0)
    top = 34 + (_LINE * _legend_rows(chart, right - left))
    tall = 24.0 * len(chart.y.names) + 12 if chart.y.scale == "names" else 280.0
    foot = 44 + (_LINE * (len(chart.counts.rows) + 1) + 6 if chart.counts else 0)
    return _Frame(left, top, right, top + tall, top + tall + foot)


def _named(chart: Chart) -> list[tuple[int, str]]:
    """What a legend tells apart: nothing where there is one series."""
    named = [(place % len(COLOURS) + 1, series.name) for place, series in enumerate(chart.series) if series.name]
    return named if len(chart.series) > 1 else []


def _legend_rows(chart: Chart, room: float) -> int:
    return max((row for _, _, row, _ in _placed(chart, room)), default=-1) + 1


def _placed(chart: Chart, room: float) -> Iterator[tuple[int, str, int, float]]:
    """Of each name in the legend its colour, text, row and place from the left."""
    row, at = 0, 0.0
    for colour, name in _named(chart):
        wide = 34 + _LETTER * len(name)
        if at and at + wide > room:
            row, at = row + 1, 0.0
        yield colour, name, row, at
        at += wide


def _legend(chart: Chart, frame: _Frame) -> Iterator[str]:
    for colour, name, row, at in _placed(chart, frame.right - frame.left):
        x, y = frame.left + at, 36 + _LINE * row
        yield f'<path class="line c{colour}" d="M{x:.1f} {y:.1f}h20"/>' + _text(name, x + 25, y + 4)


def _axes(chart: Chart, frame: _Frame, x: Scale, y: Scale) -> Iterator[str]:
    for value, label in y.ticks:
        at = y.at(value) or 0.0
        if chart.y.scale != "names":
            yield f'<path class="grid" d="M{frame.left:.1f} {at:.1f}H{frame.right:.1f}"/>'
        yield _text(_cut(label, frame.left - 10), frame.left - 7, at + 4, "end")
    for value, label in x.ticks:
        at = x.at(value) or 0.0
        yield f'<path class="axis" d="M{at:.1f} {frame.bottom:.1f}v5"/>' + _text(label, at, frame.bottom + 19, "middle")
    yield f'<path class="axis" d="M{frame.left:.1f} {frame.top:.1f}V{frame.bottom:.1f}H{frame.right:.1f}"/>'
    for rule in chart.rules:
        if rule.axis == "x":
            yield f'<path class="rule" d="M{x.inside(rule.at) or 0:.1f} {frame.top:.1f}V{frame.bottom:.1f}"/>'
        else:
            yield f'<path class="rule" d="M{frame.left:.1f} {y.inside(rule.at) or 0:.1f}H{frame.right:.1f}"/>'
    if chart.x.title:
        yield _text(chart.x.title, (frame.left + frame.right) / 2, frame.bottom + 37, "middle")
    if chart.y.title:
        middle = (frame.top + frame.bottom) / 2
        yield f'<text class="middle" transform="translate(14 {middle:.1f}) rotate(-90)">{escape(chart.y.title)}</text>'


def _marks(series: Series, colour: int, x: Scale, y: Scale) -> Iterator[str]:
    match series.mark:
        case "line" | "step":
            across = [x.at(one) for one in series.x]
            is_step = series.mark == "step"
            if series.low:
                yield from _band(across, *([y.at(one) for one in part] for part in (series.low, series.high)), is_step=is_step, colour=colour)
            for run in _runs(across, [y.at(one) for one in series.y]):
                yield f'<path class="line c{colour}" d="{_path(run, is_step=is_step)}"/>'
        case "bars":
            yield from _bars(series, colour, x, y)
        case "points" | "intervals":
            yield from _points(series, colour, x, y)


def _band(across: Sequence[float | None], low: Sequence[float | None], high: Sequence[float | None], *, is_step: bool, colour: int) -> Iterator[str]:
    known = [float("nan") if one is None or other is None else other for one, other in zip(low, high, strict=True)]
    lows = {place: one for place, one in zip(across, low, strict=True) if place is not None and one is not None}
    for run in _runs(across, [None if math.isnan(one) else one for one in known]):
        under = [(place, lows[place]) for place, _ in run]
        there, back = _corners(run, is_step=is_step), _corners(under, is_step=is_step)[::-1]
        yield f'<path class="band c{colour}" d="M' + "L".join(f"{a:.1f} {b:.1f}" for a, b in (*there, *back)) + 'Z"/>'


def _runs(across: Sequence[float | None], up: Sequence[float | None]) -> Iterator[list[tuple[float, float]]]:
    """Parts without a gap."""
    run: list[tuple[float, float]] = []
    for one, other in (*zip(across, up, strict=True), (None, None)):
        if one is not None and other is not None:
            run.append((one, other))
        elif run:
            yield run
            run = []


def _corners(run: Sequence[tuple[float, float]], *, is_step: bool) -> list[tuple[float, float]]:
    if not is_step:
        return list(run)
    return [run[0], *(corner for (_, before), (at, after) in pairwise(run) for corner in ((at, before), (at, after)))]


def _path(run: Sequence[tuple[float, float]], *, is_step: bool) -> str:
    return "M" + "L".join(f"{at:.1f} {up:.1f}" for at, up in _corners(run, is_step=is_step))


def _bars(series: Series, colour: int, x: Scale, y: Scale) -> Iterator[str]:
    ground = y.inside(0.0) or 0.0
    for place, (first, height) in enumerate(zip(series.x, series.y, strict=True)):
        if first is None or height is None:
            continue
        low, high = (first, series.to[place]) if series.to else (first - 0.4, first + 0.4)
        left, right, top = x.at(low), x.at(high), y.at(height)
        if left is not None and right is not None and top is not None:
            upper, lower = sorted((top, ground))
            yield f'<path class="bar c{colour}" d="M{left:.1f} {lower:.1f}V{upper:.1f}H{right:.1f}V{lower:.1f}Z"/>'


def _points(series: Series, colour: int, x: Scale, y: Scale) -> Iterator[str]:
    is_across = series.mark == "intervals"
    for place, (at, up) in enumerate(zip((x.at(one) for one in series.x), (y.at(one) for one in series.y), strict=True)):
        if at is None or up is None:
            continue
        if series.low:
            ends = [(x if is_across else y).inside(part[place]) for part in (series.low, series.high)]
            if ends[0] is not None and ends[1] is not None:
                whisker = f"M{ends[0]:.1f} {up:.1f}H{ends[1]:.1f}" if is_across else f"M{at:.1f} {ends[0]:.1f}V{ends[1]:.1f}"
                yield f'<path class="line c{colour}" d="{whisker}"/>'
        yield f'<circle class="point c{colour}" cx="{at:.1f}" cy="{up:.1f}" r="4"/>'


def _beside(chart: Chart, frame: _Frame, y: Scale) -> Iterator[str]:
    for place, text in enumerate(chart.beside):
        yield _text(text, frame.right + 10, (y.at(float(place)) or 0.0) + 4)


def _counts(counts: Counts | None, frame: _Frame, x: Scale) -> Iterator[str]:
    if counts is None:
        return
    top = frame.bottom + 58
    yield _text(counts.title, frame.left - 26, top, "end")
    for number, row in enumerate(counts.rows, 1):
        yield _text(_cut(row.name, frame.left - 28), frame.left - 26, top + _LINE * number, "end")
        for at, value in zip(counts.at, row.values, strict=True):
            yield _text("" if value is None else str(value), x.inside(at) or 0.0, top + _LINE * number, "middle")


def _cut(text: str, room: float) -> str:
    most = max(int(room / _LETTER), 4)
    return text if len(text) <= most else text[: most - 1] + "…"


def _text(text: str, x: float, y: float, kind: str = "") -> str:
    named = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{named}>{escape(text)}</text>'
