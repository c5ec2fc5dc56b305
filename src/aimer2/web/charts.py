"""Charts as SVG, drawn at the server: lines, steps, bars, estimates with intervals.

A chart has a title, a description for whoever cannot see it, and the same numbers as a table (`templates/charts.html` puts them together).
Colours and dashes are classes of the style sheet, so a chart follows light and dark; a series differs from its neighbour by more than colour.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias, final

from markupsafe import Markup

from aimer2.web.scales import Point, Scale, linear, logarithmic, thinned

WIDTH = 640
_HEIGHT = 280
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 22, 14, 44
_ROW = 30
_MOST_POINTS = 300
"""Of a line: a screen has no room for more."""
_LABEL = 190
_SERIES = 6


@final
@dataclass(frozen=True, slots=True)
class Series:
    """``band``: (x, low, high) of the interval around it."""

    name: str
    points: Sequence[Point]
    band: Sequence[tuple[float, float, float]] = ()


@final
@dataclass(frozen=True, slots=True)
class Lines:
    """``steps``: a value holds until the next (survival, a budget). ``zero``: the axis begins at nought."""

    title: str
    description: str
    x: str
    y: str
    series: Sequence[Series]
    steps: bool = False
    zero: bool = False

    @property
    def head(self) -> Sequence[str]:
        return (self.x, *(series.name for series in self.series))

    @property
    def rows(self) -> Sequence[Sequence[float | str | None]]:
        by_place: dict[float, dict[int, float]] = {}
        for number, series in enumerate(self.series):
            for x, y in series.points:
                by_place.setdefault(x, {})[number] = y
        return [(x, *(found.get(number) for number in range(len(self.series)))) for x, found in sorted(by_place.items())]


@final
@dataclass(frozen=True, slots=True)
class Bars:
    """``limit``: a line that bars should stay below."""

    title: str
    description: str
    x: str
    bars: Sequence[tuple[str, float]]
    limit: float | None = None

    @property
    def head(self) -> Sequence[str]:
        return "", self.x

    @property
    def rows(self) -> Sequence[Sequence[float | str | None]]:
        return [tuple(bar) for bar in self.bars]


@final
@dataclass(frozen=True, slots=True)
class Estimate:
    name: str
    value: float
    low: float
    high: float


@final
@dataclass(frozen=True, slots=True)
class Forest:
    """Estimates with their intervals, one below the other. ``reference``: no effect (1 for ratios). ``ratio``: a logarithmic axis."""

    title: str
    description: str
    x: str
    estimates: Sequence[Estimate]
    reference: float | None = None
    ratio: bool = False

    @property
    def head(self) -> Sequence[str]:
        return "", self.x, "2.5 %", "97.5 %"

    @property
    def rows(self) -> Sequence[Sequence[float | str | None]]:
        return [(one.name, one.value, one.low, one.high) for one in self.estimates]


Chart: TypeAlias = Lines | Bars | Forest


def draw(chart: Chart) -> Markup:
    """The picture alone, with its title and description inside."""
    match chart:
        case Lines():
            height, parts = _HEIGHT, list(_lines(chart))
        case Bars():
            height, parts = _TOP + _ROW * len(chart.bars) + _BOTTOM, list(_bars(chart))
        case Forest():
            height, parts = _TOP + _ROW * len(chart.estimates) + _BOTTOM, list(_forest(chart))
    frame = '<svg xmlns="http://www.w3.org/2000/svg" class="plot" viewBox="0 0 {} {}" role="img" aria-label="{}. {}">{}</svg>'
    return Markup(frame).format(WIDTH, height, chart.title, chart.description, Markup("").join(parts))


def tick(value: float) -> str:
    """A number at an axis, as short as it can be said."""
    if value == 0:
        return "0"
    return f"{value:.4g}" if 1e-3 <= abs(value) < 1e5 else f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e")


def _lines(chart: Lines) -> Iterator[Markup]:
    x = linear((x for one in chart.series for x, _ in one.points), _LEFT, WIDTH - _RIGHT, marks=7, whole=True)
    values = [y for one in chart.series for _, y in one.points] + [edge for one in chart.series for _, low, high in one.band for edge in (low, high)]
    y = linear(values, _HEIGHT - _BOTTOM, _TOP, zero=chart.zero)
    yield from _grid(x, y, chart.x, chart.y)
    for place, series in enumerate(chart.series):
        known = [point for point in series.points if math.isfinite(point[1])]
        if series.band:
            yield _band(series, x, y, place)
        points = thinned(known, _MOST_POINTS)
        path = _path([(x(a), y(b)) for a, b in points], steps=chart.steps)
        yield Markup('<path class="line s{}" d="{}"/>').format(place % _SERIES, path)
        if len(points) <= 1 or (len(points) <= 30 and not chart.steps):
            yield from (Markup('<circle class="dot s{}" cx="{:.1f}" cy="{:.1f}" r="2.6"/>').format(place % _SERIES, x(a), y(b)) for a, b in points)


def _band(series: Series, x: Scale, y: Scale, place: int) -> Markup:
    band = [edge for edge in series.band if all(map(math.isfinite, edge))]
    step = max(1, len(band) // _MOST_POINTS)
    edges = [*band[::step], *([band[-1]] if len(band) % step else [])]
    upper = [(x(a), y(high)) for a, _, high in edges]
    lower = [(x(a), y(low)) for a, low, _ in reversed(edges)]
    return Markup('<path class="band s{}" d="{}Z"/>').format(place % _SERIES, _path([*upper, *lower]))


def _path(points: Sequence[Point], *, steps: bool = False) -> str:
    if not points:
        return ""
    pieces = [f"M{points[0][0]:.1f} {points[0][1]:.1f}"]
    for a, b in points[1:]:
        pieces.append(f"H{a:.1f}V{b:.1f}" if steps else f"L{a:.1f} {b:.1f}")
    return "".join(pieces)


def _grid(x: Scale, y: Scale, x_name: str, y_name: str) -> Iterator[Markup]:
    for mark in y.marks:
        yield Markup('<path class="grid" d="M{} {:.1f}H{}"/><text class="tick" x="{}" y="{:.1f}" text-anchor="end" dy=".32em">{}</text>').format(
            _LEFT, y(mark), WIDTH - _RIGHT, _LEFT - 8, y(mark), tick(mark)
        )
    for mark in x.marks:
        yield Markup('<text class="tick" x="{:.1f}" y="{}" text-anchor="middle">{}</text>').format(x(mark), _HEIGHT - _BOTTOM + 18, tick(mark))
    yield Markup('<path class="axis" d="M{} {}H{}"/>').format(_LEFT, _HEIGHT - _BOTTOM, WIDTH - _RIGHT)
    yield Markup('<text class="name" x="{:.1f}" y="{}" text-anchor="middle">{}</text>').format((_LEFT + WIDTH - _RIGHT) / 2, _HEIGHT - 6, x_name)
    middle = (_TOP + _HEIGHT - _BOTTOM) / 2
    yield Markup('<text class="name" transform="translate(12 {:.1f}) rotate(-90)" text-anchor="middle">{}</text>').format(middle, y_name)


def _across(scale: Scale, bottom: float, name: str) -> Iterator[Markup]:
    """The axis below bars and estimates, with lines upwards."""
    for mark in scale.marks:
        yield Markup('<path class="grid" d="M{:.1f} {}V{}"/>').format(scale(mark), _TOP, bottom)
        yield Markup('<text class="tick" x="{:.1f}" y="{}" text-anchor="middle">{}</text>').format(scale(mark), bottom + 18, tick(mark))
    yield Markup('<text class="name" x="{:.1f}" y="{}" text-anchor="middle">{}</text>').format((scale.start + scale.stop) / 2, bottom + 38, name)


def _bars(chart: Bars) -> Iterator[Markup]:
    bottom = _TOP + _ROW * len(chart.bars)
    limits = [] if chart.limit is None else [chart.limit]
    scale = linear([value for _, value in chart.bars] + limits, _LABEL, WIDTH - _RIGHT - 30, zero=True)
    yield from _across(scale, bottom, chart.x)
    for place, (name, value) in enumerate(chart.bars):
        middle = _TOP + _ROW * (place + 0.5)
        left, right = sorted((scale(0), scale(value)))
        over = chart.limit is not None and value > chart.limit
        yield _named(name, middle)
        yield Markup('<rect class="bar{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{}"/>').format(
            " over" if over else "", left, middle - 8, max(right - left, 0.5), 16
        )
        yield Markup('<text class="value" x="{:.1f}" y="{:.1f}" dy=".32em">{}</text>').format(right + 6, middle, tick(value))
    if chart.limit is not None:
        yield Markup('<path class="limit" d="M{:.1f} {}V{}"/>').format(scale(chart.limit), _TOP, bottom)


def _forest(chart: Forest) -> Iterator[Markup]:
    bottom = _TOP + _ROW * len(chart.estimates)
    edges = [edge for one in chart.estimates for edge in (one.value, one.low, one.high) if math.isfinite(edge)]
    edges += [] if chart.reference is None else [chart.reference]
    make = logarithmic if chart.ratio and min(edges, default=0) > 0 else linear
    scale = make(edges, _LABEL, WIDTH - _RIGHT - 10)
    yield from _across(scale, bottom, chart.x)
    if chart.reference is not None:
        yield Markup('<path class="limit" d="M{:.1f} {}V{}"/>').format(scale(chart.reference), _TOP, bottom)
    for place, one in enumerate(chart.estimates):
        middle = _TOP + _ROW * (place + 0.5)
        yield _named(one.name, middle)
        if all(map(math.isfinite, (one.low, one.high))):
            yield Markup('<path class="whisker" d="M{:.1f} {:.1f}H{:.1f}"/>').format(scale(one.low), middle, scale(one.high))
        if math.isfinite(one.value):
            yield Markup('<rect class="estimate" x="{:.1f}" y="{:.1f}" width="9" height="9"/>').format(scale(one.value) - 4.5, middle - 4.5)


def _named(name: str, middle: float) -> Markup:
    shown = name if len(name) <= 28 else f"{name[:27]}…"
    return Markup('<text class="label" x="{}" y="{:.1f}" text-anchor="end" dy=".32em">{}</text>').format(_LABEL - 10, middle, shown)
