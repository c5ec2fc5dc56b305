"""Cumulative incidence of competing events: the share that had each kind of event first, by each time.

``Surv(time, event) ~ group``, or ``~ 1`` for all together. The event is a category whose first is none (lost), or 0 and 1.
Times are those of `aimer2.statistics.over_time`.

Papers: O. Aalen, S. Johansen, Scandinavian J. Statistics 5 (1978), variance by the delta method as in E. Marubini, M. G. Valsecchi, "Analysing
Survival Data from Clinical Trials" (1995), equation 10.12.

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
from aimer2.statistics.nelson_aalen import Curve
from aimer2.statistics.over_time import AbstractOverTime
from aimer2.statistics.significance import quantile
from aimer2.statistics.statistic import Values

Floats = NDArray[np.float64]


def aalen_johansen(times: Floats, at_risk: Floats, events: Floats, level: float = 0.95) -> list[Curve]:
    """The share that had each kind of event first by each time; ``events`` is ``(K, T)``, one row per kind. Interval on the log(−log) scale."""
    n = np.maximum(at_risk, 1)
    every = events.sum(axis=0)
    survival = np.cumprod(1 - every / n)
    before = np.concatenate(([1.0], survival[:-1]))
    curves = []
    for kind in events:
        values = np.cumsum(before * kind / n)
        errors = np.sqrt(np.maximum(_incidence_variance(values, before, n, every, kind), 0.0))
        low, high = _log_log(values, errors, level)
        curves.append(Curve(times, values, errors, low, high))
    return curves


def _incidence_variance(values: Floats, before: Floats, n: Floats, every: Floats, kind: Floats) -> Floats:
    """Σ over times s up to t of (F(t) − F(s))² d/(n(n − d)) + S² k(n − k)/n³ − 2(F(t) − F(s)) S k/n²; the square multiplied out, so that one pass
    over the times does all t."""
    # Where all at risk have the event, survival is 0 afterwards and F no longer moves, so the factor (F(t) − F(s))² is 0.
    hazard = np.where(n > every, every / (n * np.maximum(n - every, 1)), 0.0)
    mixed = before * kind / n**2
    own = before**2 * kind * (n - kind) / n**3
    return np.asarray(
        values**2 * np.cumsum(hazard)
        - 2 * values * np.cumsum(hazard * values)
        + np.cumsum(hazard * values**2)
        + np.cumsum(own)
        - 2 * (values * np.cumsum(mixed) - np.cumsum(mixed * values))
    )


def _log_log(values: Floats, errors: Floats, level: float) -> tuple[Floats, Floats]:
    """F^exp(±z·se/(F ln F)); where F is 0 or 1 the interval is the point."""
    inside = (values > 0) & (values < 1)
    safe = np.where(inside, values, 0.5)
    power = np.exp(quantile(level) * errors / (safe * -np.log(safe)))
    return np.where(inside, safe**power, values), np.where(inside, safe ** (1 / power), values)


def possible(at_risk: Floats, most: Floats, events: Floats) -> list[tuple[Floats, Floats]]:
    """Per kind of event where the curve of the exact times can lie, ``(T,)`` each.

    An event adds S(t−)/n(t), which those lost before it in its interval raise. At the start of an interval it is S over ``most``; the last of d
    events, after all losses, has that times (most − d + 1)/(at_risk − d + 1).
    """
    every = events.sum(axis=0)
    low, high = (np.concatenate(([1.0], np.cumprod(1 - every / np.maximum(n, 1))[:-1])) for n in (at_risk, most))
    raised = np.maximum(most - every + 1, 1) / np.maximum(at_risk - every + 1, 1)
    least, greatest = low / np.maximum(most, 1), high / np.maximum(most, 1) * raised
    return [(np.cumsum(kind * least), np.minimum(np.cumsum(kind * greatest), 1.0)) for kind in events]


@final
@dataclass(frozen=True, kw_only=True)
class AalenJohansen(AbstractOverTime):
    """The options are those of every question over time."""

    @property
    def kinds(self) -> tuple[str, ...]:
        return self.categories_of(self.outcome)[1:] or ("1",)

    def answer(self, name: str, values: Values) -> Sequence[Table]:
        lines: list[tuple[Cell, ...]] = []
        most = most_at_risk(values["count"], values["at_risk"], values["events"].sum(axis=0))
        for code, level in enumerate(self.levels):
            n, events = values["at_risk"][code], values["events"][:, code]
            curves = aalen_johansen(np.array(self.edges), n, events, self.level)
            for kind, curve, reach, d in zip(self.kinds, curves, possible(n, most[code], events), events, strict=True):
                shown = np.stack([*curve.shown, *reach], axis=1)
                lines += [(level, kind, time, round(n[at]), round(d[at]), *(number(one) for one in shown[at])) for at, time in enumerate(self.edges)]
        columns = ("group", "event", "time", "at_risk", "events", "incidence", "standard_error", "low", "high", "at_least", "at_most")
        return [
            Table(
                analysis=name,
                method=self.name,
                title="Cumulative incidence",
                columns=columns,
                rows=tuple(lines),
                facts={**facts(values["size"]), "level": self.level},
                notes=("At least and at most: where the estimate from the exact times lies.",),
            )
        ]


EXAMPLE = AalenJohansen(
    formula="Surv(t, y) ~ g",
    features=(
        Feature(name="t"),
        Feature(name="y", kind="category", categories=("none", "relapse", "death")),
        Feature(name="g", kind="category", categories=("a", "b")),
    ),
    edges=(2.0, 4.0, 8.0),
)
