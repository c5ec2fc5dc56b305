"""Charts (`aimer2.charts`) on a page: the picture in the page's colours, and the same numbers as a table for whoever cannot see it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from markupsafe import Markup

from aimer2.charts.chart import Chart, Series
from aimer2.charts.svg import svg

Numbers: TypeAlias = Sequence[Sequence[str | float | None]]


def picture(chart: Chart) -> Markup:
    """Its style is `pictures.css`, and its writer escapes every word."""
    return Markup(svg(chart, styled=False))


def numbers(chart: Chart) -> tuple[Sequence[str], Numbers]:
    """Head and rows: of each series its places, values and intervals; series over the same places side by side."""
    if chart.y.scale == "names":
        rows = [
            (_name(chart.y.names, place), *_interval(series, number, series.x)) for series in chart.series for number, place in enumerate(series.y)
        ]
        return ("", chart.x.title, "2.5 %", "97.5 %"), rows
    places = sorted({place for series in chart.series for place in series.x if place is not None})
    head = [chart.x.title, *(series.name or chart.y.title for series in chart.series)]
    found = [dict(zip(series.x, series.y, strict=True)) for series in chart.series]
    shown = [place if chart.x.scale != "names" else _name(chart.x.names, place) for place in places]
    return head, [(name, *(values.get(place) for values in found)) for name, place in zip(shown, places, strict=True)]


def thinned(values: Sequence[float | None], most: int) -> list[int]:
    """Which of the values a line of at most so many points needs: both ends, and of each stretch its lowest and its highest, so no peak is lost."""
    known = [place for place, value in enumerate(values) if value is not None]
    if len(known) <= most:
        return known
    inner, stretches = known[1:-1], max((most - 2) // 2, 1)
    kept = {known[0], known[-1]}
    for number in range(stretches):
        part = inner[number * len(inner) // stretches : (number + 1) * len(inner) // stretches]
        if part:
            kept |= {min(part, key=lambda place: values[place] or 0.0), max(part, key=lambda place: values[place] or 0.0)}
    return sorted(kept)


def _name(names: Sequence[str], place: float | None) -> str:
    return names[int(place)] if place is not None and 0 <= int(place) < len(names) else ""


def _interval(series: Series, number: int, values: Sequence[float | None]) -> tuple[float | None, float | None, float | None]:
    return values[number], series.low[number] if series.low else None, series.high[number] if series.high else None
