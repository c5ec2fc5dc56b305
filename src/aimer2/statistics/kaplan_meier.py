"""Survival over time by Kaplan and Meier, with Greenwood's bands, medians and the number of patients at risk.

``Surv(time, event) ~ group``, or ``~ 1`` for all together. Times are those of `aimer2.statistics.over_time`; with edges at every time that can be
told (each day, each month) the curve is the exact one.

Papers: E. L. Kaplan, P. Meier, JASA 53 (1958); M. Greenwood, "The natural duration of cancer" (1926), for the variance; J. D. Kalbfleisch,
R. L. Prentice, "The Statistical Analysis of Failure Time Data" (2002), section 1.4, for the interval on the scale of log(−log S); R. Brookmeyer,
J. Crowley, Biometrics 38 (1982), for that of the median.

Leaves the site: ``size`` = rows and patients; ``count`` = per group how many; ``at_risk`` = per group and interval how many are under observation
just before its end; ``events`` = per kind of event, group and interval how many have it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from aimer2.charts.scale import steps
from aimer2.core.study import Feature
from aimer2.core.table import Cell, Table, number
from aimer2.statistics.at_risk import most_at_risk
from aimer2.statistics.comparison import facts
from aimer2.statistics.over_time import AbstractOverTime
from aimer2.statistics.significance import quantile
from aimer2.statistics.statistic import Values

Floats = NDArray[np.float64]


@final
@dataclass(frozen=True, slots=True)
class Survival:
    """A curve at its times, all ``(T,)``: constant from each time up to the next."""

    times: Floats
    values: Floats
    errors: Floats
    low: Floats
    high: Floats

    def reached(self, curve: Floats, share: float) -> float | None:
        """The first time at which a curve has come down to the share; None where it never does. Half-way along a step that lies on it, as in R."""
        place = np.flatnonzero(curve <= share + 1e-12)
        if not len(place):
            return None
        first = place[0]
        later = np.flatnonzero(curve < share - 1e-12)
        if abs(curve[first] - share) <= 1e-12 and len(later):
            return float((self.times[first] + self.times[later[0]]) / 2)
        return float(self.times[first])


def kaplan_meier(times: Floats, at_risk: Floats, events: Floats, level: float = 0.95) -> Survival:
    """S = Π (1 − d/n), variance S² Σ d/(n(n − d)); the interval is symmetric about log(−log S). Where nobody is left it ends in 0."""
    n = np.maximum(at_risk, 1)
    values = np.asarray(np.cumprod(1 - events / n), np.float64)
    left = np.maximum(n - events, np.finfo(np.float64).tiny)
    greenwood = np.cumsum(np.where(events < n, events / (n * left), 0.0))
    errors = values * np.sqrt(greenwood)
    inner = (values > 0) & (values < 1)
    logarithm = np.log(np.where(inner, values, 0.5))
    reach = np.exp(quantile(level) * np.sqrt(greenwood) / -logarithm)
    low, high = (np.where(inner, np.exp(logarithm * one), values) for one in (reach, 1 / reach))
    return Survival(times, values, errors, low, high)


@final
@dataclass(frozen=True, kw_only=True)
class KaplanMeier(AbstractOverTime):
    """The options are those of every question over time."""

    def answer(self, name: str, values: Values) -> Sequence[Table]:
        times, events = np.array(self.edges), values["events"][0]
        most = most_at_risk(values["count"], values["at_risk"], events)
        curves: list[tuple[Cell, ...]] = []
        summary: list[tuple[Cell, ...]] = []
        for code, level in enumerate(self.levels):
            n, d = values["at_risk"][code], events[code]
            found = kaplan_meier(times, n, d, self.level)
            upper = kaplan_meier(times, most[code], d).values
            curves += self._lines(level, found, upper, n, d)
            medians = (found.reached(curve, 0.5) for curve in (found.values, found.low, found.high))
            summary.append((level, round(values["count"][code]), round(d.sum()), *medians))
        told = {**facts(values["size"]), "level": self.level}
        at_risk = tuple(row for code, level in enumerate(self.levels) for row in self._at_risk(level, code, values))
        columns = ("group", "time", "at_risk", "events", "survival", "standard_error", "low", "high", "at_least", "at_most")
        note = "At least and at most: where the estimate from the exact times lies; equal where every time is an edge."
        return [
            Table(
                analysis=name,
                method=self.name,
                title="Medians",
                columns=("group", "rows", "events", "median", "low", "high"),
                rows=tuple(summary),
                facts=told,
            ),
            Table(analysis=name, method=self.name, title="Survival", columns=columns, rows=tuple(curves), facts=told, notes=(note,)),
            Table(analysis=name, method=self.name, title="At risk", columns=("group", "time", "at_risk", "events"), rows=at_risk, facts=told),
        ]

    def _at_risk(self, level: str, code: int, values: Values) -> Iterator[tuple[Cell, ...]]:
        """At about five round times how many are still at risk, and how many have had the event before."""
        yield level, 0.0, round(values["count"][code]), 0
        places = np.searchsorted(self.edges, steps(0.0, self.edges[-1])[1:])
        for place in np.unique(places[places < len(self.edges)]):
            before = values["events"][0, code, :place].sum()
            yield level, float(self.edges[place]), round(values["at_risk"][code, place]), round(before)

    def _lines(self, level: str, found: Survival, upper: Floats, n: Floats, d: Floats) -> Iterator[tuple[Cell, ...]]:
        """At times with events, and the last."""
        for place in np.flatnonzero((d > 0) | (np.arange(len(d)) == len(d) - 1)):
            figures = (found.values[place], found.errors[place], found.low[place], found.high[place], found.values[place], upper[place])
            yield (level, float(found.times[place]), round(n[place]), round(d[place]), *(number(float(one)) for one in figures))


EXAMPLE = KaplanMeier(
    formula="Surv(t, y) ~ g",
    features=(Feature(name="t"), Feature(name="y"), Feature(name="g", kind="category", categories=("a", "b"))),
    edges=(2.0, 4.0, 8.0),
)
