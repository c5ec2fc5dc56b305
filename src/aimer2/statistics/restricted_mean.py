"""The time lived without an event on average, up to a horizon, in each group and compared.

``Surv(time, event) ~ group``, or ``~ 1`` for all together; the horizon is the last of ``edges``. Times are those of `aimer2.statistics.over_time`.

Papers: J. P. Klein, M. L. Moeschberger, "Survival Analysis" (2003), section 4.5; P. Royston, M. K. B. Parmar, "Restricted mean survival time: an
alternative to the hazard ratio for the design and analysis of randomized trials with a time-to-event outcome", BMC Medical Research Methodology 13
(2013).

Leaves the site: ``size`` = rows and patients; ``count`` = per group how many; ``at_risk`` = per group and interval how many are under observation
just before its end; ``events`` = per kind of event, group and interval how many have it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from aimer2.core.errors import BadInput
from aimer2.core.said import say
from aimer2.core.study import Feature
from aimer2.core.table import Cell, Table, number
from aimer2.statistics.at_risk import most_at_risk
from aimer2.statistics.comparison import EFFECT, effect_cells, facts
from aimer2.statistics.over_time import AbstractOverTime
from aimer2.statistics.significance import Effect, ratio, standardised, symmetric
from aimer2.statistics.statistic import Values

Floats = NDArray[np.float64]


@final
@dataclass(frozen=True, slots=True)
class MeanTime:
    """Time lived without the event on average up to ``horizon``, and time lost to it."""

    horizon: float
    lived: Effect
    lost: Effect


def restricted_mean(times: Floats, at_risk: Floats, events: Floats, horizon: float, level: float = 0.95) -> MeanTime:
    """The area under the Kaplan-Meier curve up to the horizon; variance Σ A(t)² d/(n(n − d)) with A(t) the area after t.

    Raises BadInput where nobody is under observation up to the horizon, unless all have had the event before.
    """
    if horizon <= 0:
        raise BadInput("The horizon of a restricted mean is above 0.")
    n = np.maximum(at_risk, 1)
    survival = np.cumprod(1 - events / n)
    if (survival.size == 0 or survival[-1] > 0) and (times.size == 0 or times[-1] < horizon):
        raise BadInput(say("Nobody is under observation up to the horizon {horizon}. Choose one that follow-up reaches.", horizon=f"{horizon:g}"))
    inside = times < horizon
    times, n, events, survival = times[inside], n[inside], events[inside], survival[inside]
    widths = np.diff(np.concatenate(([0.0], times, [horizon])))
    areas = np.concatenate(([1.0], survival)) * widths
    after = areas.sum() - np.cumsum(areas)[:-1]
    # Where all at risk have the event, the area after is 0.
    variance = float((after**2 * np.where(n > events, events / (n * np.maximum(n - events, 1)), 0.0)).sum())
    lived = float(areas.sum())
    error = math.sqrt(variance)
    return MeanTime(horizon, symmetric(lived, error, level), symmetric(horizon - lived, error, level))


@final
@dataclass(frozen=True, slots=True)
class MeansCompared:
    """Of two groups at one horizon: the difference of the times lived, their ratio, and the ratio of the times lost."""

    difference: Effect
    lived_ratio: Effect
    lost_ratio: Effect


def compare_means(first: MeanTime, second: MeanTime, level: float = 0.95) -> MeansCompared:
    """First against second. Raises BadInput where the horizons differ or a group lost no time."""
    if first.horizon != second.horizon:
        raise BadInput("Restricted means are compared at one horizon.")
    if min(first.lost.estimate, second.lost.estimate, first.lived.estimate, second.lived.estimate) <= 0:
        raise BadInput("In one group nobody had the event before the horizon, so no ratio can be told.")
    difference = symmetric(first.lived.estimate - second.lived.estimate, math.hypot(first.lived.error, second.lived.error), level)
    return MeansCompared(difference, _ratio(first.lived, second.lived, level), _ratio(first.lost, second.lost, level))


def _ratio(first: Effect, second: Effect, level: float) -> Effect:
    error = math.hypot(first.error / first.estimate, second.error / second.estimate)
    return ratio(math.log(first.estimate / second.estimate), error, level)


def possible(times: Floats, at_risk: Floats, most: Floats, events: Floats) -> tuple[float, float]:
    """Where the mean of the exact times can lie: all events at the start of their interval after all losses, or at its end before them."""
    widths = np.diff(np.concatenate(([0.0], times)))
    low, high = (np.cumprod(1 - events / np.maximum(n, 1)) for n in (at_risk, most))
    return float(low @ widths), float(np.concatenate(([1.0], high[:-1])) @ widths)


@final
@dataclass(frozen=True, kw_only=True)
class RestrictedMean(AbstractOverTime):
    """The options are those of every question over time; the last of ``edges`` is the horizon."""

    def answer(self, name: str, values: Values) -> Sequence[Table]:
        times, events = np.array(self.edges), values["events"][0]
        most = most_at_risk(values["count"], values["at_risk"], events)
        found = [restricted_mean(times, n, d, self.edges[-1], self.level) for n, d in zip(values["at_risk"], events, strict=True)]
        lines = []
        for code, (level, one) in enumerate(zip(self.levels, found, strict=True)):
            reach = possible(times, values["at_risk"][code], most[code], events[code])
            lines.append((level, round(values["count"][code]), *effect_cells(one.lived), *reach))
        lived = Table(
            analysis=name,
            method=self.name,
            title="Time lived",
            columns=("group", "count", *EFFECT, "at_least", "at_most"),
            rows=tuple(lines),
            facts={**facts(values["size"]), "horizon": self.edges[-1], "level": self.level},
            notes=("At least and at most: where the estimate from the exact times lies.",),
        )
        return [lived, *(self._compared(name, found[0], one, level) for one, level in zip(found[1:], self.levels[1:], strict=True))]

    def _compared(self, name: str, reference: MeanTime, other: MeanTime, level: str) -> Table:
        between = compare_means(other, reference, self.level)
        lines: list[tuple[Cell, ...]] = []
        for term, effect in (
            ("difference", between.difference),
            ("ratio of time lived", between.lived_ratio),
            ("ratio of time lost", between.lost_ratio),
        ):
            distance = effect.estimate if term == "difference" else math.log(effect.estimate)
            lines.append((term, *effect_cells(effect), number(standardised(distance / effect.error).p)))
        return Table(
            analysis=name,
            method=self.name,
            title=f"{level} against {self.levels[0]}",
            columns=("term", *EFFECT, "p"),
            rows=tuple(lines),
            notes=("The standard errors of ratios are those of their logarithms.",),
        )


EXAMPLE = RestrictedMean(
    formula="Surv(t, y) ~ g",
    features=(Feature(name="t"), Feature(name="y"), Feature(name="g", kind="category", categories=("a", "b"))),
    edges=(2.0, 4.0),
)
