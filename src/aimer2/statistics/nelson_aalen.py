"""The cumulative hazard of an event over time.

``Surv(time, event) ~ group``, or ``~ 1`` for all together. Times are those of `aimer2.statistics.over_time`.

Papers: W. Nelson, Technometrics 14 (1972), O. Aalen, Annals of Statistics 6 (1978); J. P. Klein, M. L. Moeschberger, "Survival Analysis" (2003),
sections 4.2 and 4.3, for the interval.

Leaves the site: ``size`` = rows and patients; ``count`` = per group how many; ``at_risk`` = per group and interval how many are under observation
just before its end; ``events`` = per kind of event, group and interval how many have it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

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
class Curve:
    """A step function with the ends of its interval at every time, all ``(T,)``: constant from each time up to the next."""

    times: Floats
    values: Floats
    errors: Floats
    low: Floats
    high: Floats

    @property
    def shown(self) -> tuple[Floats, Floats, Floats, Floats]:
        return self.values, self.errors, self.low, self.high


def nelson_aalen(times: Floats, at_risk: Floats, events: Floats, level: float = 0.95) -> Curve:
    """The cumulative hazard Σ d/n, variance Σ d/n², interval symmetric about its logarithm."""
    n = np.maximum(at_risk, 1)
    values, errors = np.cumsum(events / n), np.sqrt(np.cumsum(events / n**2))
    reach = np.exp(quantile(level) * errors / np.where(values > 0, values, 1))
    return Curve(times, values, errors, values / reach, values * reach)


def most_hazard(at_risk: Floats, events: Floats) -> Floats:
    """The hazard if all lost within an interval were lost first and no two events were at one time: Σ 1/n + 1/(n − 1) + …"""
    return np.cumsum([sum(1 / (n - one) for one in range(round(d))) for n, d in zip(at_risk, events, strict=True)])


@final
@dataclass(frozen=True, kw_only=True)
class NelsonAalen(AbstractOverTime):
    """The options are those of every question over time."""

    def answer(self, name: str, values: Values) -> Sequence[Table]:
        lines: list[tuple[Cell, ...]] = []
        times, events = np.array(self.edges), values["events"][0]
        most = most_at_risk(values["count"], values["at_risk"], events)
        for code, level in enumerate(self.levels):
            n, d = values["at_risk"][code], events[code]
            curve = nelson_aalen(times, n, d, self.level)
            shown = np.stack([*curve.shown, nelson_aalen(times, most[code], d).values, most_hazard(n, d)], axis=1)
            lines += [(level, time, round(n[at]), round(d[at]), *(number(one) for one in shown[at])) for at, time in enumerate(self.edges)]
        columns = ("group", "time", "at_risk", "events", "hazard", "standard_error", "low", "high", "at_least", "at_most")
        return [
            Table(
                analysis=name,
                method=self.name,
                title="Cumulative hazard",
                columns=columns,
                rows=tuple(lines),
                facts={**facts(values["size"]), "level": self.level},
                notes=("At least and at most: where the estimate from the exact times lies.",),
            )
        ]


EXAMPLE = NelsonAalen(
    formula="Surv(t, y) ~ g",
    features=(Feature(name="t"), Feature(name="y"), Feature(name="g", kind="category", categories=("a", "b"))),
    edges=(2.0, 4.0, 8.0),
)
