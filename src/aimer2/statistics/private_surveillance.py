"""Cases by week under differential privacy, with intervals that hold the noise, and weeks with more than expected.

``~ week + strata(region)``: a row is a case, its week a whole number between the column's `minimum` and `maximum`; of a patient with several the
first counts, and a case outside these weeks counts nowhere. All counts have Gaussian noise, in one round. ``detector`` as in `surveillance`; it
knows how large the noise is, so that noise by itself makes no more alarms than a detector makes anyway.

Papers: C. Dwork, A. Roth, "The Algorithmic Foundations of Differential Privacy" (2014), theorem A.1, for the noise; those of
`aimer2.statistics.aberration` for what it is judged by.

Leaves the site: ``parts`` = with noise, per stratum and week how many cases; ``sites`` = 1 where there is any row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from aimer2.core.dataset import Frame
from aimer2.core.study import Feature
from aimer2.core.table import Cell, Table
from aimer2.statistics.design import groups
from aimer2.statistics.private import NOISY, AbstractPrivate, Floats
from aimer2.statistics.significance import symmetric
from aimer2.statistics.statistic import Values
from aimer2.statistics.weeks import AbstractWeeks


@final
@dataclass(frozen=True, kw_only=True)
class PrivateSurveillance(AbstractPrivate, AbstractWeeks):
    """Its options are those of the detector, and the ``level`` of the intervals."""

    def faults(self) -> Iterator[str]:
        yield from super().faults()
        if self.parsed.response:
            yield "private_surveillance knows no reporting delay: ask ~ week"

    @property
    def releases(self) -> int:
        return 1

    @property
    def reach(self) -> float:
        """One patient is one case, in one week."""
        return 1.0

    def parts(self, values: Values, rows: Frame) -> Floats:
        made = np.zeros((len(rows), len(self.strata), self.weeks))
        columns = self.parsed.columns
        week = rows.columns[self.parsed.terms[0][0].name]
        low, high = self.span
        there = np.logical_and.reduce([~np.isnan(rows.columns[name]) for name in columns]) & (week >= low) & (week < high + 1)
        counted = rows.at(there)
        stratum, _ = groups(self.parsed.strata, self.features, counted)
        made[np.flatnonzero(there), stratum, np.floor(week[there]).astype(np.int64) - low] = 1.0
        return made.reshape(len(rows), len(self.strata) * self.weeks)

    def step(self, values: Values, total: Values, round_number: int) -> tuple[Values, bool]:
        return {"sites": total["sites"], "told": total[NOISY] * self.reach}, True

    def tables(self, name: str, values: Values) -> Sequence[Table]:
        noise, rows = self.spread(values), list[tuple[Cell, ...]]()
        for stratum, series in zip(self.strata, values["told"].reshape(len(self.strata), -1), strict=True):
            for week, count, judged in zip(range(self.span[0], self.span[1] + 1), series, self.judged(series, noise), strict=True):
                told = symmetric(float(count), noise, self.level)
                rows.append((stratum, week, told.estimate, told.low, told.high, *judged))
        columns = ("stratum", "week", "cases", "low", "high", "expected", "statistic", "limit", "alarm")
        facts: dict[str, Cell] = {
            "sites": int(values["sites"][0]),
            "noise": noise,
            "level": self.level,
            "detector": self.detector.replace("_", " "),
        }
        note = "Noise: the standard deviation of what was added to each count, over all sites. Every interval and every alarm counts it in."
        return [Table(analysis=name, method=self.name, title="Weeks", columns=columns, rows=tuple(rows), facts=facts, notes=(note, *self.notes))]


EXAMPLE = PrivateSurveillance(formula="~ w", features=(Feature(name="w", minimum=1, maximum=30),), detector="ears_c2")
