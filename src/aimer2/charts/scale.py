"""Where a value stands on paper, and which values an axis names."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, final

from aimer2.charts.chart import Axis, Chart, Series

_TICKS = 5


def steps(low: float, high: float, count: int = _TICKS) -> tuple[float, ...]:
    """About ``count`` round numbers (1, 2, 2.5 or 5 times a power of ten apart) from ``low`` to ``high``."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return tuple(round(number * step, 12 - math.floor(math.log10(step))) for number in range(first, last + 1))


def powers(low: float, high: float) -> tuple[float, ...]:
    """Ticks of a logarithmic axis: powers of ten, or between them also 2 and 5; round numbers where that gives too few."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    apart = max(1, -(-len(decades) // 8))
    for factors, every in (((1,), apart), ((1, 2, 5), 1)):
        found = tuple(factor * 10.0**one for one in decades if one % every == 0 for factor in factors if low <= factor * 10.0**one <= high)
        if len(found) >= 3:
            return found
    return tuple(one for one in steps(low, high) if one > 0)


def written(value: float) -> str:
    """A tick as text."""
    return f"{value:g}".replace("-", "−") if abs(value) < 1e6 else f"{value:.4g}".replace("-", "−")


@final
@dataclass(frozen=True, slots=True)
class Scale:
    """From values between ``low`` and ``high`` to places between ``start`` and ``end``."""

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[tuple[float, str], ...]
    is_log: bool = False

    def at(self, value: float | None) -> float | None:
        """None for no value, and for one that a logarithm lacks."""
        if value is None or (self.is_log and value <= 0):
            return None
        low, high, one = (math.log(part) if self.is_log else part for part in (self.low, self.high, value))
        return self.start + (one - low) / (high - low) * (self.end - self.start)

    def inside(self, value: float | None) -> float | None:
        """As `at`; what lies beyond an end stands at it."""
        place = self.at(value)
        low, high = sorted((self.start, self.end))
        return None if place is None else min(max(place, low), high)


def scale(chart: Chart, which: Literal["x", "y"], start: float, end: float) -> Scale:
    """Of an axis of the chart, from the values of its marks."""
    axis = chart.x if which == "x" else chart.y
    if axis.scale == "names":
        ends = (len(axis.names) - 0.5, -0.5) if which == "y" else (-0.5, len(axis.names) - 0.5)
        return Scale(*ends, start, end, tuple((float(place), name) for place, name in enumerate(axis.names)))
    low, high = _reach(axis, [*_values(chart.series, which), *(rule.at for rule in chart.rules if rule.axis == which)])
    ticks = powers(low, high) if axis.scale == "log" else steps(low, high)
    return Scale(low, high, start, end, tuple((one, written(one)) for one in ticks), axis.scale == "log")


def _reach(axis: Axis, values: Iterable[float]) -> tuple[float, float]:
    known = [one for one in (*values, axis.low, axis.high) if one is not None and (axis.scale != "log" or one > 0)]
    low, high = min(known, default=1.0 if axis.scale == "log" else 0.0), max(known, default=1.0)
    if axis.scale == "log":
        wide = max(math.log(high / low), 0.1) * 0.04
        return low * math.exp(-wide), high * math.exp(wide)
    wide = (high - low) * 0.04 if high > low else max(abs(high), 1.0) * 0.5
    # an end that the axis states has no margin
    return low - (0.0 if axis.low is not None and low >= axis.low else wide), high + (0.0 if axis.high is not None and high <= axis.high else wide)


def _values(series: Iterable[Series], which: Literal["x", "y"]) -> Iterator[float]:
    for one in series:
        spread = (*one.low, *one.high) if (one.mark == "intervals") == (which == "x") else ()
        parts = (*one.x, *one.to, *spread) if which == "x" else (*one.y, *spread)
        yield from (value for value in parts if value is not None)
        if one.mark == "bars" and which == "y":
            yield 0.0
        if one.mark == "bars" and which == "x" and not one.to:
            known = [value for value in one.x if value is not None]
            yield from (end for value in known for end in (value - 0.5, value + 0.5))
