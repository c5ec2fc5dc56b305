"""From numbers to places on a chart: ranges that end on round numbers, and the marks between."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias, final

Point: TypeAlias = tuple[float, float]

_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)


@final
@dataclass(frozen=True, slots=True)
class Scale:
    """A range of values drawn from pixel ``start`` to pixel ``stop``; ``marks``: where its axis says a number."""

    low: float
    high: float
    start: float
    stop: float
    marks: Sequence[float]
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        low, high = self.low, self.high
        if self.logarithmic:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return self.start + (value - low) / (high - low) * (self.stop - self.start)


def linear(values: Iterable[float], start: float, stop: float, *, marks: int = 5, zero: bool = False, whole: bool = False) -> Scale:
    """Over all values. ``zero``: it begins at nought. ``whole``: marks at whole numbers only, and the range is that of the values."""
    known = [value for value in values if math.isfinite(value)] + ([0.0] if zero else [])
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    if low == high:
        low, high = (low - 0.5, high + 0.5) if not zero else (low, high + 1)
    step = _step((high - low) / marks, whole=whole)
    if whole:
        first = math.ceil(low / step) * step
    else:
        # a hair's breadth beyond a mark is still at it
        low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
        first = low
    count = round((high - first) / step - 0.5 + 1e-9) if whole else round((high - first) / step)
    return Scale(low, high, start, stop, [round(first + place * step, 12) for place in range(count + 1)])


def logarithmic(values: Iterable[float], start: float, stop: float) -> Scale:
    """Over all positive values; marks at 1, 2, 5 and their tenfolds, closer where the range is narrow."""
    known = [value for value in values if value > 0 and math.isfinite(value)] or [1.0]
    low, high = min(known) / 1.1, max(known) * 1.1
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    digits = (1, 2, 5) if high / low > 10 else (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9)
    marks = [digit * 10.0**power for power in range(first, last + 1) for digit in digits]
    within = [mark for mark in marks if low <= mark <= high]
    return Scale(low, high, start, stop, within or [round(low * 1.1, 6)], logarithmic=True)


def thinned(points: Sequence[Point], most: int) -> Sequence[Point]:
    """At most so many points in the same order: of each stretch its lowest and its highest, so that no peak is lost, and both ends."""
    if len(points) <= most or most < 4:
        return points
    stretches = (most - 2) // 2
    inner = points[1:-1]
    kept = [points[0]]
    for place in range(stretches):
        part = inner[place * len(inner) // stretches : (place + 1) * len(inner) // stretches]
        if part:
            ends = {part.index(extreme(part, key=lambda point: point[1])) for extreme in (min, max)}
            kept += [part[index] for index in sorted(ends)]
    return [*kept, points[-1]]


def _step(rough: float, *, whole: bool) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in _STEPS if power * factor >= rough * (1 - 1e-9))
    if whole:
        return float(max(1, 5 * round(power) // 2 * 2 if step == 2.5 * power else round(step)))
    return step
